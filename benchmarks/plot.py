"""The plot: a bar a target, as long as its median, with a line from its least to its most."""

from html import escape
from typing import Final

from benchmarks.results import Result, Series

SHOWN: Final = ("stream", "short")
"""The workloads that are drawn."""
_WIDTH: Final = 760
_LEFT: Final = 150
_RIGHT: Final = 90
_BAR: Final = 18
_STEP: Final = 26
_HEAD: Final = 48
_OURS: Final = "#2b6cb0"
_THEIRS: Final = "#a0aec0"
_STYLE: Final = (
    "text{font:13px system-ui,sans-serif;fill:#4a5568}"
    ".title{font-weight:600}"
    ".spread{stroke:#1a202c;stroke-width:1.5}"
    "@media(prefers-color-scheme:dark){text{fill:#cbd5e0}.spread{stroke:#f7fafc}}"
)


def bars(results: list[Result]) -> str:
    """Return an SVG with a panel for each result; what is far off is cut, with its figure."""
    panels, top = [], 0
    for result in results:
        shown = sorted(
            (each for each in result.series if not each.target.startswith("no relay")), key=_middle
        )
        if shown:
            panels.append(_panel(result.title, shown, top))
            top += _HEAD + _STEP * len(shown)
    size = f'width="{_WIDTH}" height="{top + 8}" viewBox="0 0 {_WIDTH} {top + 8}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    return "\n".join([head, f"<style>{_STYLE}</style>", *panels, "</svg>", ""])


def _middle(series: Series) -> float:
    return series.middle


def _panel(title: str, shown: list[Series], top: int) -> str:
    ours = max((each.middle for each in shown if _is_ours(each)), default=0.0)
    limit = max(2.2 * ours, shown[0].middle * 2)
    longest = min(max(max(each.values) for each in shown), limit)
    scale = (_WIDTH - _LEFT - _RIGHT) / longest
    rows = [_row(each, top + _HEAD + _STEP * at, scale, longest) for at, each in enumerate(shown)]
    unit = escape(shown[0].unit)
    text = f'<text class="title" x="8" y="{top + 28}">{escape(title)} ({unit})</text>'
    return "\n".join([text, *rows])


def _is_ours(series: Series) -> bool:
    return series.target.startswith("teleprinter")


def _row(series: Series, top: int, scale: float, longest: float) -> str:
    def x(value: float) -> float:
        return round(_LEFT + scale * min(value, longest), 1)

    middle, end = top + _BAR / 2, x(max(*series.values, series.middle))
    cut = " →" if series.middle > longest else ""
    colour = _OURS if _is_ours(series) else _THEIRS
    return (
        f'<text x="{_LEFT - 8}" y="{middle + 4}" text-anchor="end">{escape(series.target)}</text>'
        f'<rect x="{_LEFT}" y="{top}" width="{x(series.middle) - _LEFT:.1f}" height="{_BAR}"'
        f' rx="3" fill="{colour}"/>'
        f'<path class="spread" d="M{x(min(series.values))} {middle}H{end}"/>'
        f'<text x="{end + 6}" y="{middle + 4}">{series.middle:,.0f}{cut}</text>'
    )
