"""SIGHUP: new settings for new requests, while streams go on as they began."""

import asyncio
import hashlib
import json
import signal
import ssl
from collections import Counter
from contextlib import AsyncExitStack

import trustme

from fakes import HttpProxy, Upstream, reply, sse
from fakes.frames import chat
from line import exchange
from serving import ASK, HELLO, JSON, finish, gone, serving, streaming, upstream_toml

MANY = 200
PATH = "/v1/chat/completions"
REFUSED = "the new settings are not used"


def keyed(upstream, *keys, more=""):
    """Return the settings of a relay that these keys open."""
    return f"[server]\nkeys = {json.dumps(list(keys))}\n\n{upstream_toml(upstream, more)}"


def bearer(key):
    """Return the header that shows a key."""
    return ("Authorization", f"Bearer {key}")


async def status(relay, *pairs, path="/v1/models"):
    """Return the status of a short request."""
    return (await exchange(relay.port, "GET", path, *pairs)).status


async def test_new_keys_are_in_force_and_old_ones_are_not(tmp_path):
    """A key that was added opens, also as SHA-256; one that was taken out no longer does."""
    digest = hashlib.sha256(b"new-key").hexdigest()
    async with (
        Upstream(reply(200, "{}", content_type="application/json")) as upstream,
        serving(tmp_path, keyed(upstream, "a:old-key")) as relay,
    ):
        assert await status(relay, bearer("old-key")) == 200
        assert await status(relay, bearer("new-key")) == 401
        await relay.reload(keyed(upstream, f"b:sha256:{digest}"))
        assert await status(relay, bearer("old-key")) == 401
        assert await status(relay, bearer("new-key")) == 200


async def test_a_stream_goes_on_when_its_key_is_taken_out(tmp_path):
    """What was let in stays in."""
    async with (
        Upstream() as upstream,
        serving(tmp_path, keyed(upstream, "a:old-key")) as relay,
        streaming(relay, upstream, bearer("old-key")) as (line, wire),
    ):
        await relay.reload(keyed(upstream, "b:new-key"))
        await finish(wire)
        assert (await line.answer()).body.endswith(b"data: [DONE]\n\n")


async def test_new_upstreams_and_pools_take_new_requests(tmp_path):
    """The next request goes to the new upstream through the new pool's proxy."""
    answer = reply(200, "{}", content_type="application/json")
    async with (
        Upstream(answer) as old,
        Upstream(answer) as new,
        HttpProxy() as proxy,
        serving(tmp_path, upstream_toml(old)) as relay,
    ):
        assert await status(relay) == 200
        pool = f'[[pool]]\nname = "p"\nproxies = ["{proxy.url}"]\n'
        await relay.reload(upstream_toml(new, 'prefix = "/new"\n') + pool)
        assert await status(relay, path="/new/v1/models") == 200
        assert await status(relay) == 404
        assert (len(old.requests), len(new.requests), len(proxy.targets)) == (1, 1, 1)


async def test_a_stream_keeps_its_old_connection_which_closes_with_the_last(tmp_path):
    """Two streams to an upstream that is gone from the settings end whole; then no line is left."""
    async with (
        Upstream() as old,
        Upstream(sse(*chat(["new"]))) as new,
        serving(tmp_path, upstream_toml(old)) as relay,
        streaming(relay, old) as (first, one),
        streaming(relay, old) as (second, two),
    ):
        await relay.reload(upstream_toml(new))
        answer = await exchange(relay.port, "POST", PATH, JSON, body=ASK)
        assert b"new" in answer.body
        await finish(one)
        assert (await first.answer()).whole
        assert old.open_connections == 2  # kept for what may go on
        await two.chunk(HELLO)
        await finish(two)
        assert (await second.answer()).whole
        await old.until(lambda: old.open_connections == 0)
        assert new.open_connections == 1


async def test_the_old_connections_close_at_once_if_no_stream_is_open(tmp_path):
    """A kept connection to an upstream goes with the settings that it belonged to."""
    async with (
        Upstream(reply(200, "{}", content_type="application/json")) as upstream,
        serving(tmp_path, upstream_toml(upstream)) as relay,
    ):
        assert await status(relay) == 200
        assert upstream.open_connections == 1
        await relay.reload(upstream_toml(upstream))
        await upstream.until(lambda: upstream.open_connections == 0)


