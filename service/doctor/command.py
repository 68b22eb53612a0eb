"""`teleprinter doctor`: every way to every upstream, tried step by step.

Settings ─▶ an Examination for each upstream × way, one after the other ─▶ Report ─▶ exit code
"""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

from msgspec.structs import replace

from service.adapters.clock import Clock, LoopClock
from service.core.doctor.findings import Report, Way, report
from service.core.doctor.lumps import blame
from service.demo import demo_upstream
from service.doctor.examination import Examination, Wishes
from service.doctor.shown import Shown
from service.settings import Settings, SettingsError, Upstream


def run(settings: Settings, names: Sequence[str], wishes: Wishes, shown: Shown) -> int:
    """Examine and show; return the exit code: 0 all ways work, 1 some, 2 none.

    `names`: of the upstreams to examine, none = all. Raises SettingsError for one that is none.
    """
    with asyncio.Runner() as loop:
        return loop.run(examine(settings, names, wishes, shown)).exit


async def examine(
    settings: Settings,
    names: Sequence[str],
    wishes: Wishes,
    shown: Shown,
    clock: Clock | None = None,
) -> Report:
    """Return what was found on all ways, shown as it was found."""
    chosen = _chosen(settings, names)
    clock = clock or LoopClock()
    async with AsyncExitStack() as stack:
        if demo := not chosen:
            url = await stack.enter_async_context(demo_upstream())
            chosen = [Upstream(name="demo", url=url)]
            settings = replace(settings, upstream=tuple(chosen), pool=())
        stack.callback(shown.stopped)
        shown.started(demo=demo)
        ways = [
            await _way(Examination(settings, upstream, proxy, clock, wishes, shown), shown)
            for upstream in chosen
            for proxy in settings.ways(upstream)
        ]
    found = report(ways, demo=demo)
    found.remarks = [f"{w.upstream} through {w.way}: {t}" for w in ways if (t := blame(w, ways))]
    shown.ended(found)
    return found


async def _way(examination: Examination, shown: Shown) -> Way:
    shown.way_begins(examination.way)
    way = await examination.run()
    shown.way_ends(way)
    return way


def _chosen(settings: Settings, names: Sequence[str]) -> list[Upstream]:
    known = {upstream.name: upstream for upstream in settings.upstream}
    for name in names:
        if name not in known:
            there = ", ".join(known) or "none is configured"
            raise SettingsError(f"--upstream: expected the name of an upstream: {there}")
    return [known[name] for name in dict.fromkeys(names)] or list(known.values())
