"""A target: what is put between load and upstream, or nothing, and measured."""

import hashlib
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import rig
from benchmarks.processes import Program, until
from benchmarks.rig import Ask, Load

KEY = "sk-bench-0123456789abcdef"
"""The key that clients show; the relay and LiteLLM check it, others hand it on."""
_CONF = Path(__file__).parent / "conf"
_PATIENCE = 90.0
"""Seconds for a program to answer its first request."""


@dataclass
class Target:
    """What listens on a port. `share`: the part of the usual load that it gets."""

    name: str
    port: int
    key: str
    programs: list[Program]
    folder: Path
    share: float = 1.0
    checks: list[dict[str, Any]] = field(default_factory=list)

    def cpu(self) -> float:
        """Return the seconds of processor time that it has used so far."""
        return sum(program.cpu() for program in self.programs)

    def memory(self) -> int:
        """Return the bytes that it has in memory."""
        return sum(program.memory() for program in self.programs)

    def stop(self) -> None:
        """End it."""
        for program in self.programs:
            program.stop()

    def answers(self) -> bool:
        """Tell whether it answers a request, waiting until it does or ends."""
        return until(self._answers_or_ended, _PATIENCE) and self.running

    @property
    def running(self) -> bool:
        """Whether all its programs run."""
        return all(program.running for program in self.programs)

    def why(self) -> str:
        """Return the end of what it wrote."""
        said = self.programs[0].written().strip() or "it says nothing"
        return said.splitlines()[-1][:300]

    def _answers_or_ended(self) -> bool:
        if not self.running:
            return True
        try:
            found = rig.run(self.folder / "first", self.port, self.key, Ask(), Load())
        except (ValueError, subprocess.TimeoutExpired):
            return False
        return not found["bad"]


def configured(name: str, folder: Path, **values: object) -> Path:
    """Write a configuration of benchmarks/conf with its @NAME@s filled in; return its path."""
    text = (_CONF / name).read_text()
    upstream = str(values["UPSTREAM"])
    known = {"KEY": KEY, "DIGEST": hashlib.sha256(KEY.encode()).hexdigest()}
    known["UPSTREAM_PORT"] = upstream.rpartition(":")[2]
    for key, value in {**known, **values}.items():
        text = text.replace(f"@{key}@", str(value))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(text)
    return file
