"""The page's modules that need no browser, under Node's own test runner.

The rules stand in tests/page/*.test.mjs, each by its name.
"""

import json
import re
import shutil
from importlib import resources
from pathlib import Path

import pytest

from program import running

PAGES = resources.files("service") / "pages"
FOLDER = Path(__file__).with_name("page")
SUITES = sorted(file.name for file in FOLDER.glob("*.test.mjs"))


@pytest.fixture
def pages(tmp_path):
    """Return a folder that Node takes for one of modules, with the page's in it."""
    (tmp_path / "package.json").write_text(json.dumps({"type": "module"}))
    for file in PAGES.iterdir():
        if file.name.endswith(".js"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize("suite", SUITES)
async def test_the_rules_of(suite, pages):
    """Every rule of the suite holds; what does not is printed."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: apt-get install nodejs npm")
    lines = []
    command = (node, "--test", "--test-reporter=tap", str(FOLDER / suite))
    async with running(*command, PAGES=str(pages)) as program:
        while (line := await program.line()) is not None:
            lines.append(line)
        code = await program.code()
    told = "\n".join(lines)
    assert code == 0, told
    assert int(re.search(r"^# pass (\d+)$", told, re.MULTILINE)[1]) > 0
