"""The relay seen from outside: its memory, descriptors and processor time, and its own counts."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import aiohttp
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from soak.kinds import KEY

_TICKS = os.sysconf("SC_CLK_TCK")


class Gauge:
    """Reads a process by its pid, and the relay by its URL."""

    def __init__(self, pid: int, url: str, session: aiohttp.ClientSession) -> None:
        self._process = Path(f"/proc/{pid}")
        self._url = url
        self._session = session

    def rss(self) -> float:
        """Return its resident memory in MiB."""
        lines = self._process.joinpath("status").read_text().splitlines()
        [line] = (line for line in lines if line.startswith("VmRSS:"))
        return int(line.split()[1]) / 1024

    def descriptors(self) -> int:
        """Return how many descriptors it has open."""
        return sum(1 for _ in self._process.joinpath("fd").iterdir())

    def seconds(self) -> float:
        """Return the processor time that it has taken."""
        fields = self._process.joinpath("stat").read_text().rpartition(")")[2].split()
        user, system = 11, 12
        return (int(fields[user]) + int(fields[system])) / _TICKS

    async def metrics(self) -> list[Metric]:
        """Return what /metrics says."""
        async with self._session.get(self._url + "/metrics") as response:
            return list(text_string_to_metric_families(await response.text()))

    async def open_streams(self) -> int:
        """Return how many streams are open, by /status.json."""
        async with self._session.get(self._url + "/status.json", headers=KEY) as response:
            return (await response.json())["relay"]["open"]


def outcomes(metrics: Iterable[Metric]) -> Counter[str]:
    """Return how many streams came to what."""
    counts: Counter[str] = Counter()
    for metric in metrics:
        if metric.name == "teleprinter_streams":
            for sample in metric.samples:
                counts[sample.labels["outcome"]] += int(sample.value)
    return +counts


def longest_lag(metrics: Iterable[Metric]) -> str:
    """Return the bound of the loop's longest lag, with its unit; "none" before the first look."""
    [metric] = (each for each in metrics if each.name == "teleprinter_loop_lag_seconds")
    buckets = [each for each in metric.samples if each.name.endswith("_bucket")]
    looks = buckets[-1].value
    bound = next((each.labels["le"] for each in buckets if looks and each.value == looks), "none")
    return {"none": "none", "+Inf": "> 5 s"}.get(bound, f"≤ {bound} s")
