"""What is measured. Each workload takes the lab and a size, and returns a Result.

Microseconds of processor time unless said otherwise. A ratio is made in each round from what was
measured in that round, seconds apart, so that a noisy machine spoils both alike.
"""

import os
import resource
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks import relay, rig
from benchmarks.lab import Lab, Sample, interleaved
from benchmarks.peers import FLOOR
from benchmarks.processes import Program, cores, until
from benchmarks.results import Goal, Ratio, Result, Series, Size
from benchmarks.rig import ENDLESS, Ask, Load, read_left
from benchmarks.target import Target, configured

_RATE: Final = 20_000
"""Microseconds between two tokens of a stream: 50 a second."""
_ME: Final = "teleprinter /v1"
_CHAT: Final = "teleprinter /chat"
_SMOOTH: Final = "teleprinter smooth"
_RIG: Final = "no relay: load + upstream"
_TO_BE_SEEN: Final = 5.0
_DESCRIPTORS: Final = 200
_MEGABYTE: Final = 1e6


def _costs(found: dict[str, list[Sample]], per: str) -> list[Series]:
    """Return what one of the load's `per`, such as tokens, cost each; `direct`: cost the rig."""
    return [
        Series(name, "µs", [_cost(run, name) * 1e6 / max(run.found[per], 1) for run in runs])
        for name, runs in found.items()
    ]


def _cost(run: Sample, name: str) -> float:
    return run.rig_cpu if name == _RIG else run.cpu


def _aside(found: dict[str, list[Sample]], series: list[Series]) -> list[Series]:
    """Add to each series how old its tokens were and how busy its core was.

    More than one token a read: they were held up and joined, which is cheaper than it should be.
    """
    for each in series:
        runs = found[each.target]
        each.aside = {
            "age p50 ms": median(run.found["age_us"]["p50"] for run in runs) / 1000,
            "age p99 ms": median(run.found["age_us"]["p99"] for run in runs) / 1000,
            "core busy": median(run.busy for run in runs),
            "tokens a read": median(run.found["tokens"] / run.found["reads"] for run in runs),
            "streams": max(run.found["answers"] for run in runs),
        }
    return series


def _ratio(title: str, above: Series | None, below: Series | None, goal: Goal) -> list[Ratio]:
    """Divide round by round; nothing if one of both was not measured."""
    if above is None or below is None:
        return []
    values = [a / b for a, b in zip(above.values, below.values, strict=True) if b > 0]
    return [Ratio(title, values, goal)] if values else []


def _named(series: Sequence[Series], name: str) -> Series | None:
    return next((each for each in series if each.target == name), None)


def capacity(lab: Lab, size: Size) -> Result:
    """Let the rig run alone, as fast as it can: it is not what is measured elsewhere."""
    ask, load = Ask(tokens=size.tokens * 4), Load(50, 50)
    lab.say("the rig alone")
    runs = [lab.sample(lab.direct(), ask, load) for _ in range(size.rounds)]
    rates = [run.found["tokens"] / run.found["seconds"] for run in runs]
    series = [Series("no relay", "tokens/s", rates), *_costs({_RIG: runs}, "tokens")]
    return Result("capacity", "The rig alone, as fast as it can", series)


def streams(lab: Lab, size: Size) -> list[Result]:
    """Measure streams, short requests and latency, with all peers up."""
    with lab.relay() as mine, lab.peers(size.peers) as peers:
        return [
            paced(lab, size, mine, peers),
            _short(lab, size, mine, peers, keep=False),
            _short(lab, size, mine, peers, keep=True),
            _latency(lab, size, mine, peers),
        ]


def paced(lab: Lab, size: Size, mine: Target, peers: list[Target]) -> Result:
    """Measure streams at 50 tokens/s, through the relay in each of its ways and through peers."""
    plain = Ask(tokens=size.tokens, every=_RATE)
    chat = Ask("/chat", size.tokens, _RATE)
    smooth = Ask(tokens=size.tokens, every=_RATE, headers=("Teleprinter-Pace: smooth",))
    asks = {_RIG: (lab.direct(), plain), _ME: (mine, plain), _CHAT: (mine, chat)}
    if _takes(mine, smooth):
        asks[_SMOOTH] = (mine, smooth)
    else:
        lab.skip("smooth: the relay does not take the header Teleprinter-Pace: smooth")
    asks |= {peer.name: (peer, plain) for peer in peers}

    def measure(name: str) -> Sample:
        lab.say(f"streams: {name}")
        return lab.sample(*asks[name], Load(size.streams))

    found = interleaved(size.rounds, list(asks), measure)
    series = _aside(found, _costs(found, "tokens"))
    me, nginx, envoy = (_named(series, name) for name in (_ME, "nginx", "envoy"))
    ratios = [
        *_ratio("/v1 stream, CPU a token ÷ nginx's", me, nginx, Goal(2.1, 1.7)),
        *_ratio("/chat stream ÷ nginx's", _named(series, _CHAT), nginx, Goal(2.4, 1.9)),
        *_ratio("/v1 stream ÷ Envoy's", me, envoy, Goal(1.3, 1.0)),
        *_ratio("smooth ÷ off", _named(series, _SMOOTH), me, Goal(1.5, 1.2)),
    ]
    title = f"CPU a token: {size.streams} streams at 50 tokens/s, {size.tokens} tokens each"
    return Result("stream", title, series, ratios)


