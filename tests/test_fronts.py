"""Front proxies: whom the log names as the client, when one asks for another."""

import pytest
from structlog.testing import capture_logs

from fakes import Upstream, reply
from line import dial, exchange
from relaying import relaying
from service.core.fronts import Fronts
from serving import ASK, JSON

NETWORKS = ["127.0.0.0/8", "10.0.0.0/8", "fd00::/8"]


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("", "127.0.0.1"),
        ("203.0.113.9", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9", "203.0.113.9"),  # what the client wrote itself is not believed
        ("203.0.113.9, 10.1.2.3", "203.0.113.9"),
        ("10.1.1.1, 10.1.2.3", "10.1.1.1"),
        ("2001:db8::1, fd00::7", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("203.0.113.9, nonsense", "127.0.0.1"),
        ("unknown", "127.0.0.1"),
    ],
)
async def test_the_log_names_the_client(forwarded, client):
    """It is the first address from the right that is no trusted proxy."""
    assert Fronts(NETWORKS).client("127.0.0.1", forwarded) == client
    pairs = [("X-Forwarded-For", forwarded)] if forwarded else []
    assert await logged(f"[server]\ntrusted_proxies = {NETWORKS}\n", *pairs) == client


async def test_several_headers_are_one_list():
    """Proxies may add a header of their own in the place of a comma."""
    pairs = [("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-For", "203.0.113.9, 10.1.2.3")]
    assert await logged(f"[server]\ntrusted_proxies = {NETWORKS}\n", *pairs) == "203.0.113.9"


@pytest.mark.parametrize("networks", [[], ["10.0.0.0/8"]])
async def test_a_peer_that_is_not_trusted_is_not_believed(networks):
    """Its own address stands in the log."""
    toml = f"[server]\ntrusted_proxies = {networks}\n"
    assert await logged(toml, ("X-Forwarded-For", "203.0.113.9")) == "127.0.0.1"


async def logged(toml, *pairs):
    """Return the client in the line of a request with these headers; upstream they do not go."""
    with capture_logs() as logs:
        async with (
            Upstream(reply(200, "{}")) as upstream,
            relaying(upstream.url, toml=toml) as relay,
        ):
            await exchange(relay.port, "GET", "/v1/models", *pairs)
    assert upstream.requests[0].get_all("x-forwarded-for") == []
    [line] = [entry for entry in logs if entry["event"] == "request"]
    return line["client"]


async def test_without_keys_an_address_is_a_caller():
    """Open streams are bounded for each client's address, as the trusted front names it."""
    toml = '[server]\ntrusted_proxies = ["127.0.0.0/8"]\n[limits]\nstreams_per_caller = 1\n'
    path, mine = "/v1/chat/completions", ("X-Forwarded-For", "203.0.113.9")
    async with (
        Upstream() as upstream,
        relaying(upstream.url, toml=toml) as relay,
        dial(relay.port) as first,
        dial(relay.port) as second,
    ):
        await first.send("POST", path, JSON, mine, body=ASK)
        await upstream.next()
        answer = await exchange(relay.port, "POST", path, JSON, mine, body=ASK)
        assert (answer.status, answer.error["code"]) == (429, "too_many_streams")
        other = ("X-Forwarded-For", "203.0.113.10")
        await second.send("POST", path, JSON, other, body=ASK)
        await upstream.next()
