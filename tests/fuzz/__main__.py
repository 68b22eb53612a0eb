"""`make fuzz`: every property test with ten times the examples and new seeds, until time is up.

    python tests/fuzz --minutes 10 [pytest's own options, such as -k machine]

The files with such tests are run one after the other, in a new order each round. The first failure
ends it: hypothesis prints the example, and the last line is the command that finds it again.
Exit 0: nothing was found.
"""

import argparse
import random
import re
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).parents[2]
COUNTED = re.compile(r"(\d+) passing, ")
FAILED = 1
"""pytest's exit code; 5 is that no test was chosen."""
OPTIONS = ["-q", "-x", "-m", "hypothesis", "--hypothesis-profile=fuzz", "--tb=short"]
OPTIONS += ["--hypothesis-show-statistics", "-o", "faulthandler_timeout=0", "--show-capture=no"]


def files() -> list[str]:
    """Return the test files that use hypothesis, by themselves or through what they share."""
    tests = [*ROOT.glob("tests/test_*.py"), *ROOT.glob("tests/[a-z]*/test_*.py")]
    found = [file for file in tests if "hypothesis" in file.read_text(encoding="utf-8")]
    return [str(file.relative_to(ROOT)) for file in found]


def run(file: str, seed: int, seconds: float, more: list[str]) -> tuple[int, str]:
    """Run a file for so long at most; return pytest's exit code and what it printed."""
    options = [*OPTIONS, f"--hypothesis-seed={seed}", *more, file]
    command = [sys.executable, "-m", "pytest", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            text, _ = process.communicate(timeout=max(seconds, 1))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            text, _ = process.communicate()
    return process.returncode, text


def main() -> int:
    """Run rounds until the time is up or something was found."""
    parser = argparse.ArgumentParser(prog="make fuzz")
    parser.add_argument("--minutes", type=float, default=10)
    known, more = parser.parse_known_args()
    end = monotonic() + 60 * known.minutes
    total = 0
    while True:
        order = files()
        random.shuffle(order)
        for file in order:
            began, seed = monotonic(), random.SystemRandom().getrandbits(32)
            if began >= end:
                print(f"{total} examples, nothing found")  # noqa: T201
                return 0
            code, text = run(file, seed, end - began, more)
            if code == FAILED:
                print(text.partition("= Hypothesis Statistics =")[0])  # noqa: T201
                print(f"found by  pytest {file} --hypothesis-profile=fuzz --hypothesis-seed={seed}")  # noqa: T201
                return 1
            examples = sum(map(int, COUNTED.findall(text)))
            total += examples
            if examples:
                took = monotonic() - began
                print(f"{file}: {examples} examples, {took:.0f} s", flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