def _takes(target: Target, ask: Ask) -> bool:
    short = Ask(ask.path, 1, 0, headers=ask.headers)
    return not rig.run(target.folder / "probe", target.port, target.key, short, Load())["bad"]


def _short(lab: Lab, size: Size, mine: Target, peers: list[Target], *, keep: bool) -> Result:
    targets = {_RIG: lab.direct()} | {each.name: each for each in [mine, *peers]}
    ask = Ask(stream=False)

    def measure(name: str) -> Sample:
        lab.say(f"short requests{', kept connections' if keep else ''}: {name}")
        return lab.sample(targets[name], ask, Load(50, size.answers, 0, keep))

    found = interleaved(size.rounds, list(targets), measure)
    series = _costs(found, "answers")
    me, envoy = _named(series, mine.name), _named(series, "envoy")
    how = "kept connections" if keep else "new connections"
    ratios = _ratio(f"short request ÷ Envoy's, {how}", me, envoy, Goal(5, 3.5))
    title = f"CPU a short request: a JSON answer, {how}, 50 at a time"
    return Result("short_kept" if keep else "short", title, series, ratios)


def _latency(lab: Lab, size: Size, mine: Target, peers: list[Target]) -> Result:
    near = [peer for peer in peers if peer.name in {"nginx", "envoy", FLOOR}]
    targets = {each.name: each for each in [lab.direct(), mine, *near]}
    ask = Ask(tokens=size.window * 20, every=50_000)

    def measure(name: str) -> Sample:
        lab.say(f"latency: {name}")
        return lab.sample(targets[name], ask, Load(100, ramp=700))

    found = interleaved(size.rounds, list(targets), measure)
    series = []
    added: dict[str, Series] = {}
    for quantile in ("p50", "p99"):
        ages = {name: [r.found["age_us"][quantile] for r in runs] for name, runs in found.items()}
        series += [Series(f"{name} {quantile}", "µs of age", ages[name]) for name in ages]
        if quantile == "p50":
            for name, old in ages.items():
                more = [a - b for a, b in zip(old, ages["direct"], strict=True)]
                added[name] = Series(f"{name} added p50", "µs of age", more)
    ratio = _ratio(
        "added latency, p50 ÷ nginx's", added[mine.name], added.get("nginx"), Goal(2, 1.2)
    )
    title = "How old a token is when it arrives: 100 streams at 20 tokens/s"
    return Result("latency", title, series, ratio)


def memory(lab: Lab, size: Size) -> Result:
    """Measure the memory of held streams, in a process that is new each time."""
    found: dict[str, list[float]] = {_ME: [], FLOOR: []}
    for number in range(size.rounds):
        lab.say(f"memory: {size.held} streams, round {number + 1}")
        with lab.relay("memory") as mine:
            found[_ME].append(_a_held_stream(lab, mine, size.held))
        with lab.peers([FLOOR]) as floor:
            found[FLOOR] += [_a_held_stream(lab, each, size.held) for each in floor]
    series = [Series(name, "KB", values) for name, values in found.items() if values]
    ratio = Ratio("memory a held stream, KB", found[_ME], Goal(30, 20))
    title = f"Memory a held stream, both legs, at {size.held} (RSS)"
    return Result("memory", title, series, [ratio])


def _a_held_stream(lab: Lab, target: Target, count: int) -> float:
    """Return the KB that each of so many streams adds."""
    lab.sample(target, Ask(), Load(20, 200, 0))
    before = target.memory()
    with lab.holding(target, Ask(tokens=ENDLESS, every=5_000_000), Load(count, ramp=1000)):
        return (target.memory() - before) / count / 1000


