"""The command line: `python -m benchmarks [--quick] [--only WORKLOAD,…] [--peers NAME,…]`."""

import argparse
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from benchmarks import peers, report, rig, workloads
from benchmarks.lab import Lab
from benchmarks.results import Result, Size
from benchmarks.rig import Upstream

FULL = Size(
    rounds=9,
    streams=300,
    tokens=500,
    answers=5000,
    held=1000,
    many=5000,
    growth=(10, 100, 1000, 3000),
    window=5,
    peers=tuple(peer.name for peer in peers.ALL),
)
QUICK = Size(
    rounds=1,
    streams=100,
    tokens=100,
    answers=600,
    held=200,
    many=300,
    growth=(10, 100),
    window=1,
    peers=("nginx", "envoy"),
)
RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str] | None = None) -> int:
    """Run; return 0, 1 if an answer was not as it must be, 2 if it could not begin."""
    asked = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _end)
    try:
        rig.build()
    except rig.NoCompilerError as error:
        print(error, file=sys.stderr)
        return 2
    size = _size(asked)
    before = report.machine()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        upstream = Upstream(Path(folder) / "upstream")
        try:
            lab = Lab(Path(folder), upstream, _say)
            results = _run(lab, size, asked.only)
        finally:
            upstream.program.stop()
    told = report.Report(before, size, results, lab.checks, lab.skipped)
    print(told.markdown())
    if asked.out:
        for file in told.write(asked.out):
            _say(f"written: {file}")
    return bool(lab.checks.faults)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench ARGS=…", description="Measures the relay.")
    parser.add_argument("--quick", action="store_true", help="under a minute; nothing is written")
    parser.add_argument("--only", type=_names, help=f"of {', '.join(workloads.ALL)}")
    parser.add_argument("--peers", type=_names, help="of those that are there; '' = none")
    parser.add_argument("--rounds", type=int, help="interleaved repetitions")
    parser.add_argument("--streams", type=int, help="of the workloads at 50 tokens/s")
    parser.add_argument("--out", type=Path, help="folder of the report; full run: results/")
    return parser


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _size(asked: argparse.Namespace) -> Size:
    size = QUICK if asked.quick else FULL
    if asked.peers is not None:
        size = replace(size, peers=tuple(asked.peers))
    if asked.out is None and not asked.quick and asked.only is None:
        asked.out = RESULTS
    streams = asked.streams or size.streams
    return replace(size, rounds=asked.rounds or size.rounds, streams=streams)


def _run(lab: Lab, size: Size, only: list[str] | None) -> list[Result]:
    chosen = {name: work for name, work in workloads.ALL.items() if not only or name in only}
    return [result for work in chosen.values() for result in work(lab, size)]


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def _end(*_: object) -> NoReturn:
    sys.exit(143)


if __name__ == "__main__":
    sys.exit(main())
