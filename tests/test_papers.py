"""The pages hang together: both READMEs are one, no link leads nowhere, tables are the code's."""

import json
import re
from itertools import pairwise

import pytest

import papers
import service
from service.errors import CODES
from service.settings import load


def test_both_readmes_have_the_same_blocks():
    """A block in one is the same in the other, but for the comments."""
    english, chinese = papers.blocks(papers.README), papers.blocks(papers.CHINESE)
    assert [(b.language, b.bare) for b in english] == [(b.language, b.bare) for b in chinese]


def test_both_readmes_have_the_same_headings():
    """As many, as deep, in the same order; what is a name is the same."""
    english, chinese = papers.headings(papers.README), papers.headings(papers.CHINESE)
    assert [depth for depth, _ in english] == [depth for depth, _ in chinese]
    names = re.compile(r"[A-Za-z]{5,}")
    for (_, here), (_, there) in zip(english, chinese, strict=True):
        assert {*names.findall(there)} <= {*names.findall(here)}, there


def test_both_readmes_lead_to_the_same_files():
    """The same pages and pictures in the same order, but for those that are in Chinese."""
    files = [
        [link.partition("#")[0].replace(".zh-CN", "") for link in papers.links(page)]
        for page in (papers.README, papers.CHINESE)
    ]
    assert files[0] == files[1]


@pytest.mark.parametrize("page", [papers.README, papers.CHINESE])
def test_the_description_is_beside_what_it_describes(page):
    """Who reads where the HTTP interface is told finds it for machines too."""
    assert (papers.HTTP, "docs/openapi.json") in pairwise(papers.links(page))


def test_the_flow_is_the_map_s():
    """The flow that the READMEs show is that of service/__init__.py."""
    shown = papers.block(papers.README, "", "client ─▶ web")
    assert {line.strip() for line in shown.splitlines()} <= {
        line.strip() for line in service.__doc__.splitlines()
    }


@pytest.mark.parametrize("page", papers.PAGES)
def test_no_link_leads_nowhere(page):
    """Each file is there, and each place in it."""
    for link in papers.links(page):
        file, _, place = link.partition("#")
        there = (papers.ROOT / page).parent / file if file else papers.ROOT / page
        assert there.exists(), link
        if place:
            name = str(there.resolve().relative_to(papers.ROOT))
            assert place in [papers.anchor(words) for _, words in papers.headings(name)], link


def test_the_changes_and_the_licence_are_there():
    """CHANGELOG.md has a section for what is to come; the licence is the MIT licence."""
    assert "\n## [Unreleased]\n" in papers.text("CHANGELOG.md")
    assert papers.text("LICENSE").startswith("MIT License\n")


def test_the_error_codes():
    """docs/http.md tells every code: its status, whose fault it is, whether to try again."""
    shown = re.findall(
        r"^\| `(\w+)` \| (\d+) \| (\w+) \| (yes|no) \|$", papers.text(papers.HTTP), re.MULTILINE
    )
    told = [
        (c, str(r.status), str(r.whose), "yes" if r.retryable else "no") for c, r in CODES.items()
    ]
    assert shown == told


def taken(page, holding, folder, **environ):
    """Return the settings of a page's block of TOML."""
    (folder / "teleprinter.toml").write_text(papers.block(page, "toml", holding))
    return load(environ=environ, cwd=folder)


def test_the_chain_is_taken(tmp_path):
    """The chain of docs/ways.md is a chain of two hops, and the other proxy is one."""
    (pool,) = taken(papers.WAYS, "far:1080", tmp_path).pool
    assert [isinstance(entry, tuple) for entry in pool.proxies] == [True, False]


def test_the_fallback_is_taken(tmp_path):
    """The upstreams and pools of docs/ways.md are as the text says."""
    settings = taken(papers.WAYS, "fallback", tmp_path, OPENAI_API_KEY="k", BACKUP_KEY="k")
    first, backup = settings.upstream
    assert settings.targets(first) == [first, backup]
    assert settings.pool_of(first).policy == "fastest"
    assert settings.pool_of(backup).name == "default"


def test_the_key_is_taken(tmp_path):
    """The key of docs/operations.md grants what stands there."""
    (key,) = taken(papers.OPERATIONS, "tokens_per_day", tmp_path).server.keys
    assert (key.name, key.streams, key.tokens_per_day) == ("alice", 4, 100000)


def test_the_figures_of_the_benchmark_are_its_results():
    """Each row of the READMEs' table is a median of benchmarks/results, to one decimal."""
    results = json.loads((papers.ROOT / "benchmarks/results/latest.json").read_text())
    ratios = [ratio for result in results["results"] for ratio in result.get("ratios", [])]
    medians = {ratio["title"]: f"{ratio['median']:.1f}" for ratio in ratios}
    english, chinese = map(_benchmark, (papers.README, papers.CHINESE))
    assert len(english) > 5
    assert {title: medians[title] for title, _ in english} == dict(english)
    assert [figure for _, figure in chinese] == [figure for _, figure in english]


def _benchmark(page):
    """Return the rows of the table below the benchmark's plot."""
    table = (
        (papers.ROOT / page)
        .read_text(encoding="utf-8")
        .partition("latest.svg)")[2]
        .partition("\n\n[")[0]
    )
    return re.findall(r"^\| ([^|]+?) \| ([\d.]+) \|$", table.partition("\n## ")[0], re.MULTILINE)