def tunnels(lab: Lab, size: Size) -> Result:
    """Measure the way through SOCKS5 and TLS against TLS alone."""
    with _tls(lab) as (url, ca_file), _tunnel(lab, "socks") as proxy, ExitStack() as stack:
        ways = {"direct + TLS": "direct", "SOCKS5 + TLS": f"socks5h://127.0.0.1:{proxy}"}
        targets = {
            name: stack.enter_context(
                lab.relay(f"tls-{way[:5]}", upstream=url, proxy=way, ca_file=str(ca_file))
            )
            for name, way in ways.items()
        }
        ask = Ask(tokens=size.tokens // 2, every=_RATE)

        def measure(name: str) -> Sample:
            lab.say(f"way out: {name}")
            return lab.sample(targets[name], ask, Load(60))

        found = interleaved(size.rounds, list(targets), measure)
    series = _aside(found, _costs(found, "tokens"))
    ratio = _ratio("through SOCKS5 + TLS ÷ direct + TLS", series[1], series[0], Goal(1.2, 1.05))
    return Result("tunnel", "CPU a token, the way out: 60 streams at 50 tokens/s", series, ratio)


@contextmanager
def _tunnel(lab: Lab, kind: str, *rest: str) -> Iterator[int]:
    command = [*relay.python("benchmarks.tunnel"), kind, *rest]
    folder = lab.folder / kind
    program = Program(command, folder, cpus=cores()[0], variables=relay.PYTHON, piped=True)
    try:
        assert program.stdout is not None
        yield int(program.stdout.readline())
    finally:
        program.stop()


@contextmanager
def _tls(lab: Lab) -> Iterator[tuple[str, Path]]:
    """Yield a TLS origin in front of the upstream and its authority, made for this run."""
    import trustme  # noqa: PLC0415  only here

    authority = trustme.CA()
    file, certificate = lab.folder / "ca.pem", lab.folder / "server.pem"
    authority.cert_pem.write_to_path(str(file))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    with _tunnel(lab, "tls", str(lab.upstream.port), str(certificate)) as port:
        yield f"https://127.0.0.1:{port}", file


def instances(lab: Lab, size: Size) -> Result:
    """Measure two processes on one port (SO_REUSEPORT, sockets handed over) against one."""
    ask, load = Ask(tokens=size.tokens // 4, every=50_000), Load(size.streams)
    with ExitStack() as stack:
        targets = {}
        for name, count in (("1 instance", 1), ("2 instances", 2)):
            sockets = [stack.enter_context(each) for each in _reuseport(count)]
            targets[name] = stack.enter_context(lab.relay(name.replace(" ", "-"), sockets=sockets))
            for each in sockets:
                each.close()  # the relay has its own; a queue that nobody serves must not stay

        def measure(name: str) -> Sample:
            lab.say(f"instances: {name}")
            return lab.sample(targets[name], ask, load)

        found = interleaved(size.rounds, list(targets), measure)
        served = [relay.requests(program) for program in targets["2 instances"].programs]
    series = _aside(found, _costs(found, "tokens"))
    share = 100 * max(served) / sum(served)
    ratios = [
        *_ratio("CPU a token with 2 instances ÷ 1", series[1], series[0], Goal(1.1)),
        Ratio("the busier instance's share of connections, %", [share], Goal(55)),
    ]
    title = f"CPU a token, instances: {size.streams} streams at 20 tokens/s"
    return Result("instances", title, series, ratios)


def _reuseport(count: int) -> list[socket.socket]:
    """Return listening sockets that share a port."""
    sockets: list[socket.socket] = []
    for _ in range(count):
        each = socket.socket()
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        each.bind(("127.0.0.1", sockets[0].getsockname()[1] if sockets else 0))
        sockets.append(each)
    for each in sockets:
        each.listen(4096)
    return sockets


def start(lab: Lab, size: Size) -> Result:
    """Measure what a start costs until READY=1 is said."""
    used, waited = [], []
    for number in range(size.rounds + 1):
        cpu, seconds = _to_ready(lab)
        if number:  # the first one compiles
            used.append(cpu)
            waited.append(seconds)
    lab.say("start to READY")
    series = [Series("CPU", "s", used), Series("wall clock", "s", waited)]
    ratio = Ratio("start to READY, CPU s", used, Goal(0.6, 0.35))
    return Result("start", "Start to READY=1", series, [ratio])


def _to_ready(lab: Lab) -> tuple[float, float]:
    folder = lab.folder / "start"
    values = {"PORT": 0, "UPSTREAM": lab.upstream.url, "PROXY": "direct", "CA": ""}
    file = configured("teleprinter.toml", folder, **values)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0teleprinter-bench-{os.getpid()}")
        manager.settimeout(60)
        variables = {**relay.PYTHON, "NOTIFY_SOCKET": f"@teleprinter-bench-{os.getpid()}"}
        began = time.monotonic()
        program = Program(relay.command(file), folder, cpus=cores()[1], variables=variables)
        try:
            while b"READY=1" not in manager.recv(4096):
                pass
            return program.cpu(), time.monotonic() - began
        finally:
            program.stop()


def held(lab: Lab, size: Size) -> Result:
    """Hold many streams that hardly say anything."""
    ask = Ask(tokens=ENDLESS, every=5_000_000)
    count = _affordable(lab, size.many)
    lab.say(f"held: {count} streams")
    with lab.relay("held") as target:
        lab.sample(target, Ask(), Load(20, 200, 0))
        before, lags = target.memory(), relay.lags(target)
        with lab.holding(target, ask, Load(count, ramp=1500)):
            opened = relay.lags(target)
            memory = target.memory()
            cpu, since = target.cpu(), time.monotonic()
            time.sleep(size.window * 2)
            used = (target.cpu() - cpu) / (time.monotonic() - since)
            after = relay.lags(target)
    series = [
        Series("memory", "MB", [(memory - before) / _MEGABYTE]),
        Series("memory a stream", "KB", [(memory - before) / count / 1000]),
        Series("one core busy", "%", [used * 100]),
        Series(
            "longest loop lag while they open, at most", "ms", [relay.longest(lags, opened) * 1000]
        ),
        Series("longest loop lag while held, at most", "ms", [relay.longest(opened, after) * 1000]),
    ]
    return Result("held", f"{count} streams held, a token each 5 s", series)


def _affordable(lab: Lab, count: int) -> int:
    """Return so many streams as the descriptors allow, two each."""
    allowed = (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - _DESCRIPTORS) // 2
    if allowed < count:
        lab.skip(f"more than {allowed} streams: ulimit -n allows no more than two descriptors each")
    return min(count, allowed)


def growth(lab: Lab, size: Size) -> Result:
    """Measure a token's cost as streams grow, the tokens a second staying what they are."""
    rate = 3000
    counts = [_affordable(lab, count) for count in size.growth]
    with lab.relay("growth") as target:

        def measure(name: str) -> float:
            count = int(name)
            lab.say(f"growth: {count} streams")
            ask = Ask(tokens=ENDLESS, every=count * 1_000_000 // rate)
            with lab.holding(target, ask, Load(count, ramp=1000)) as streams:
                time.sleep(0.5)
                cpu, before = target.cpu(), streams.look()
                time.sleep(size.window)
                now, after = target.cpu(), streams.look()
                return (now - cpu) * 1e6 / float(after["tokens"] - before["tokens"])

        found = interleaved(size.rounds, [str(count) for count in counts], measure)
        time.sleep(0.5)  # the streams of the last round are let go
    series = [Series(f"{name} streams", "µs", values) for name, values in found.items()]
    title = f"CPU a token as streams grow, {rate} tokens/s in all, streams already open"
    ratio = _ratio(
        f"CPU a token, {counts[-1]} streams ÷ {counts[0]}", series[-1], series[0], Goal(1.33)
    )
    return Result("growth", title, series, ratio)


def leaving(lab: Lab, size: Size) -> Result:
    """Measure how soon the upstream sees that a client has left."""
    ask = Ask(tokens=ENDLESS, every=_RATE)
    with lab.relay() as mine, lab.peers(["nginx"]) as peers:
        targets = {each.name: each for each in [mine, *peers]}

        def measure(name: str) -> list[float]:
            lab.say(f"leaving: {name}")
            target = targets[name]
            lab.sample(target, ask, Load(20, size.answers // 10, 2000, leave=10))
            went = read_left(lab.folder / "load" / name / "leaving")
            until_seen(lab, went)
            seen = lab.upstream.left()
            missed = [number for number in went if number not in seen]
            if missed:
                lab.checks.faults.append(f"{name}: {len(missed)} streams go on without a client")
            return sorted((seen[n] - went[n]) / 1e6 for n in went if n in seen)

        found = interleaved(size.rounds, list(targets), measure)
    series = [
        Series(f"{name} p{quantile}", "ms", [_quantile(run, quantile) for run in runs if run])
        for name, runs in found.items()
        for quantile in (50, 99)
    ]
    return Result("leaving", "From a client's leaving to the upstream's close", series)


def until_seen(lab: Lab, went: Iterable[int]) -> bool:
    """Wait until the upstream saw those answers being left; return False if it does not."""
    numbers = set(went)
    return until(lambda: numbers <= lab.upstream.left().keys(), _TO_BE_SEEN)


def _quantile(values: list[float], percent: int) -> float:
    return values[(len(values) - 1) * percent // 100]


def _several(work: Callable[[Lab, Size], Any]) -> Callable[[Lab, Size], list[Result]]:
    def run(lab: Lab, size: Size) -> list[Result]:
        found = work(lab, size)
        return found if isinstance(found, list) else [found]

    return run


ALL: Final[dict[str, Callable[[Lab, Size], list[Result]]]] = {
    work.__name__: _several(work)
    for work in (
        capacity,
        streams,
        memory,
        tunnels,
        instances,
        start,
        held,
        growth,
        leaving,
    )
}
