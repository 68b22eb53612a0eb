"""The script that installs the service on Debian, in a lab: install, upgrade, roll back, remove."""

import asyncio
import json
import re
from collections import Counter
from contextlib import contextmanager

import pytest

import service
from fakes import Upstream, reply
from lab import Lab, missing
from lab.staged import CLONE, INSTALL, ROOT, environ, installed, port_tree
from line import exchange
from serving import upstream_toml

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "-")

UNITS = "/usr/local/lib/systemd/system"
SETTINGS = "/etc/teleprinter/teleprinter.toml"
SERVICE = "teleprinter.service"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return what an installation left behind."""
    return installed(tmp_path_factory)


@contextmanager
def booted(made, folder):
    """Boot a machine on which it was installed; `lab.port`: its own."""
    ported, port = port_tree(folder / "port")
    with Lab(folder, made / "clone", made / "tree", ported) as lab:
        lab.port = port
        yield lab


@pytest.fixture(scope="module")
def lab(made, tmp_path_factory):
    """Return a machine that the tests may upgrade."""
    with booted(made, tmp_path_factory.mktemp("lab")) as lab:
        yield lab


def test_it_says_where_the_page_is(made):
    """The end of its output is the page's address, where the page is, and what to do next."""
    port = (made / "port.txt").read_text()
    output = (made / "output").read_text().splitlines()
    assert output == [
        f"Teleprinter runs: http://127.0.0.1:{port}/",
        f"Settings: {SETTINGS}, then  systemctl reload teleprinter",
    ]
    assert b">Teleprinter</title>" in (made / "page").read_bytes()


def test_the_readme_names_the_commands():
    """What the README tells people to run is what is tried here."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"sudo sh systemd/install\.sh ?(\w*)", text) == ["", "upgrade", "remove"]


def test_modes(made):
    """Everybody may read the settings, root alone the credentials; nobody else writes anything."""
    tree = made / "tree"
    assert oct((tree / SETTINGS[1:]).stat().st_mode)[-3:] == "644"
    assert oct((tree / "etc/teleprinter/credentials").stat().st_mode)[-3:] == "700"
    files = [file for file in (tree / "opt").rglob("*") if not file.is_symlink()]
    assert files
    assert {file for file in files if file.stat().st_mode & 0o022} == set()
    assert {file for file in files if file.stat().st_uid != 0} == set()


def test_nothing_of_an_older_build_comes_along(made):
    """What an editable install and a build of an older layout left in the clone stays there."""
    assert {file.name for file in (made / "clone").rglob("gone.py")} == {"gone.py"}
    assert list((made / "tree/opt").rglob("gone.py")) == []
    records = [file.name for file in (made / "tree/opt").rglob("teleprinter-*.dist-info")]
    assert records == [f"teleprinter-{service.__version__}.dist-info"]


def test_it_starts_with_the_machine(lab):
    """It is enabled: after a boot it serves."""
    assert lab.run("systemctl", "is-active", SERVICE).stdout == "active\n"
    assert lab.run("systemctl", "is-enabled", SERVICE).stdout == "enabled\n"


def test_the_journal_has_log_lines_only(lab):
    """What the service itself writes is JSON from its first line on, such as where it listens."""
    written = lab.run("journalctl", "-o", "cat", f"_SYSTEMD_UNIT={SERVICE}").stdout.splitlines()
    said = [json.loads(line)["event"] for line in written]
    assert [text for text in said if text.startswith(f"listening on http://127.0.0.1:{lab.port}/")]


async def test_an_upgrade_loses_no_request(lab):
    """Requests wait while the new version starts; the old one is taken away; settings stay."""
    async with Upstream(reply(200, "{}", content_type="application/json")) as upstream:
        settings = f"[server]\ndrain = 1\n{upstream_toml(upstream)}"
        lab.write(SETTINGS, settings)
        await lab.do("systemctl", "reload", SERVICE)
        version = lab.path(f"{CLONE}/service/__init__.py")
        version.write_text(version.read_text().replace('__version__ = "', '__version__ = "9.'))
        upgrade = asyncio.create_task(lab.do("sh", INSTALL, "upgrade", **environ()))
        seen = Counter()
        while not upgrade.done():
            answer = await exchange(lab.port, "GET", "/v1/models")
            seen[answer.status] += 1
            await asyncio.sleep(0.1)  # a client's pace
        assert "Teleprinter runs" in (await upgrade).stdout
    assert seen.keys() == {200}
    print(f"upgrade: {seen[200]} requests, none lost")  # noqa: T201
    assert (await lab.do("teleprinter", "--version")).stdout.startswith("teleprinter 9.")
    releases = [each for each in lab.path("/opt/teleprinter").iterdir() if not each.is_symlink()]
    assert len(releases) == 1
    assert lab.path(SETTINGS).read_text() == settings


async def test_a_version_that_does_not_start_is_taken_back(lab):
    """The upgrade fails and says so; the old version serves, the new one is gone."""
    before = sorted(file.name for file in lab.path("/opt/teleprinter").iterdir())
    nothing = {**environ(), "PIP_NO_DEPS": "1"}  # without aiohttp it cannot run
    done = await lab.do("sh", INSTALL, "upgrade", check=False, **nothing)
    assert done.returncode == 1
    assert "the old one is back" in done.stderr
    assert (await exchange(lab.port, "GET", "/readyz")).status == 200
    assert sorted(file.name for file in lab.path("/opt/teleprinter").iterdir()) == before


@pytest.mark.parametrize("words", [["instal"], ["remove", "--purg"]])
def test_what_it_does_not_know_it_does_not_do(lab, words):
    """Another word is refused, and nothing happens."""
    done = lab.run("sh", INSTALL, *words, check=False)
    assert done.returncode == 1
    assert "expected install, upgrade, remove or remove --purge" in done.stderr
    assert lab.path(SETTINGS).exists()


async def test_removal_keeps_the_settings_unless_it_is_told(made, tmp_path):
    """Nothing of the program is left, its port is closed; --purge takes the settings too."""
    with booted(made, tmp_path) as lab:
        done = await lab.do("sh", INSTALL, "remove")
        assert SETTINGS.rpartition("/")[0] in done.stdout
        with pytest.raises(ConnectionRefusedError):
            await exchange(lab.port, "GET", "/readyz")
        for gone in ("/opt/teleprinter", "/usr/local/bin/teleprinter"):
            assert not lab.path(gone).exists()
        assert list(lab.path(UNITS).iterdir()) == []
        loaded = await lab.do(
            "systemctl", "list-unit-files", "--no-legend", "teleprinter*", check=False
        )
        assert loaded.stdout == ""
        assert lab.path(SETTINGS).exists()
        await lab.do("sh", INSTALL, "remove", "--purge")
        assert not lab.path("/etc/teleprinter").exists()
        assert list(lab.path("/etc/systemd/system").glob("teleprinter*")) == []
