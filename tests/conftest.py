"""What every test stands on.

Loops      async tests run on asyncio; those marked `both_loops` on uvloop too; all on uvloop, or
           on both, with --loop=uvloop or --loop=both. asyncio's debug mode is on.
Workers    with `-n auto` twice as many as cores: much of a run is waiting.
Order      what mostly waits comes first, so that no core is idle at the end.
Garbage    what there is after the collection stays, and is not looked at again and again.
Leaks      a test that leaves a task behind fails.
Secrets    a test fails if anything shows a secret of its relays' settings; where the client gets
           its own back, `@pytest.mark.shows("the secret")` says so.
Outside    no test sees the proxies, the settings and the keys of the environment it runs in.
Fixtures   ca · heard_at_once · free_port · dead_port · clock · sing_box · tinyproxy · microsocks
"""

import asyncio
import gc
import os
import re
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import pytest_asyncio
import trustme

import canaries
import real
from clock import FakeClock
from service import responses

try:
    import uvloop
except ImportError:  # where the package does not ask for it
    uvloop = None

pytest.register_assert_rewrite("client_cases", "client_scene", "client", "node")

Loop = Callable[[], asyncio.AbstractEventLoop]
STACKS = bool(os.environ.get("PYTHONASYNCIODEBUG"))
"""Whether asyncio notes them. Looked up once: the loop asks at every call that it puts off."""


class Watching(asyncio.SelectorEventLoop):
    """asyncio's loop, whose debug mode notes no stack for each future, task and call.

    Of a coroutine it notes the line that made it. Stacks only tell where a thing was made, and are
    most of a run's time; the checks are the loop's own and stay. PYTHONASYNCIODEBUG=1 brings the
    stacks back.

    It also closes whom a server accepted in the turn before it was closed. asyncio forgets that
    socket, for the garbage collector to find open in another test:
    https://github.com/python/cpython/issues/109564
    """

    def get_debug(self) -> bool:
        """Say to those who ask before they note a stack that nobody wants it."""
        return STACKS

    def _set_coroutine_origin_tracking(self, enabled: bool) -> None:  # noqa: FBT001  asyncio's name
        super()._set_coroutine_origin_tracking(enabled)
        if enabled and not self.get_debug():
            sys.set_coroutine_origin_tracking_depth(1)  # the line that made it

    async def _accept_connection2(
        self, factory: Any, conn: socket.socket, extra: Any, tls: Any, server: Any, *rest: Any
    ) -> None:
        if server is not None and not server.is_serving():
            return conn.close()
        return await super()._accept_connection2(factory, conn, extra, tls, server, *rest)


LOOPS: dict[str, Loop] = {"asyncio": Watching}
if uvloop is not None:

    class Bare(uvloop.Loop):
        """uvloop as the relay runs on it. What debug mode finds, it finds on asyncio."""

        def set_debug(self, enabled: bool) -> None:  # noqa: FBT001  the loop's signature
            """Stay as it is."""

    LOOPS["uvloop"] = Bare
OUTSIDE = re.compile(
    r"(https?|all|no|ftp|wss?)_proxy|(TELEPRINTER|OPENAI|ANTHROPIC|LANGCHAIN|LANGSMITH|LISTEN|WATCHDOG)_.*"
    r"|CREDENTIALS_DIRECTORY|NOTIFY_SOCKET",
    re.IGNORECASE,
)
TO_END_BY_ITSELF = 1.0
WAITING = (
    "test_systemd_install.py",
    "test_systemd.py",
    "test_thousand.py",
    "test_drain.py",
    "test_reload.py",
    "test_notify.py",
    "test_dropped_lines.py",
)
"""Files that mostly wait, and for long: the first of the workers begins with them, the others
compute meanwhile, and take what is left of them only when they have nothing else to do."""

