"""Real proxies between the relay and its upstream: a stream through each, and one that is killed."""

import functools
from contextlib import ExitStack
from itertools import product

import aiohttp
import pytest

import real
from proxying import FRAMES, LOGIN, UPSTREAMS, at, begin, last_event, relay_to, upstream_of
from relaying import events

BEGINNING, REST = b"".join(FRAMES[:2]), b"".join(FRAMES[2:])
SECOND_HALF = ["answer", "done"]

KINDS = {
    "sing-box": ["http", "socks4a", "socks5", "socks5h"],
    "tinyproxy": ["http"],
    "squid": ["http", "https"],
    "dante": ["socks4", "socks4a", "socks5", "socks5h"],
    "microsocks": ["socks5", "socks5h"],
    "shadowsocks": ["socks5", "socks5h"],
    "proxy.py": ["http"],
}
"""The programs, and the kinds of proxies that each is."""
WITHOUT_LOGIN = {"dante", "shadowsocks"}
CELLS = [
    pytest.param(program, kind, auth, scheme, id=f"{program} {kind} {auth} {scheme}")
    for program, kinds in KINDS.items()
    for kind, auth, scheme in product(kinds, ["bare", "auth"], UPSTREAMS)
    if auth == "bare" or not (program in WITHOUT_LOGIN or kind.startswith("socks4"))
]
KILLED = [
    pytest.param(program, kinds[-1], scheme, id=f"{program} {kinds[-1]} {scheme}")
    for program, kinds in KINDS.items()
    for scheme in UPSTREAMS
]


def start(program, kind, auth, folder, ca):
    """Return the program, not yet running, as a context manager."""
    options = {} if program in WITHOUT_LOGIN else {"auth": auth}
    if kind == "https":
        options["tls"] = ca.write_server(folder / "server.pem", "127.0.0.1")
    name = {"sing-box": "sing_box", "proxy.py": "proxy_py"}.get(program, program)
    return getattr(real, name)(folder, **options)


@pytest.fixture(scope="module")
def running(tmp_path_factory, ca):
    """Return a function that gives a running proxy; each is started once."""
    with ExitStack() as stack:

        @functools.cache
        def run(program, auth, *, tls):
            folder = tmp_path_factory.mktemp(program)
            return stack.enter_context(start(program, "https" if tls else "", auth, folder, ca))

        yield run


@pytest.mark.parametrize(("program", "kind", "auth", "scheme"), CELLS)
async def test_a_stream(program, kind, auth, scheme, running, ca):
    """The first token is there before the second is sent, then the rest, up to `done`."""
    proxy = running(program, LOGIN if auth == "auth" else None, tls=kind == "https")
    async with (
        upstream_of(scheme, ca) as upstream,
        relay_to(upstream.url, ca, proxy.url(kind)) as relay,
        relay.get("/chat", question="Hi") as response,
    ):
        wire = await begin(upstream, BEGINNING)
        stream = events(response)
        assert [(await anext(stream)).name for _ in range(2)] == ["start", "answer"]
        await wire.chunk(REST)
        await wire.end()
        assert [event.name async for event in stream] == SECOND_HALF
        assert upstream.connections == 1


@pytest.mark.parametrize(("program", "kind", "scheme"), KILLED)
async def test_killed_in_the_middle(program, kind, scheme, tmp_path, ca):
    """The client learns that the answer is cut; whoever asks next learns which proxy is gone."""
    with start(program, kind, None, tmp_path, ca) as proxy:
        async with (
            upstream_of(scheme, ca) as upstream,
            relay_to(upstream.url, ca, proxy.url(kind)) as relay,
        ):
            async with relay.get("/chat", question="Hi") as response:
                await begin(upstream, BEGINNING)
                stream = events(response)
                assert [(await anext(stream)).name for _ in range(2)] == ["start", "answer"]
                proxy.kill()
                cut = await anext(stream)
                with pytest.raises(aiohttp.ClientPayloadError):
                    await anext(stream)
            assert (cut.name, cut.data["code"], cut.data["partial"]) == (
                "error",
                "upstream_cut",
                True,
            )
            gone = await last_event(relay)
    assert gone.data["code"] == "proxy_unreachable"
    assert f"proxy {at(proxy)} refused the connection: is it running?" in gone.data["message"]


@pytest.mark.parametrize("kind", ["http", "socks4a", "socks5h"])
@pytest.mark.parametrize("scheme", UPSTREAMS)
async def test_a_name_that_only_the_proxy_knows(kind, scheme, tmp_path, ca):
    """sing-box resolves it; nobody here could."""
    with real.sing_box(tmp_path, hosts={"upstream.test": "127.0.0.1"}) as proxy:
        async with upstream_of(scheme, ca) as upstream:
            url = f"{scheme}://upstream.test:{upstream.port}"
            async with (
                relay_to(url, ca, proxy.url(kind)) as relay,
                relay.get("/chat", question="Hi") as response,
            ):
                wire = await begin(upstream, BEGINNING + REST)
                await wire.end()
                assert [e.name async for e in events(response)] == ["start", "answer", *SECOND_HALF]


@pytest.mark.parametrize("program", ["sing-box", "tinyproxy", "squid", "microsocks", "proxy.py"])
async def test_without_the_password_nobody_gets_through(program, running, ca):
    """Each of them asks for it; the message says what to do."""
    proxy = running(program, LOGIN, tls=False)
    kind = KINDS[program][0]
    async with (
        upstream_of("https", ca) as upstream,
        relay_to(upstream.url, ca, f"{kind}://{at(proxy)}") as relay,
    ):
        event = await last_event(relay)
        assert event.data["code"] == "proxy_refused"
        assert f"proxy {at(proxy)} wants a user name and password" in event.data["message"]
        assert upstream.connections == 0


@pytest.mark.parametrize("scheme", UPSTREAMS)
@pytest.mark.parametrize(("program", "kind"), [(p, k) for p, kinds in KINDS.items() for k in kinds])
async def test_an_upstream_that_is_down(program, kind, scheme, running, dead_port, ca):
    """The proxy works, and nobody blames it: it, or the relay in its stead, says who is down."""
    proxy = running(program, None, tls=kind == "https")
    async with relay_to(f"{scheme}://127.0.0.1:{dead_port}", ca, proxy.url(kind)) as relay:
        event = await last_event(relay)
    assert event.name == "error"
    assert event.data["code"].startswith("upstream_"), event.data
