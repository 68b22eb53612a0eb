"""Every outbound connection goes through one door; with a proxy set nothing goes past it.

Watched   the program, in a process of its own with an ear on all that it connects to
Read      its sources: who could open a connection at all
"""

import ast
import json
from contextlib import AsyncExitStack, suppress
from functools import cache
from pathlib import Path

import aiohttp
import pytest

import service
from hearing import heard, listened_to, until_it_listens
from program import running
from proxying import ASKED, DIRECT, FRAMES, PATH, UPSTREAMS, either, proxy_of, upstream_of, url_of

# --- watched

LIMIT = aiohttp.ClientTimeout(total=30)


async def upstream_script(request, wire):
    """Answer, fail or break off, as the path says."""
    if request.target.endswith("/fail"):
        await wire.reply(500, "broken")
    elif request.target.endswith("/cut"):
        await wire.head(content_type="text/event-stream")
        await wire.chunk(FRAMES[1])
        wire.reset()
    elif request.target == PATH:
        await either(request, wire)
    else:
        await wire.reply(200, "{}", content_type="application/json")


async def fetch(session, method, path, **options):
    """Send a request, read all of the answer; return its status."""
    async with session.request(method, path, **options) as response:
        with suppress(aiohttp.ClientPayloadError):  # where the answer is to be cut
            await response.read()
        return response.status


async def use_it_all(session):
    """Use everything that the relay offers, well and badly; return the statuses."""
    form = aiohttp.FormData({"model": "whisper-1"})
    form.add_field("file", b"RIFF" * 100, filename="a.wav", content_type="audio/wav")
    asked = [
        *[("GET", path, {}) for path in ("/", "/pages/typewriter.js", "/healthz", "/readyz")],
        ("GET", "/chat?question=Hi", {}),
        ("POST", "/chat", {"json": {"question": "Hi"}}),
        ("POST", PATH, {"json": ASKED | {"stream": True}}),
        ("POST", PATH, {"json": ASKED}),
        ("POST", "/v1/audio/transcriptions", {"data": form}),
        ("GET", "/v1/models", {}),
        ("POST", "/v1/fail", {"json": ASKED}),
        ("POST", "/v1/cut", {"json": ASKED | {"stream": True}}),
        ("GET", "/nowhere", {}),
        ("POST", "/chat", {"data": b"no JSON"}),
    ]
    return [await fetch(session, *one, **options) for *one, options in asked]


ALL_WELL = [200] * 10
WITH_FAILURES = [500, 200, 404, 400]

WATCHED = [
    pytest.param(kind, scheme, host, id=f"{kind} {scheme}")
    for kind, host in [
        ("http", "upstream.test"),
        ("https", "upstream.test"),
        ("socks4", "localhost"),
        ("socks4a", "upstream.test"),
        ("socks5", "localhost"),
        ("socks5h", "upstream.test"),
        (DIRECT, "localhost"),
    ]
    for scheme in UPSTREAMS
]


def command(folder, url, way, ca):
    """Return the command that runs the program in a folder, with its settings there."""
    config = folder / "teleprinter.toml"
    config.write_text(
        f'[[upstream]]\nname = "api"\nurl = "{url}/v1"\nca_file = {json.dumps(str(ca.file))}\n'
        f'[[pool]]\nname = "ways"\nproxies = ["{way}"]\n'
    )
    return listened_to("serve", "--config", str(config), "--port", "0", folder=folder)


TRAP = dict.fromkeys(["http_proxy", "HTTPS_PROXY", "ALL_PROXY"], "http://127.0.0.1:1")


@pytest.mark.parametrize(("kind", "scheme", "host"), WATCHED)
async def test_nothing_goes_past_the_proxy(kind, scheme, host, ca, tmp_path):
    """Whatever is asked, well or badly, the program connects to the proxy and to nobody else.

    A name that the proxy resolves is not looked up here. After the proxy's end too. With `direct`
    the same ear hears the upstream's address. The proxies of the environment are a trap.
    """
    async with upstream_of(scheme, ca, upstream_script) as upstream, AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(proxy_of(kind, ca))
        proxy.resolve = {"upstream.test": ("127.0.0.1", upstream.port)}
        run = command(tmp_path, f"{scheme}://{host}:{upstream.port}", url_of(proxy, kind), ca)
        async with running(*run, **TRAP) as program:
            base = await until_it_listens(program)
            async with aiohttp.ClientSession(base, timeout=LIMIT) as session:
                assert await use_it_all(session) == ALL_WELL + WITH_FAILURES
                await stack.aclose()
                status = await fetch(session, "POST", PATH, json=ASKED)
            found = await heard(program)
    assert status == (200 if kind == DIRECT else 502)
    target = upstream if kind == DIRECT else proxy
    assert found.connected == {("127.0.0.1", target.port)}
    assert found.looked_up - {"127.0.0.1"} == ({host} if host == "localhost" else set())


