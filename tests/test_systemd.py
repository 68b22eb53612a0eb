"""The units in a real systemd, on which the service was installed as the README says.

Clients, proxies and upstreams are outside, on the same 127.0.0.1. What is measured is printed:
pytest -s tests/test_systemd.py
"""

import asyncio
import re
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256
from types import SimpleNamespace

import pytest

import real
from fakes import HttpProxy, Upstream, reply, sse
from fakes.frames import chat
from lab import Lab, missing
from lab.staged import ROOT, installed, port_tree
from line import dial, exchange
from serving import ASK, HELLO, JSON, finish, streaming, upstream_toml

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "-")

SERVICE, SOCKET, TARGET = "teleprinter.service", "teleprinter.socket", "teleprinter.target"
SETTINGS = "/etc/teleprinter/teleprinter.toml"
CREDENTIALS = "/etc/teleprinter/credentials"
DROP_IN = f"/etc/systemd/system/{SERVICE}.d/test.conf"
PATH = "/v1/chat/completions"
OK = reply(200, "{}", content_type="application/json")
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
SHARED = re.compile(r"^# (/etc/systemd/\S+)\n(.*?)(?=^# |^```)", re.MULTILINE | re.DOTALL)
"""The drop-ins of docs/operations.md, each with its file's name above it."""
EXPOSURE = 12
"""Of 100: what `systemd-analyze security` may give at most, ten times its score."""
WATCHDOG = 2
MANY = 50
RESTARTS = 3
REQUESTS = 100
CLIENTS = 10


def measured(what):
    """Print a number that docs/operations.md may state."""
    print(f"measured: {what}")  # noqa: T201


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Boot a machine on which the service is installed; `lab.port`: where it listens."""
    made = installed(tmp_path_factory)
    folder = tmp_path_factory.mktemp("lab")
    ported, port = port_tree(folder / "port")
    with Lab(folder, made / "tree", ported) as lab:
        lab.port = port
        yield lab


@pytest.fixture
def relay(lab):
    """Return what `streaming` needs to know of it."""
    return SimpleNamespace(port=lab.port)


@pytest.fixture(autouse=True)
def _clean(request):
    """Leave no state of a unit, no drop-in and no credential to the next test."""
    yield
    if "lab" not in request.fixturenames:
        return
    lab = request.getfixturevalue("lab")
    lab.run("rm", "-rf", f"/etc/systemd/system/{SERVICE}.d", CREDENTIALS)
    lab.run("install", "-d", "-m", "700", CREDENTIALS)
    lab.write(SETTINGS, "")
    lab.run("systemctl", "daemon-reload")
    lab.run("systemctl", "reset-failed")


async def start(lab, toml, *service):
    """Start the service afresh with these settings, and these lines in a drop-in."""
    lab.write(SETTINGS, toml)
    if service:
        lab.write(DROP_IN, "\n".join(["[Service]", *service, ""]))
        await lab.do("systemctl", "daemon-reload")
    await lab.do("systemctl", "restart", SERVICE)


def toml(upstream, *keys, drain=1, more=""):
    """Return the settings of a relay before this upstream."""
    quoted = ", ".join(f'"{key}"' for key in keys)
    return f"[server]\ndrain = {drain}\nkeys = [{quoted}]\n\n{upstream_toml(upstream, more)}"


async def status(lab, *pairs, path="/v1/models"):
    """Return the status of a short request."""
    return (await exchange(lab.port, "GET", path, *pairs)).status


def bearer(key):
    """Return the header that shows a key."""
    return ("Authorization", f"Bearer {key}")


def main_pid(lab):
    """Return the service's pid, as it is inside."""
    return lab.show(SERVICE, "MainPID")


async def until(true):
    """Wait until that is true of the lab."""
    async with asyncio.timeout(real.START_WITHIN):
        while not await asyncio.to_thread(true):  # noqa: ASYNC110  another machine has no events
            await asyncio.sleep(real.BETWEEN_LOOKS)


# ---- what the files say


@pytest.mark.parametrize("unit", [SERVICE, "teleprinter@.service"])
def test_exposure(lab, unit):
    """`systemd-analyze security` gives at most 1.2."""
    unit = unit.replace("@.", "@x.")
    done = lab.run("systemd-analyze", "security", f"--threshold={EXPOSURE}", "--no-pager", unit)
    measured(done.stdout.strip().rpartition("\n")[2].lstrip("→ "))


