"""A tree to boot a lab with, on which Teleprinter was installed as the README says.

It is made once a run, whichever of its processes comes first, in a lab that is thrown away.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import pytest

import real
import service
from lab import PYTHON, Lab
from lab.wheels import requirements, wheels

ROOT = Path(service.__file__).parents[1]
CLONE = "/usr/local/src/teleprinter"
"""Where a lab has the sources."""
INSTALL = f"{CLONE}/systemd/install.sh"
WHEELS = f"{CLONE}-wheels"
PIP = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": WHEELS, "PIP_CONFIG_FILE": os.devnull}
CHANGED = (
    "etc/systemd/system",
    "etc/teleprinter",
    "opt/teleprinter",
    "usr/local/bin/teleprinter",
    "usr/local/lib/systemd/system",
)
"""What the installation made."""


def port_tree(folder: Path) -> tuple[Path, int]:
    """Return a tree in which `teleprinter.socket` has a free port, and the port."""
    port = real.free_port()
    folder.mkdir()
    file = folder / "etc/systemd/system/teleprinter.socket.d/port.conf"
    file.parent.mkdir(parents=True)
    file.write_text(f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{port}\n")
    return folder, port


def installed(factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the clone, `tree`, and what was seen: `output`, `page`."""
    base = factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "teleprinter-lab"
    shared.mkdir(exist_ok=True)
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "done").exists():
            shutil.rmtree(shared / "made", ignore_errors=True)
            _install(shared / "made")
            (shared / "done").touch()
    return shared / "made"


def _install(folder: Path) -> None:
    clone, tree = folder / "clone", folder / "tree"
    _stage(clone)
    tree.mkdir()
    ported, port = port_tree(folder / "port")
    with Lab(folder, clone, ported) as lab:
        done = lab.run("sh", INSTALL, **environ())
        (folder / "output").write_text(done.stdout)
        with build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{port}/", timeout=10) as page:
            (folder / "page").write_bytes(page.read())
        (folder / "port.txt").write_text(str(port))
        source = lab.path("/")
        subprocess.run(["cp", "-a", "--parents", *CHANGED, str(tree)], cwd=source, check=True)  # noqa: S603, S607
    shutil.rmtree(tree / "etc/systemd/system/teleprinter.socket.d")


def _stage(tree: Path) -> None:
    """Lay the sources, and the wheels that they need, where a lab has them."""
    clone = tree / CLONE[1:]
    clone.mkdir(parents=True)
    for name in ("service", "systemd", "config"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "requirements.lock"):
        shutil.copy(ROOT / name, clone)
    _leave_behind(clone)
    if _same_python():
        wanted = requirements(ROOT / "pyproject.toml", "redis")
        wheels(tree / WHEELS[1:], _version(), ROOT / "requirements.lock", wanted)


def _leave_behind(clone: Path) -> None:
    """Leave in the clone what builds of an older layout do: none of it may be installed."""
    left = clone / "teleprinter.egg-info", clone / "build/lib/service"
    for folder in left:
        folder.mkdir(parents=True)
    (left[0] / "SOURCES.txt").write_text("service/adapters/gone.py\n")
    (left[0] / "PKG-INFO").write_text("Metadata-Version: 2.4\nName: teleprinter\nVersion: 0.0.1\n")
    (left[0] / "requires.txt").write_text("nowhere-to-be-found\n")
    (left[1] / "gone.py").touch()


def environ() -> dict[str, str]:
    """Return pip's settings in a lab: our own packages where they fit, else what it has outside."""
    if _same_python():
        return PIP
    return {name: text for name, text in os.environ.items() if name.startswith("PIP_")}


def _same_python() -> bool:
    return _version().split(".")[:2] == [str(number) for number in sys.version_info[:2]]


def _version() -> str:
    done = subprocess.run([PYTHON, "-V"], capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout.split()[1]