async def test_a_bad_file_leaves_the_old_settings_and_says_why(tmp_path):
    """The log names key and value; keys, upstreams and streams are as before."""
    async with (
        Upstream() as upstream,
        serving(tmp_path, keyed(upstream, "a:good-key")) as relay,
        streaming(relay, upstream, bearer("good-key")) as (line, wire),
    ):
        bad = keyed(upstream, "a:good-key").replace("[server]", '[server]\ndrain = "soon"')
        await relay.reload(bad, event=REFUSED)
        await relay.reload("[server\n", event=REFUSED)
        faults = [record["fault"] for record in relay.records(REFUSED)]
        assert "server.drain" in faults[0]
        assert "soon" in faults[0]
        assert "good-key" not in relay.text
        assert await status(relay, bearer("bad-key")) == 401
        await finish(wire)
        assert (await line.answer()).whole


async def test_a_smaller_limit_of_the_body_is_in_force(tmp_path):
    """Limits belong to the settings that are read anew."""
    async with (
        Upstream(reply(200, "{}", content_type="application/json")) as upstream,
        serving(tmp_path, upstream_toml(upstream)) as relay,
    ):
        assert (await exchange(relay.port, "POST", PATH, JSON, body=ASK)).status == 200
        await relay.reload("[limits]\nbody = 10\n" + upstream_toml(upstream))
        assert (await exchange(relay.port, "POST", PATH, JSON, body=ASK)).status == 413


async def test_a_new_certificate_is_shown_to_new_connections(tmp_path):
    """Files that do not fit each other leave the old one, and the log says so."""
    first, second = trustme.CA(), trustme.CA()
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"

    def write(authority, other=None):
        issued = authority.issue_cert("127.0.0.1")
        chain.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        (other or issued).private_key_pem.write_to_path(str(key))

    async def shown():
        _, writer = await asyncio.open_connection("127.0.0.1", relay.port, ssl=blind())
        found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return found

    write(first)
    toml = f'[server]\ntls_cert = "{chain}"\ntls_key = "{key}"\n'
    async with Upstream() as upstream, serving(tmp_path, toml + upstream_toml(upstream)) as relay:
        old = await shown()
        assert await shown() == old
        write(second, first.issue_cert("127.0.0.1"))
        await relay.reload(toml + upstream_toml(upstream), event=REFUSED)
        assert "server.tls_cert" in relay.records(REFUSED)[0]["fault"]
        assert await shown() == old
        write(second)
        await relay.reload(toml + upstream_toml(upstream))
        assert await shown() != old


def blind():
    """Return TLS that takes any certificate, to look at it."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def test_sighup_under_200_streams(tmp_path):
    """Every one ends whole over its old connection, while new requests go to the new upstream."""
    async with (
        Upstream() as old,
        Upstream(sse(*chat(["new"]))) as new,
        serving(tmp_path, upstream_toml(old)) as relay,
        AsyncExitStack() as stack,
    ):
        opened = [await stack.enter_async_context(streaming(relay, old)) for _ in range(MANY)]
        await relay.reload(upstream_toml(new))
        answer = await exchange(relay.port, "POST", PATH, JSON, body=ASK)
        assert b"new" in answer.body
        for _, wire in opened:
            await wire.chunk(HELLO)
            await finish(wire)
        answers = [await line.answer() for line, _ in opened]
        seen = Counter(answer.whole and answer.body.count(b"Hi") == 2 for answer in answers)
        await old.until(lambda: old.open_connections == 0)
        for _, wire in opened:
            await gone(wire)
        relay.signal(signal.SIGTERM)
        assert await relay.code() == 0
    outcomes = Counter(record["outcome"] for record in relay.records())
    print(f"SIGHUP under {MANY} streams: {dict(outcomes)}; whole {seen[True]}")  # noqa: T201
    assert outcomes == {"ok": MANY + 1}
    assert seen == {True: MANY}