def test_no_setting_is_misspelt(lab):
    """`systemd-analyze verify` has nothing to say."""
    units = [SERVICE, SOCKET, TARGET, "teleprinter@x.service", "teleprinter@x.socket"]
    done = lab.run("systemd-analyze", "verify", "--man=no", "--recursive-errors=one", *units)
    assert (done.stdout, done.stderr) == ("", "")


def test_an_instance_is_sandboxed_as_the_one_is():
    """The template says the same from [Service] on, but for the name of its settings."""
    one, each = (
        (ROOT / f"systemd/{name}").read_text() for name in (SERVICE, "teleprinter@.service")
    )
    sections = [text.partition("[Service]")[2].partition("[Install]")[0] for text in (one, each)]
    assert sections[1].replace("%i.toml", "teleprinter.toml") == sections[0]


# ---- start and end


async def test_ready_when_it_listens(lab):
    """`systemctl start` returns when it serves; the status line has its streams and proxies."""
    async with Upstream(OK) as upstream, HttpProxy() as proxy:
        await start(lab, toml(upstream, more=f'[[pool]]\nname = "p"\nproxies = ["{proxy.url}"]\n'))
        began, ready = (
            int(lab.show(SERVICE, f"{name}TimestampMonotonic"))
            for name in ("ExecMainStart", "ActiveEnter")
        )
        measured(f"start to READY: {(ready - began) / 1e6:.2f} s")
        assert lab.show(SERVICE, "StatusText") == "0 streams open"
        assert await status(lab) == 200
        said = f"0 streams open; {proxy.url} up"
        await until(lambda: lab.show(SERVICE, "StatusText") == said)


async def test_settings_that_cannot_be_used(lab):
    """The start fails at once, the journal says which key, and it is not tried again."""
    lab.write(SETTINGS, '[server]\ndrain = "soon"\n')
    done = await lab.do("systemctl", "restart", SERVICE, check=False)
    assert done.returncode != 0
    assert lab.show(SERVICE, "ExecMainStatus") == "2"
    assert lab.show(SERVICE, "ActiveState") == "failed"
    assert "server.drain" in lab.journal(SERVICE, "-n", "20")
    assert lab.show(SOCKET, "ActiveState") == "active"


async def test_the_first_request_starts_it(lab):
    """Socket activation: nothing runs, a request comes, and is answered."""
    async with Upstream(OK) as upstream:
        lab.write(SETTINGS, toml(upstream))
        await lab.do("systemctl", "stop", SERVICE)
        assert lab.show(SERVICE, "ActiveState") == "inactive"
        assert await status(lab) == 200
        assert lab.show(SERVICE, "ActiveState") == "active"


async def test_a_long_drain_is_waited_for(lab, relay):
    """A drain longer than TimeoutStopSec= goes on to its end: the service asks for the time."""
    async with Upstream() as upstream:
        await start(lab, toml(upstream, drain=600), "TimeoutStopSec=1")
        async with streaming(relay, upstream) as (line, wire):
            stop = asyncio.create_task(lab.do("systemctl", "stop", SERVICE))
            await until(lambda: lab.show(SERVICE, "SubState") == "stop-sigterm")
            done, _ = await asyncio.wait({stop}, timeout=2)
            assert not done
            await finish(wire)
            assert (await line.answer()).whole
            await stop
    assert lab.show(SERVICE, "Result") == "success"


# ---- restarts by itself


async def test_a_frozen_loop_is_restarted(lab):
    """The process stands still: the watchdog ends it, and a request that waited is answered."""
    async with Upstream(OK) as upstream:
        await start(lab, toml(upstream), f"WatchdogSec={WATCHDOG}")
        fed = lab.show(SERVICE, "WatchdogTimestampMonotonic")
        await until(lambda: lab.show(SERVICE, "WatchdogTimestampMonotonic") != fed)
        frozen = main_pid(lab)
        loop = asyncio.get_running_loop()
        await lab.do("kill", "-STOP", frozen)
        began = loop.time()
        await until(lambda: main_pid(lab) not in (frozen, "0"))
        assert await status(lab) == 200
        took = loop.time() - began
        measured(f"watchdog: {took:.2f} s from frozen to answered, WatchdogSec={WATCHDOG} of it")
    assert int(lab.show(SERVICE, "NRestarts")) == 1
    assert "Watchdog timeout" in lab.journal(SERVICE, "-n", "50")