# --- read

ROOT = Path(service.__file__).parent
SOURCES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts): file
    for file in sorted(ROOT.rglob("*.py"))
}
CLIENTS = {
    "adapters.dial.connector", "adapters.dial.diagnosis", "adapters.doctor.errand",
    "adapters.egress", "adapters.push", "adapters.upstream",
}  # fmt: skip
"""The modules that know aiohttp's client."""
CONNECTING = {
    "open_connection", "open_unix_connection", "create_connection", "create_unix_connection",
    "create_datagram_endpoint", "sock_connect", "sock_sendto", "connect", "connect_ex", "sendto",
    "urlopen", "urlretrieve", "HTTPConnection", "HTTPSConnection", "ClientSession", "TCPConnector",
    "UnixConnector", "ProxyConnector", "ChainProxyConnector", "ws_connect",
}  # fmt: skip
"""What opens a connection, by its last name, in the standard library and in aiohttp."""
OTHER_CLIENTS = {
    "ftplib", "http.client", "httpx", "imaplib", "nntplib", "poplib", "requests", "smtplib",
    "socketserver", "telnetlib", "urllib.request", "urllib3", "websockets", "xmlrpc",
}  # fmt: skip
DOORS = {
    "adapters.dial.connector": {"ChainProxyConnector", "ClientSession", "TCPConnector", "connect"},
    "adapters.dial.hops": {"connect"},
    "adapters.dial.line": {"create_connection"},
    "adapters.systemd": {"connect"},
}
"""Who uses which of them; systemd's is a datagram to the manager, see below."""


@cache
def tree_of(module):
    """Return what a module's text says; every worker loads this file, and one runs its tests."""
    return ast.parse(SOURCES[module].read_text())


def imported(tree):
    """Return the dotted names that a module imports."""
    nodes = list(ast.walk(tree))
    plain = {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
    return plain | {
        f"{n.module}.{alias.name}"
        for n in nodes
        if isinstance(n, ast.ImportFrom)
        for alias in n.names
    }


def used(tree):
    """Return the last names of all that a module calls or derives from."""
    nodes = list(ast.walk(tree))
    found = [n.func for n in nodes if isinstance(n, ast.Call)]
    found += [base for n in nodes if isinstance(n, ast.ClassDef) for base in n.bases]
    return {getattr(n, "attr", getattr(n, "id", "")) for n in found}


def test_few_modules_know_how_to_connect():
    """Sessions, connectors and tunnels are made in `dial`."""
    found = {module: used(tree_of(module)) & CONNECTING for module in SOURCES}
    assert {module: names for module, names in found.items() if names} == DOORS


def test_aiohttps_client_is_known_to_the_door_only():
    """All other modules import aiohttp's server and nothing else of it."""
    others = {
        module
        for module in SOURCES
        for name in imported(tree_of(module))
        if name.split(".")[0] == "aiohttp" and not name.startswith("aiohttp.web")
    }
    assert others == CLIENTS


@pytest.mark.parametrize("module", SOURCES)
def test_no_other_client_is_imported(module):
    """Neither the standard library's clients nor further ones."""
    packages = {name for name in imported(tree_of(module)) for other in OTHER_CLIENTS
                if f"{name}.".startswith(f"{other}.")}  # fmt: skip
    assert packages == set()


def test_systemds_manager_is_on_this_machine():
    """Its socket is of the family AF_UNIX."""
    sockets = [
        ast.unparse(node)
        for node in ast.walk(tree_of("adapters.systemd"))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "socket.socket"
    ]
    families = {text for text in sockets if "fileno" not in text}
    assert families
    assert all("socket.AF_UNIX" in text for text in families)


def test_sessions_look_at_no_environment():
    """Aiohttp reads proxies and netrc only where it is told to."""
    calls = [
        node
        for node in ast.walk(tree_of("adapters.dial.connector"))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("ClientSession")
    ]
    told = {k.arg: ast.unparse(k.value) for call in calls for k in call.keywords}
    assert told["trust_env"] == "False"