# Half of hypothesis's own number of examples, the same each time; `make fuzz` tries new ones.
hypothesis.settings.register_profile("suite", deadline=None, max_examples=50, derandomize=True)
hypothesis.settings.register_profile("fuzz", deadline=None, max_examples=1000, print_blob=True)
hypothesis.settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --loop."""
    parser.addoption("--loop", choices=[*LOOPS, "both"], default="asyncio", help="the event loop")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Let a core have two workers, one of which waits."""
    return 2 * len(os.sched_getaffinity(0))


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Loop]:
    """Choose the loops that a test runs on."""
    chosen = config.getoption("--loop")
    if chosen == "both" or item.get_closest_marker("both_loops"):
        return LOOPS
    return {chosen: LOOPS[chosen]}


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Look for no garbage while nothing but modules and tests is made, which all stay."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files first that mostly wait; the others stay in their order."""
    places = {name: place for place, name in enumerate(WAITING)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def pytest_collection_finish() -> None:
    """Keep the modules and thousands of tests out of every later search for garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in filter(OUTSIDE.fullmatch, list(os.environ)):
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True, scope="session")
def _watched_output() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        canaries.watch(patch)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Look at what the test has printed, the log with it; fail where a secret was seen."""
    report = yield
    if report.when == "call":
        for name, text in report.sections:
            canaries.look(f"the test's {name.lower()}", text)
    if report.when == "teardown":
        own = {word for mark in item.iter_markers("shows") for word in mark.args}
        found = [what for what in canaries.shown if not any(repr(word) in what for word in own)]
        if found and report.passed:
            report.outcome, report.longrepr = "failed", "\n".join(dict.fromkeys(found))
        canaries.forget()
    return report


@pytest.fixture(autouse=True)
def _no_task_left(request: pytest.FixtureRequest) -> None:
    if pytest_asyncio.is_async_test(request.node):
        request.getfixturevalue("_watched_tasks")


@pytest.fixture
async def _watched_tasks() -> AsyncIterator[None]:
    """Set up first, so torn down last: what runs then, and does not end, is a leak."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=TO_END_BY_ITSELF)
    if left:
        said = "\n".join(map(repr, left))
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=TO_END_BY_ITSELF)
        pytest.fail(f"tasks left behind:\n{said}")


class Authority:
    """A certificate authority made for this run.

    server   TLS of a server: 127.0.0.1, ::1, localhost, upstream.test, proxy.test
    client   trusts it, and nothing else
    file     its certificate as PEM, for SSL_CERT_FILE and for programs
    """

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self.file = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.file))
        self.server = self.server_for(
            "127.0.0.1", "::1", "localhost", "upstream.test", "proxy.test"
        )
        self.client = ssl.create_default_context(cafile=str(self.file))

    def server_for(self, *names: str) -> ssl.SSLContext:
        """Return the TLS of a server whose certificate is for these names only."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*names).configure_cert(context)
        return context

    def write_server(self, file: Path, *names: str) -> Path:
        """Write the key and the certificate of such a server as PEM, for a program; return it."""
        self._authority.issue_cert(*names).private_key_and_cert_chain_pem.write_to_path(str(file))
        return file


@pytest.fixture(scope="session")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Return a certificate authority and the TLS contexts of both sides."""
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def clock() -> FakeClock:
    """Return a clock that stands at 1000.0 until the test moves it."""
    return FakeClock()


@pytest.fixture
def heard_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Break a body off without the moment, real time, in which a browser reads what came last."""
    monkeypatch.setattr(responses, "_HEARD_WITHIN", 0)


@pytest.fixture
def free_port() -> int:
    """Return a port of 127.0.0.1 that a server of the test may listen on."""
    return real.free_port()


@pytest.fixture
def dead_port() -> Iterator[int]:
    """Yield a port of 127.0.0.1 that refuses connections, and that nobody else can take."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture(scope="session")
def sing_box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[real.Process]:
    """Run sing-box without a password for the whole run; HTTP and SOCKS on one port."""
    with real.sing_box(tmp_path_factory.mktemp("sing-box")) as process:
        yield process


@pytest.fixture(scope="session")
def tinyproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[real.Process]:
    """Run tinyproxy without a password for the whole run."""
    with real.tinyproxy(tmp_path_factory.mktemp("tinyproxy")) as process:
        yield process


@pytest.fixture(scope="session")
def microsocks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[real.Process]:
    """Run microsocks without a password for the whole run."""
    with real.microsocks(tmp_path_factory.mktemp("microsocks")) as process:
        yield process