async def test_a_crash_is_mended(lab):
    """Killed with a stream open: it starts again, and a request that came meanwhile is answered."""
    async with Upstream() as upstream:
        await start(lab, toml(upstream))
        async with streaming(SimpleNamespace(port=lab.port), upstream) as (line, _):
            killed = main_pid(lab)
            await lab.do("kill", "-KILL", killed)
            assert not (await line.answer()).whole
            assert await status(lab, path="/readyz") == 200
        assert main_pid(lab) != killed
    assert int(lab.show(SERVICE, "NRestarts")) == 1


# ---- reload


async def test_reload_under_load_cuts_no_stream(lab, relay):
    """When `systemctl reload` returns the new key opens; streams go on to their end."""
    async with Upstream() as upstream, AsyncExitStack() as stack:
        await start(lab, toml(upstream, "a:old"))
        before = main_pid(lab)
        opened = [
            await stack.enter_async_context(streaming(relay, upstream, bearer("old")))
            for _ in range(MANY)
        ]
        lab.write(SETTINGS, toml(upstream, f"a:sha256:{sha256(b'new').hexdigest()}"))
        await lab.do("systemctl", "reload", SERVICE)
        assert await status(lab, bearer("old"), path="/metrics") == 401
        assert await status(lab, bearer("new"), path="/metrics") == 200
        for _, wire in opened:
            await wire.chunk(HELLO)
            await finish(wire)
        whole = Counter([(await line.answer()).whole for line, _ in opened])
        assert whole == {True: MANY}
        assert main_pid(lab) == before
    measured(f"reload under {MANY} streams: 0 cut")


async def test_reload_with_a_bad_file_fails(lab, relay):
    """The old settings stay in force, streams go on, and the journal names the key."""
    async with Upstream() as upstream:
        await start(lab, toml(upstream, "a:good"))
        async with streaming(relay, upstream, bearer("good")) as (line, wire):
            lab.write(SETTINGS, toml(upstream, "a:bad", drain='"soon"'))
            done = await lab.do("systemctl", "reload", SERVICE, check=False)
            assert done.returncode != 0
            assert lab.show(SERVICE, "ActiveState") == "active"
            assert "server.drain" in lab.journal(SERVICE, "-n", "20")
            assert await status(lab, bearer("good"), path="/metrics") == 200
            assert await status(lab, bearer("bad"), path="/metrics") == 401
            await finish(wire)
            assert (await line.answer()).whole


# ---- credentials and sandbox


async def test_credentials(lab):
    """A file of root's is the key upstream; no environment has it; a new one needs a restart."""
    async with Upstream(OK) as upstream:
        lab.write(f"{CREDENTIALS}/UP", "sk-first\n", 0o600)
        settings = toml(upstream).replace("sk-up", "${CREDENTIAL_UP}")
        await start(lab, settings)
        await status(lab)
        environ = lab.path(f"/proc/{main_pid(lab)}/environ").read_bytes()
        assert b"CREDENTIALS_DIRECTORY=" in environ
        assert b"sk-first" not in environ
        assert "sk-first" not in lab.run("systemctl", "show", SERVICE).stdout
        assert "sk-first" not in lab.journal(SERVICE)
        lab.write(f"{CREDENTIALS}/UP", "sk-second\n", 0o600)
        await lab.do("systemctl", "reload", SERVICE)
        await status(lab)
        await lab.do("systemctl", "restart", SERVICE)
        await status(lab)
    keys = [request.get("authorization") for request in upstream.requests]
    assert keys == ["Bearer sk-first", "Bearer sk-first", "Bearer sk-second"]


