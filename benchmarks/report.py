"""What is left of a run: JSON, a Markdown table, a plot, and what is printed."""

import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import service
from benchmarks import plot
from benchmarks.lab import Checks
from benchmarks.processes import cores
from benchmarks.results import Ratio, Result, Series, Size


def machine() -> dict[str, str]:
    """Describe what it is to run on, how busy that is already, and what is to run."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("aiohttp", "uvloop"))
    load, measured = (",".join(map(str, sorted(each))) for each in cores())
    return {
        "processor": f"{_processor()}, {len(set().union(*cores()))} cores used",
        "cores": f"load and upstream on {load}, what is measured on {measured}",
        "memory": _memory(),
        "system": f"{_system()}, Linux {platform.release()}",
        "python": f"{_python()}, {packages}",
        "relay": f"teleprinter {service.__version__}{_commit()}",
        "other load": f"{os.getloadavg()[0]:.1f} processes wanted a core before it began",
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }


def _python() -> str:
    """Say which Python it is.

    A system's is built with a profile of itself, and faster than one of the defaults.
    """
    whose = "the system's" if sys.base_prefix == "/usr" else "not the system's"
    return f"{platform.python_implementation()} {platform.python_version()} ({whose})"


def _field(file: str, name: str) -> str:
    for line in Path(file).read_text().splitlines():
        key, mark, value = line.replace("=", ":", 1).partition(":")
        if mark and key.strip() == name:
            return value.strip().strip('"')
    return "unknown"


def _processor() -> str:
    return _field("/proc/cpuinfo", "model name")


def _memory() -> str:
    return f"{int(_field('/proc/meminfo', 'MemTotal').split()[0]) / 1e6:.0f} GB"


def _system() -> str:
    file = "/etc/os-release"
    return _field(file, "PRETTY_NAME") if Path(file).exists() else "unknown"


def _commit() -> str:
    """Return the commit, if git can tell."""
    git = shutil.which("git")
    if git is None:
        return ""
    root = Path(__file__).parents[1]
    ask = [git, "-C", str(root), "rev-parse", "--short", "HEAD"]
    found = subprocess.run(ask, capture_output=True, text=True, check=False)
    return f", {found.stdout.strip()}" if found.returncode == 0 else ""


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _spread(values: list[float]) -> str:
    return f"{_number(min(values))} … {_number(max(values))}"


def _goal(ratio: Ratio) -> str:
    stretch = f" ({_number(ratio.goal.stretch)})" if ratio.goal.stretch else ""
    return f"≤ {_number(ratio.goal.most)}{stretch}"


def _ratios(results: list[Result]) -> list[str]:
    rows = [
        _row(ratio.title, _number(ratio.middle), _spread(ratio.values), _goal(ratio), ratio.verdict)
        for result in results
        for ratio in result.ratios
    ]
    head = [_row("what", "median", "min … max", "goal (stretch)", ""), "|---|---|---|---|---|"]
    return [*head, *rows]


def _series(series: Series, first: float) -> str:
    aside = [f"{name} {_number(value)}" for name, value in series.aside.items()]
    relative = f"{series.middle / first:.2f}" if first > 0 else ""
    middle, spread = _number(series.middle), _spread(series.values)
    return _row(series.target, f"{middle} {series.unit}", spread, relative, ", ".join(aside))


def _result(result: Result) -> list[str]:
    """Return a table; its ratios are to nginx where nginx takes part, else to the first row."""
    units = {series.unit for series in result.series}
    bases = [series.middle for series in result.series if series.target == "nginx"]
    base = bases[0] if bases else result.series[0].middle if len(units) == 1 else 0
    head = [_row("", "median", "min … max", "÷ nginx" if bases else "÷ first", "beside")]
    rows = [_series(series, base) for series in result.series]
    return [f"### {result.title}", "", *head, "|---|---|---|---|---|", *rows, ""]


def checked(checks: Checks) -> str:
    """Say what was checked, and what the rig had to do for it."""
    sound = "every answer whole, every token in its order" if not checks.faults else "FAULTS"
    return (
        f"{checks.answers:,} answers, {checks.tokens:,} tokens: {sound}."
        f" At the given rates load and upstream needed {checks.busiest:.0%} of their core at most."
    )


@dataclass(frozen=True)
class Report:
    """A run: where, how much, what was found, what was checked, what was not measured."""

    machine: dict[str, str]
    size: Size
    results: list[Result]
    checks: Checks
    skipped: list[str]

    def markdown(self) -> str:
        """Return it as Markdown."""
        lines = [
            "# Benchmark",
            "",
            *[f"- {name}: {value}" for name, value in self.machine.items()],
            f"- rounds: {self.size.rounds}, interleaved; medians",
            f"- checked: {checked(self.checks)}",
            *[f"- fault: {fault}" for fault in self.checks.faults],
            *[f"- skipped: {line}" for line in self.skipped],
            "",
            *_ratios(self.results),
            "",
            *[line for result in self.results for line in _result(result)],
        ]
        return "\n".join(lines)

    def plain(self) -> dict[str, Any]:
        """Return it as what JSON can say, every round's value in it."""
        return {
            "machine": self.machine,
            "size": asdict(self.size),
            "checks": asdict(self.checks),
            "skipped": self.skipped,
            "results": [_plain(result) for result in self.results],
        }

    def write(self, folder: Path) -> list[Path]:
        """Write latest.json, latest.md and latest.svg; return their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        files = {
            "latest.json": json.dumps(self.plain(), indent=1, ensure_ascii=False) + "\n",
            "latest.md": self.markdown(),
            "latest.svg": plot.bars([each for each in self.results if each.name in plot.SHOWN]),
        }
        for name, text in files.items():
            (folder / name).write_text(text)
        return [folder / name for name in files]


def _plain(result: Result) -> dict[str, Any]:
    found = asdict(result)
    for each in [*found["series"], *found["ratios"]]:
        values = each["values"]
        each |= {"median": median(values), "min": min(values), "max": max(values)}
    return found
