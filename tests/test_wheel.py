"""The wheel, installed where no checkout is: it runs, and has in it what it needs and no more.

It is built from a copy of the checkout as systemd/install.sh copies it, so that nothing of an older
build comes along; what it depends on is lent to it by the tests' own environment.
"""

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from contextlib import asynccontextmanager
from pathlib import Path
from zipfile import ZipFile

import pytest

import service
from line import exchange
from program import running

ROOT = Path(service.__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
OFFLINE = ["--no-deps", "--no-index"]
SDIST = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
LISTENING = re.compile(r"listening on http://127\.0\.0\.1:(\d+)/")
STALE = {
    "teleprinter.egg-info/SOURCES.txt": "service/adapters/gone.py\n",
    "teleprinter.egg-info/PKG-INFO": "Metadata-Version: 2.4\nName: teleprinter\nVersion: 0.0.1\n",
    "build/lib/service/gone.py": "",
}
"""What an editable install and a build of an older layout leave in a clone."""


def run(*command, cwd=None):
    """Run a program; it must succeed."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copied(folder):
    """Copy the parts of a clone that is full of what older builds left, as install.sh does."""
    clone, work = folder / "clone", folder / "work"
    shutil.copytree(ROOT / "service", clone / "service")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    for name, text in STALE.items():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_text(text)
    [line] = re.findall(r"^ +cp -R (.*)$", (ROOT / "systemd/install.sh").read_text(), re.MULTILINE)
    work.mkdir()
    run("sh", "-ec", f"source=$1 work=$2; cp -R {line}", "sh", str(clone), str(work))
    return work


def built(source, folder):
    """Build the wheel of these sources; return its file."""
    run(*PIP, "wheel", *OFFLINE, "--no-build-isolation", "-w", str(folder), str(source))
    [wheel] = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Return the wheel's file."""
    folder = tmp_path_factory.mktemp("wheel")
    return built(copied(folder), folder / "dist")


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Return the folder of the programs of an environment in which the wheel is installed."""
    home = tmp_path_factory.mktemp("installed") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", str(home))
    run(*PIP, "--python", str(home / "bin/python"), "install", *OFFLINE, str(wheel))
    place = run(home / "bin/python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    Path(place.strip(), "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin"


def names(wheel):
    """Return the names of the files in a wheel, without its own records."""
    with ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_what_is_in_it(wheel):
    """Every module, page and py.typed of `service`, the licence, and nothing else of the clone."""
    expected = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "service").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert names(wheel) == expected
    assert {"service/py.typed", "service/pages/index.html", "service/demo.py"} <= expected
    with ZipFile(wheel) as archive:
        records = {name.partition(".dist-info/")[2] for name in archive.namelist()} - {""}
        [entry] = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert "teleprinter = service.__main__:main" in archive.read(entry).decode()
    assert "licenses/LICENSE" in records
    assert wheel.name == f"teleprinter-{service.__version__}-py3-none-any.whl"


def test_the_sdist_makes_the_same(wheel, tmp_path):
    """What is built from the source archive is what is built from the clone."""
    source = copied(tmp_path)
    run(sys.executable, "-c", SDIST, str(tmp_path), cwd=source)
    [archive] = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path / "unpacked", filter="data")
    [unpacked] = (tmp_path / "unpacked").iterdir()
    assert names(built(unpacked, tmp_path / "dist")) == names(wheel)


@asynccontextmanager
async def within(folder, *command):
    """Run a program in a folder of its own, with both of its outputs in one."""
    script = 'cd "$0" && exec "$@" 2>&1'
    async with running("sh", "-c", script, str(folder), *map(str, command)) as program:
        yield program


async def output(folder, *command):
    """Return what a program prints in a folder; it must succeed."""
    lines = []
    async with within(folder, *command) as program:
        while (line := await program.line()) is not None:
            lines.append(line)
        assert await program.code() == 0, lines
    return "\n".join(lines)


async def test_its_commands(installed, tmp_path):
    """It runs out of the environment, and not out of the checkout; --version, check."""
    where = await output(tmp_path, installed / "python", "-c", "import service; print(service)")
    assert str(installed.parent) in where
    said = await output(tmp_path, installed / "teleprinter", "--version")
    assert said == f"teleprinter {service.__version__}"
    assert "[server]" in await output(tmp_path, installed / "teleprinter", "check")


async def test_it_serves(installed, tmp_path):
    """From an empty folder: both pages and all that they load, the state, the demo's answer."""
    [pages] = installed.parent.glob("lib/python*/site-packages/service/pages")
    async with within(tmp_path, installed / "teleprinter", "serve", "--port", "0") as program:
        while not (found := LISTENING.search(await program.line())):
            pass
        port = int(found[1])
        for path in ("/", "/status"):
            page = await exchange(port, "GET", path)
            asked = set(re.findall(r'(?:src|href)="(pages/[^"]+)"', page.body.decode()))
            assert {name.rpartition(".")[2] for name in asked} >= {"css", "js"}
            asked |= {f"pages/{file.name}" for file in pages.glob("*.js")}  # they import each other
            answers = [await exchange(port, "GET", f"/{name}") for name in asked]
            assert {answer.status for answer in (page, *answers)} == {200}
        assert (await exchange(port, "GET", "/status.json")).json()["upstreams"]
        answer = await exchange(port, "GET", "/chat?question=Hello%3F")
        program.process.terminate()
        assert await program.code() == 0
    events = re.findall(r"^event: (\w+)$", answer.body.decode(), re.MULTILINE)
    assert (events[0], events[-1]) == ("start", "done")
    assert json.loads(answer.body.decode().rpartition("data: ")[2])["upstream"] == "demo"
