"""Which test proves what, which client and proxy is tried how: tests/README.md, made from them.

python tests/tables.py     writes it; test_tables.py fails when it is out of date
"""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from promises import PROMISES, section

HERE = Path(__file__).parent
PAGE = HERE / "README.md"
MARKS = "not model"
"""What pyproject.toml leaves out of every run."""

CLIENT_CASES = {
    "plain stream": r"plain|socks",
    "CJK, emoji": r"cjk",
    "heartbeat before": r"heartbeat before",
    "heartbeat between": r"heartbeat between",
    "cut": r"cut|end without|left open after a cut",
    "error status": r"error|refused|no way out",
    "cancel": r"cancel|closed tab",
    "all else": r"",
}
WAYS = ["http streamed", "http plain", "https streamed", "https plain"]
UPSTREAMS = ["http", "https"]

INTRODUCTION = """# What is tried

`make test` runs all of it; each number is so many tests, counted from their names.
`pytest --collect-only -q` lists them. This page is made by `python tests/tables.py`.
"""
PROVEN = """
## Promises

What users may rely on, and the tests that prove it: `promises.py`, held against the tests.
"""
CLIENTS = """
## Clients

Each runs for real against the relay, with only its address changed, through a proxy, to an
upstream that speaks the provider's wire. What a client does wrong by itself stands in its test,
with the bug.
"""
PROXIES = """
## Proxies

Proxies that speak byte for byte what the test says: kind, with and without credentials, to an
`http://` and an `https://` upstream, streamed and plain, on asyncio and uvloop.
"""
REAL = """
Real proxies, started by the tests: a streamed answer through each.
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(listed), encoding="utf-8")


Names = Callable[..., list[str]]


def page(names: Names) -> str:
    """Return the page; `names` gives what stands in brackets in the names of these files' tests."""
    clients = names("clients", "test_clients_node.py", "test_clients_node_sdks.py",
                    "test_clients_browser.py", "test_clients_curl.py")  # fmt: skip
    cells = [(client, case_of(case)) for client, case in split(clients, r"([\w.() -]+): (.+)")]
    fakes = split(names("test_proxies.py"), r"(?:asyncio|uvloop)-(\S+ (?:bare|auth)) (\S+ \w+)")
    real = split(names("test_proxies_real.py"), r"(\S+ \S+ (?:bare|auth)) (https?)")
    return "".join(
        [
            INTRODUCTION,
            PROVEN,
            *(f"{line}\n" for title in PROMISES for line in section(title)),
            CLIENTS,
            table("client", cells, list(CLIENT_CASES)),
            PROXIES,
            table("kind", fakes, WAYS),
            REAL,
            table("proxy, kind", real, UPSTREAMS),
        ]
    )


def listed(*files: str) -> list[str]:
    """Let a pytest of their own name these files' tests."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    told = subprocess.run(  # noqa: S603  our own tests
        [*command, "-p", "no:xdist", *(str(HERE / file) for file in files)],
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return bracketed(told.stdout.splitlines())


def collected(nodeids: Iterable[str]) -> Names:
    """Look among the names of a run that has all tests."""
    nodeids = list(nodeids)

    def names(*files: str) -> list[str]:
        starts = [f"{HERE.name}/{file}" for file in files]
        return bracketed(one for start in starts for one in nodeids if one.startswith(start))

    return names


def bracketed(nodeids: Iterable[str]) -> list[str]:
    """Return what stands in brackets at the end of names."""
    return [found[1] for one in nodeids if (found := re.search(r"\[(.*)\]$", one))]


def split(found: Iterable[str], shape: str) -> Iterator[tuple[str, str]]:
    """Yield row and column of the names that have this shape."""
    for name in found:
        if match := re.fullmatch(shape, name):
            yield match[1], match[2]


def case_of(case: str) -> str:
    """Return the column of a client's case."""
    return next(name for name, word in CLIENT_CASES.items() if re.match(word, case.lower()))


def table(corner: str, cells: Iterable[tuple[str, str]], columns: list[str]) -> str:
    """Return a Markdown table of how many tests each cell has."""
    counts = Counter(cells)
    rows = dict.fromkeys(row for row, _ in counts)
    lines = [[corner, *columns], ["---", *("---:" for _ in columns)]]
    lines += [[row, *(str(counts[row, column] or "–") for column in columns)] for row in rows]
    return "\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    main()