async def test_the_sandbox_serves(lab):
    """Through a proxy, with the demo, with its metrics: as a nobody without any capability."""
    async with Upstream(sse(*chat(["Hi"]))) as upstream, HttpProxy() as proxy:
        await start(lab, toml(upstream, more=f'[[pool]]\nname = "p"\nproxies = ["{proxy.url}"]\n'))
        answer = await exchange(lab.port, "POST", PATH, JSON, body=ASK)
        assert answer.body.endswith(b"data: [DONE]\n\n")
        assert proxy.targets == [f"127.0.0.1:{upstream.port}"]
        metrics = await exchange(lab.port, "GET", "/metrics")
        assert b"process_resident_memory_bytes" in metrics.body
    await start(lab, "")
    async with dial(lab.port) as line:
        await line.send("GET", "/chat?question=Why")
        await line.until(b"event: answer")
    process = lab.path(f"/proc/{main_pid(lab)}/status").read_text()
    fields = dict(re.findall(r"^(\w+):\s+(\S+)", process, flags=re.MULTILINE))
    assert int(fields["Uid"]) > 0
    assert (int(fields["CapEff"], 16), fields["NoNewPrivs"], fields["Seccomp"]) == (0, "1", "2")


# ---- restarts under load


class Load:
    """Clients that ask one after the other, each on a connection of its own, until told to stop."""

    def __init__(self, port):
        self.seen = Counter()
        self.longest = 0.0
        self._port = port

    @asynccontextmanager
    async def during(self, requests):
        """Ask while the body runs, and until there were so many in all."""
        self._wanted, self._stop = requests, False
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(self._ask())
            yield
            self._stop = True

    async def _ask(self):
        loop = asyncio.get_running_loop()
        while not self._stop or self.seen.total() < self._wanted:
            began = loop.time()
            try:
                answer = await exchange(self._port, "GET", "/v1/models")
                self.seen[answer.status] += 1
            except (OSError, AssertionError) as error:  # refused, or cut
                self.seen[type(error).__name__] += 1
            self.longest = max(self.longest, loop.time() - began)
            await asyncio.sleep(0.01)  # a client's pace


async def answered_or_held(request, wire):
    """Answer short requests; begin streams, and leave them open."""
    if request.target.endswith("/models"):
        await OK(request, wire)
    else:
        await wire.head(content_type="text/event-stream")
        await wire.chunk(HELLO)
        await wire.closed.wait()


async def test_an_idle_connection_is_closed_not_refused(lab, relay):
    """Its client comes again, and waits in the socket, instead of being told that we drain."""
    async with Upstream() as upstream:
        await start(lab, toml(upstream))
        async with streaming(relay, upstream) as (_, wire), dial(lab.port) as line:
            await line.send("GET", "/readyz", ("Connection", "keep-alive"))
            await line.until(b'"ok"}')
            restart = asyncio.create_task(lab.do("systemctl", "restart", SERVICE))
            with pytest.raises(EOFError):
                await line.until(b"HTTP/1.1 503")
            await finish(wire)
            await restart
        assert await status(lab, path="/readyz") == 200


async def test_the_target_is_all_of_it(lab):
    """Its restart leaves the port open; its stop closes it; its start brings all back."""
    lab.write(SETTINGS, "")
    before, port = main_pid(lab), lab.show(SOCKET, "ActiveEnterTimestampMonotonic")
    await lab.do("systemctl", "restart", TARGET)
    assert await status(lab, path="/readyz") == 200
    assert main_pid(lab) != before
    assert lab.show(SOCKET, "ActiveEnterTimestampMonotonic") == port
    await lab.do("systemctl", "stop", TARGET)
    await until(lambda: lab.show(SOCKET, "ActiveState") == "inactive")
    with pytest.raises(ConnectionRefusedError):
        await status(lab, path="/readyz")
    await lab.do("systemctl", "start", TARGET)
    assert await status(lab, path="/readyz") == 200


async def test_restarts_under_load_lose_no_request(lab):
    """They wait in the socket: none is refused; streams that are open end as the drain says."""
    load = Load(lab.port)
    told = 0
    async with Upstream(answered_or_held) as upstream:
        await start(lab, toml(upstream))
        for number in range(1, RESTARTS + 1):
            async with dial(lab.port) as line:
                await line.send("POST", PATH, JSON, body=ASK)
                await line.until(b"Hi")
                async with load.during(number * REQUESTS):
                    await lab.do("systemctl", "restart", SERVICE)
                answer = await line.answer()
                told += b'"code":"draining"' in answer.body and not answer.whole
    assert load.seen.keys() == {200}
    assert told == RESTARTS
    asked = load.seen.total()
    measured(
        f"{asked} requests over {RESTARTS} restarts: 0 lost; longest wait {load.longest:.2f} s"
        " with a drain of 1 s that an open stream used up"
    )


