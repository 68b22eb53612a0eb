"""The nouns of a report: how big, what was measured, what it is compared with."""

from dataclasses import dataclass, field
from statistics import median


@dataclass(frozen=True)
class Size:
    """How much is measured.

    `rounds`: interleaved repetitions · `streams`, `tokens`: of the main workload · `answers`: short
    requests · `held`: streams of the memory workload · `many`: streams held · `growth`: numbers of
    streams · `window`: seconds of a look · `peers`: who takes part.
    """

    rounds: int
    streams: int
    tokens: int
    answers: int
    held: int
    many: int
    growth: tuple[int, ...]
    window: int
    peers: tuple[str, ...]


@dataclass
class Series:
    """One value a round, and medians of other things beside it."""

    target: str
    unit: str
    values: list[float]
    aside: dict[str, float] = field(default_factory=dict)

    @property
    def middle(self) -> float:
        """The median of the rounds."""
        return median(self.values)


@dataclass(frozen=True)
class Goal:
    """What a ratio should be at most; `stretch`: 0 = there is none."""

    most: float
    stretch: float = 0.0


@dataclass
class Ratio:
    """What a target is judged by, one value a round."""

    title: str
    values: list[float]
    goal: Goal

    @property
    def middle(self) -> float:
        """The median of the rounds."""
        return median(self.values)

    @property
    def verdict(self) -> str:
        """What came of it."""
        if self.goal.stretch and self.middle <= self.goal.stretch:
            return "stretch"
        return "met" if self.middle <= self.goal.most else "missed"


@dataclass
class Result:
    """What a workload found."""

    name: str
    title: str
    series: list[Series]
    ratios: list[Ratio] = field(default_factory=list)
