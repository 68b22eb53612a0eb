"""`[server] admin`: each instance's own address, where its state is asked for and nothing else."""

import re
import signal
from contextlib import suppress
from dataclasses import dataclass

import pytest

from fakes import Upstream, reply
from line import exchange
from service.core.tables import Rejected, Server
from serving import ASK, JSON, Served, finish, serving, streaming, upstream_toml

OWN = re.compile(r"listening on https?://127\.0\.0\.1:(\d+)/metrics")
STATE = ("/metrics", "/healthz", "/readyz", "/status.json")
OK = reply(200, "{}", content_type="application/json")


def toml(upstream, *lines, admin="127.0.0.1:0"):
    """Return the settings of a relay that has an address of its own."""
    return "\n".join([f'[server]\nadmin = "{admin}"', *lines, "", upstream_toml(upstream)])


async def port_of(relay: Served) -> int:
    """Return the port of the instance's own address."""
    return int((await relay.until(lambda: OWN.search(relay.text)))[1])


async def statuses(port, paths, *pairs):
    """Return what these paths answer."""
    return {path: (await exchange(port, "GET", path, *pairs)).status for path in paths}


async def test_the_state_and_nothing_else(tmp_path):
    """What tells how the instance is, is answered; the rest is 404, and asks no upstream."""
    rest = ("/", "/status", "/status/events", "/v1/models", "/chat?question=Hi", "/streams/x")
    async with Upstream(OK) as upstream, serving(tmp_path, toml(upstream)) as relay:
        own = await port_of(relay)
        assert await statuses(own, STATE) == dict.fromkeys(STATE, 200)
        assert await statuses(own, rest) == dict.fromkeys(rest, 404)
        asked = await exchange(own, "POST", "/v1/chat/completions", JSON, body=ASK)
        assert (asked.status, upstream.requests) == (404, [])
        assert "server.admin" in asked.error["message"]
        assert await statuses(relay.port, STATE) == dict.fromkeys(STATE, 200)
        assert (await exchange(relay.port, "GET", "/v1/models")).status == 200


@pytest.mark.parametrize(("lines", "metrics"), [((), 401), (("metrics_open = true",), 200)])
async def test_keys_hold_there_too(tmp_path, lines, metrics):
    """Without a key only what is open elsewhere; `metrics_open` holds; with a key everything."""
    async with Upstream() as upstream:
        settings = toml(upstream, 'keys = ["a:secret"]', *lines)
        async with serving(tmp_path, settings) as relay:
            own = await port_of(relay)
            wanted = {"/metrics": metrics, "/healthz": 200, "/readyz": 200, "/status.json": 401}
            assert await statuses(own, STATE) == wanted
            key = ("Authorization", "Bearer secret")
            assert await statuses(own, STATE, key) == dict.fromkeys(STATE, 200)


async def test_names_are_checked_there_too(tmp_path):
    """A name that is not the relay's is refused: no web page reads the state."""
    async with Upstream() as upstream, serving(tmp_path, toml(upstream)) as relay:
        foreign = ("Host", "evil.test")
        assert (await exchange(await port_of(relay), "GET", "/metrics", foreign)).status == 421


async def test_any_address(tmp_path):
    """An address that stands for all is recognized by each of them."""
    async with Upstream() as upstream:
        settings = toml(upstream, "open = true", admin="0.0.0.0:0")
        async with serving(tmp_path, settings) as relay:
            found = await relay.until(lambda: re.search(r"0\.0\.0\.0:(\d+)/metrics", relay.text))
            own = int(found[1])
            assert await statuses(own, ["/metrics", "/"]) == {"/metrics": 200, "/": 404}


async def test_it_tells_of_the_drain(tmp_path):
    """While the relay's port is closed already, /readyz says 503 there, /metrics is scraped."""
    async with Upstream() as upstream, serving(tmp_path, toml(upstream, "drain = 60")) as relay:
        own = await port_of(relay)
        async with streaming(relay, upstream) as (line, wire):
            relay.signal(signal.SIGTERM)
            await refused(relay.port)
            assert await statuses(own, ["/readyz", "/metrics"]) == {"/readyz": 503, "/metrics": 200}
            await finish(wire)
            assert (await line.answer()).whole
        assert await relay.code() == 0


async def refused(port):
    """Wait until nobody listens there."""
    with suppress(ConnectionRefusedError):
        while True:
            with suppress(ConnectionResetError):  # it waited for accept when the port closed
                await exchange(port, "GET", "/healthz")


async def test_a_reload_does_not_move_it(tmp_path):
    """As the port it stays where it is until a restart; the rest of the settings is taken."""
    async with Upstream() as upstream, serving(tmp_path, toml(upstream)) as relay:
        own = await port_of(relay)
        await relay.reload(toml(upstream, 'keys = ["a:secret"]', admin=""))
        assert await statuses(own, ["/metrics", "/"]) == {"/metrics": 401, "/": 404}


async def test_an_address_that_is_taken(tmp_path):
    """The start fails, and says which address it was."""
    async with Upstream() as taken:
        settings = toml(taken, admin=f"127.0.0.1:{taken.port}")
        with pytest.raises(AssertionError, match=f"cannot listen on 127.0.0.1:{taken.port}: "):
            async with serving(tmp_path, settings):
                pass


@dataclass
class Case:
    """Settings that are refused."""

    admin: str
    reason: str


@pytest.mark.parametrize(
    "case",
    [
        Case("10.0.0.1:9101", "client keys"),
        Case("0.0.0.0:9101", "client keys"),
        Case("127.0.0.1:99999", "65535"),
    ],
    ids=lambda case: case.admin,
)
def test_what_is_refused(case):
    """Beyond loopback it needs keys as the port does; a port is a port."""
    with pytest.raises(Rejected, match=rf"admin: .*{case.reason}"):
        Server(admin=case.admin)


@pytest.mark.parametrize(
    ("admin", "at"),
    [
        ("", None),
        ("127.0.0.1:9101", ("127.0.0.1", 9101)),
        ("[::1]:9101", ("::1", 9101)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_how_it_is_read(admin, at):
    """Host and port, IPv6 in brackets; empty is none."""
    assert Server(admin=admin).admin_at == at
