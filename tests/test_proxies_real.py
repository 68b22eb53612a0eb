"""Real proxies between the relay and its upstream: streams through each, also when it is killed."""

import functools
from contextlib import ExitStack
from itertools import product
from typing import NamedTuple

import aiohttp
import pytest

import real
from proxying import FRAMES, LOGIN, UPSTREAMS, at, begin, last_event, relay_to, upstream_of
from relaying import events

BEGINNING, REST = b"".join(FRAMES[:2]), b"".join(FRAMES[2:])
FIRST_HALF, SECOND_HALF = ["start", "answer"], ["answer", "done"]
PROGRAMS = {
    "sing-box": ["http", "socks4", "socks4a", "socks5", "socks5h"],
    "tinyproxy": ["http"],
    "squid": ["http", "https"],
    "dante": ["socks4", "socks4a", "socks5", "socks5h"],
    "microsocks": ["socks5", "socks5h"],
    "shadowsocks": ["socks5", "socks5h"],
    "proxy.py": ["http"],
}
"""The programs, and the kinds of proxies that each is."""
WITHOUT_LOGIN = {"dante", "shadowsocks"}


class Cell(NamedTuple):
    """A program as a proxy of some kind, and the scheme of the upstream behind it."""

    program: str
    kind: str
    login: str
    scheme: str

    @property
    def auth(self):
        """User and password, or None."""
        return LOGIN if self.login == "auth" else None


CELLS = [
    Cell(program, *cell)
    for program, kinds in PROGRAMS.items()
    for cell in product(kinds, ["bare", "auth"], UPSTREAMS)
    if "auth" not in cell or not (program in WITHOUT_LOGIN or cell[0].startswith("socks4"))
]


def each(cells):
    """Run a test for each cell; the ids read `sing-box socks5h auth https`."""
    return pytest.mark.parametrize(
        "cell", [pytest.param(cell, id=" ".join(cell)) for cell in cells]
    )


each_bare = each([cell for cell in CELLS if cell.login == "bare"])


def program_of(cell, folder, ca):
    """Return the program, not yet running, as a context manager."""
    options = {} if cell.program in WITHOUT_LOGIN else {"auth": cell.auth}
    if cell.kind == "https":
        options["tls"] = ca.write_server(folder / "server.pem", "127.0.0.1")
    name = {"sing-box": "sing_box", "proxy.py": "proxy_py"}.get(cell.program, cell.program)
    return getattr(real, name)(folder, **options)


@pytest.fixture(scope="module")
def running(tmp_path_factory, ca):
    """Return a function that gives the cell's proxy, running; one does for all cells alike."""
    with ExitStack() as stack:

        @functools.cache
        def run(program, kind, login):
            cell = Cell(program, kind, login, "")
            folder = tmp_path_factory.mktemp(program)
            return stack.enter_context(program_of(cell, folder, ca))

        yield lambda cell: run(cell.program, cell.kind if cell.kind == "https" else "", cell.login)


@each(CELLS)
async def test_a_stream(cell, running, ca):
    """The first token is there before the second is sent, then the rest, up to `done`."""
    async with (
        upstream_of(cell.scheme, ca) as upstream,
        relay_to(upstream.url, ca, running(cell).url(cell.kind)) as relay,
        relay.get("/chat", question="Hi") as response,
    ):
        wire = await begin(upstream, BEGINNING)
        stream = events(response)
        assert [(await anext(stream)).name for _ in FIRST_HALF] == FIRST_HALF
        await wire.chunk(REST)
        await wire.end()
        assert [event.name async for event in stream] == SECOND_HALF
        assert upstream.connections == 1


@each_bare
async def test_killed_in_the_middle(cell, tmp_path, ca):
    """The client learns that the answer is cut; whoever asks next learns which proxy is gone."""
    with program_of(cell, tmp_path, ca) as proxy:
        async with (
            upstream_of(cell.scheme, ca) as upstream,
            relay_to(upstream.url, ca, proxy.url(cell.kind)) as relay,
        ):
            async with relay.get("/chat", question="Hi") as response:
                await begin(upstream, BEGINNING)
                stream = events(response)
                assert [(await anext(stream)).name for _ in FIRST_HALF] == FIRST_HALF
                proxy.kill()
                cut = await anext(stream)
                with pytest.raises(aiohttp.ClientPayloadError):
                    await anext(stream)
            gone = await last_event(relay)
    assert cut.name == gone.name == "error"
    assert (cut.data["code"], cut.data["partial"]) == ("upstream_cut", True)
    assert gone.data["code"] == "proxy_unreachable"
    assert f"proxy {at(proxy)} refused the connection: is it running?" in gone.data["message"]


@each_bare
async def test_an_upstream_that_is_down(cell, running, dead_port, ca):
    """The proxy works, and nobody blames it: the upstream cannot be had."""
    url = f"{cell.scheme}://127.0.0.1:{dead_port}"
    async with relay_to(url, ca, running(cell).url(cell.kind)) as relay:
        event = await last_event(relay)
    assert event.name == "error"
    absolute = cell.scheme == "http" and cell.kind.startswith("http")
    code = "upstream_error" if absolute else "upstream_unreachable"  # the answer is the proxy's own
    if cell.program == "shadowsocks" and cell.scheme == "http":
        code = "upstream_cut"  # it grants every request, and then hangs up
    assert event.data["code"] == code, event.data


@pytest.mark.parametrize("scheme", UPSTREAMS)
@pytest.mark.parametrize("kind", ["http", "socks4a", "socks5h"])
async def test_a_name_that_only_the_proxy_knows(kind, scheme, tmp_path, ca):
    """It is in sing-box's settings, and in no one else's."""
    async with upstream_of(scheme, ca) as upstream:
        url = f"{scheme}://upstream.test:{upstream.port}"
        with real.sing_box(tmp_path, hosts={"upstream.test": "127.0.0.1"}) as proxy:
            async with (
                relay_to(url, ca, proxy.url(kind)) as relay,
                relay.get("/chat", question="Hi") as response,
            ):
                wire = await begin(upstream, BEGINNING + REST)
                await wire.end()
                names = [event.name async for event in events(response)]
    assert names == FIRST_HALF + SECOND_HALF


@pytest.mark.parametrize("program", ["sing-box", "tinyproxy", "squid", "microsocks", "proxy.py"])
async def test_without_the_password_nobody_gets_through(program, running, ca):
    """Each of them asks for it; the message says what to do."""
    kind = PROGRAMS[program][0].replace("socks4", "socks5")
    proxy = running(Cell(program, kind, "auth", ""))
    async with (
        upstream_of("https", ca) as upstream,
        relay_to(upstream.url, ca, f"{kind}://{at(proxy)}") as relay,
    ):
        event = await last_event(relay)
        assert event.data["code"] == "proxy_refused"
        assert f"proxy {at(proxy)} wants a user name and password" in event.data["message"]
        assert upstream.connections == 0