# ---- more than one


@pytest.fixture
def instances(lab):
    """Stop the one; afterwards stop the instances a and b, and forget how they were set up."""
    lab.run("systemctl", "stop", SERVICE)
    yield "teleprinter@a", "teleprinter@b"
    lab.run("systemctl", "stop", "teleprinter@*.socket", "teleprinter@*.service", SOCKET)
    for folder in ("teleprinter@.socket.d", "teleprinter@.service.d", f"{SOCKET}.d/shared.conf"):
        lab.run("rm", "-rf", f"/etc/systemd/system/{folder}")
    lab.run("systemctl", "daemon-reload")
    lab.run("systemctl", "start", SOCKET)


def rolling():
    """Return the page's command that restarts the instances, without sudo."""
    (line,) = re.findall(r"^for i in a b; do .*$", PAGE, re.MULTILINE)
    return line.partition("  #")[0].replace("sudo ", "")


async def restart_under_load(lab, port):
    """Restart a and b as the page says, while streams are open and requests come."""
    load = Load(port)
    async with dial(port) as line, dial(port) as other:
        for each in (line, other):
            await each.send("POST", PATH, JSON, body=ASK)
            await each.until(b"Hi")
        async with load.during(REQUESTS):
            await lab.do("sh", "-c", rolling())
    assert load.seen.keys() == {200}
    asked = load.seen.total()
    return f"{asked} requests over a rolling restart: 0 lost; longest wait {load.longest:.2f} s"


async def test_instances_share_a_port(lab, instances):
    """Each has a file of its name; the kernel spreads what comes over both."""
    port = real.free_port()
    listen = f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{port}\n"
    lab.write("/etc/systemd/system/teleprinter@.socket.d/port.conf", listen)
    async with Upstream(OK) as first, Upstream(OK) as second:
        for name, upstream in (("a", first), ("b", second)):
            lab.write(f"/etc/teleprinter/{name}.toml", toml(upstream))
        await lab.do("systemctl", "daemon-reload")
        await lab.do("systemctl", "start", *(f"{name}.socket" for name in instances))
        async with asyncio.timeout(real.START_WITHIN):
            while not (first.requests and second.requests):
                assert (await exchange(port, "GET", "/v1/models")).status == 200


async def test_a_rolling_restart_where_each_has_its_socket(lab, instances):
    """What the kernel gave to the one that restarts waits there; nothing is lost."""
    port = real.free_port()
    listen = f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{port}\n"
    lab.write("/etc/systemd/system/teleprinter@.socket.d/port.conf", listen)
    async with Upstream(answered_or_held) as upstream:
        for name in ("a", "b"):
            lab.write(f"/etc/teleprinter/{name}.toml", toml(upstream))
        await lab.do("systemctl", "daemon-reload")
        units = [f"{name}.{kind}" for name in instances for kind in ("socket", "service")]
        await lab.do("systemctl", "start", *units)
        measured(f"ReusePort=: {await restart_under_load(lab, port)}")


async def test_two_instances_at_one_socket_leave_nobody_waiting(lab, instances):
    """While one restarts, its streams drained, the other takes what comes: docs/operations.md.

    Each tells its state at its own address, before and after.
    """
    for file, lines in SHARED.findall(PAGE):
        lab.write(file, lines)
    own = {name: real.free_port() for name in ("a", "b")}
    async with Upstream(answered_or_held) as upstream:
        for name, port in own.items():
            admin = f'[server]\nadmin = "127.0.0.1:{port}"'
            settings = toml(upstream).replace("[server]", admin)
            lab.write(f"/etc/teleprinter/{name}.toml", settings)
        await lab.do("systemctl", "stop", SOCKET)
        await lab.do("systemctl", "daemon-reload")
        await lab.do("systemctl", "start", SOCKET, *(f"{name}.service" for name in instances))
        before = [await started(port) for port in own.values()]
        measured(f"one socket: {await restart_under_load(lab, lab.port)}")
        after = [await started(port) for port in own.values()]
    assert all(old < new for old, new in zip(before, after, strict=True))


async def started(port):
    """Return when the instance with this address began, by its metrics."""
    answer = await exchange(port, "GET", "/metrics")
    found = re.search(rb"^process_start_time_seconds (\S+)", answer.body, re.MULTILINE)
    return float(found[1])
