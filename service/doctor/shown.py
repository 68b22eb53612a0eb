"""How the doctor's findings are shown: a table that grows, plain lines, or JSON.

on a terminal, with the extra `doctor` (rich)   a table for each way, and what is being tried
elsewhere, or without rich                      a line a step, as it is done
--json                                          one object at the end, and nothing else
"""

from contextlib import suppress
from typing import Any, Final, Protocol, TextIO

import msgspec

from service.core.doctor.findings import Report, Step, Way

_MARKS: Final = {"ok": "ok", "warning": "WARN", "failed": "FAIL"}
_COLOURS: Final = {"ok": "green", "warning": "yellow", "failed": "red"}
_SUMMARY: Final = {
    "all": "all ways work",
    "some": "some ways work, others do not",
    "none": "no way works",
}
_DEMO: Final = "no upstream is configured: this is the built-in demo, which is always direct"


class Shown(Protocol):
    """Told of the findings as they come."""

    def started(self, *, demo: bool) -> None: ...  # noqa: D102

    def way_begins(self, way: Way) -> None: ...  # noqa: D102

    def step_begins(self, way: Way, step: str) -> None: ...  # noqa: D102

    def step_ends(self, way: Way, step: Step) -> None: ...  # noqa: D102

    def way_ends(self, way: Way) -> None: ...  # noqa: D102

    def ended(self, report: Report) -> None: ...  # noqa: D102

    def stopped(self) -> None: ...  # noqa: D102


def shown(out: TextIO, *, json: bool = False) -> Shown:
    """Return how to show the findings on that stream."""
    if json:
        return Json(out)
    with suppress(ImportError):
        if out.isatty():
            return Rich(out)
    return Plain(out)


class Json:
    """One object, when all is done."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def started(self, *, demo: bool) -> None:
        """Say nothing."""

    def way_begins(self, way: Way) -> None:
        """Say nothing."""

    def step_begins(self, way: Way, step: str) -> None:
        """Say nothing."""

    def step_ends(self, way: Way, step: Step) -> None:
        """Say nothing."""

    def way_ends(self, way: Way) -> None:
        """Say nothing."""

    def ended(self, report: Report) -> None:
        """Print the report."""
        text = msgspec.json.format(msgspec.json.encode(report), indent=2).decode()
        self._out.write(f"{text}\n")
        self._out.flush()

    def stopped(self) -> None:
        """Leave nothing behind, at the end and at Ctrl-C."""


class Plain(Json):
    """A line a step, and a line below for its cure; on a terminal, what is being tried below it."""

    def __init__(self, out: TextIO) -> None:
        super().__init__(out)
        self._clear = "\r\x1b[K" if out.isatty() else ""

    def started(self, *, demo: bool) -> None:
        """Say that there is only the demo, if so."""
        if demo:
            self._say(_DEMO)

    def way_begins(self, way: Way) -> None:
        """Name the way."""
        self._say(f"\n{way.upstream}: {way.url} through {way.way}")

    def step_begins(self, way: Way, step: str) -> None:  # noqa: ARG002
        """Say what is being tried, until it is known."""
        if self._clear:
            self._out.write(f"{self._clear}  ...   {step}")
            self._out.flush()

    def stopped(self) -> None:
        """Take away what was being tried."""
        self._out.write(self._clear)
        self._out.flush()

    def step_ends(self, way: Way, step: Step) -> None:  # noqa: ARG002
        """Print the step."""
        took = _time(step)
        self._say(f"  {_MARKS[step.result]:4}  {step.step:11} {took:>8}  {step.said}".rstrip())
        if step.cure:
            self._say(f"{'':26}  -> {step.cure}")

    def ended(self, report: Report) -> None:
        """Sum up."""
        self._say("")
        for remark in report.remarks:
            self._say(remark)
        self._say(_total(report))

    def _say(self, text: str) -> None:
        self._out.write(f"{self._clear}{text}\n")
        self._out.flush()


class Rich(Json):
    """A table for each way; what is being tried turns below it. Raises ImportError without rich."""

    def __init__(self, out: TextIO) -> None:
        from rich.console import Console  # noqa: PLC0415  an extra
        from rich.table import Table  # noqa: PLC0415

        super().__init__(out)
        self._console = Console(file=out, highlight=False, markup=False)
        self._table = Table
        self._spinner = self._console.status("")

    def started(self, *, demo: bool) -> None:
        """Begin to turn."""
        if demo:
            self._console.print(_DEMO)
        self._spinner.start()

    def step_begins(self, way: Way, step: str) -> None:
        """Say what is being tried."""
        self._spinner.update(f"{way.upstream} through {way.way}: {step}")

    def way_ends(self, way: Way) -> None:
        """Print the table of a way."""
        title = f"{way.upstream}: {way.url} through {way.way}"
        table = self._table("", "step", "time", "found", title=title, title_justify="left")
        for step in way.steps:
            table.add_row(*self._row(step))
        self._console.print(table)

    def _row(self, step: Step) -> list[Any]:
        from rich.text import Text  # noqa: PLC0415

        found = Text(step.said)
        if step.cure:
            found.append(f"\n→ {step.cure}", style="bold")
        mark = Text(_MARKS[step.result], style=_COLOURS[step.result])
        return [mark, Text(step.step), Text(_time(step)), found]

    def stopped(self) -> None:
        """Turn no more; the cursor is back."""
        self._spinner.stop()

    def ended(self, report: Report) -> None:
        """Sum up."""
        self.stopped()
        for text in [*report.remarks, _total(report)]:
            self._console.print(text)


def _time(step: Step) -> str:
    return "" if step.seconds is None else f"{step.seconds * 1000:.0f} ms"


def _total(report: Report) -> str:
    working = sum(way.works for way in report.ways)
    return f"{_SUMMARY[report.works]} ({working} of {len(report.ways)})"
