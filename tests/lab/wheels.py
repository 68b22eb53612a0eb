"""Wheels of what the tests run on, so that pip installs the same again without asking an index."""

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from zipfile import ZipFile

from packaging.requirements import Requirement

BUILDER = "setuptools"
"""What pip builds ours with."""
MADE_BY_PIP = {"INSTALLER", "REQUESTED", "direct_url.json"}


def wheels(folder: Path, python: str, lock: Path, *wanted: str) -> Path:
    """Write the wheels that `wanted` need in all, themselves left out; return the folder.

    python   the version that they are for, such as 3.11.2: as ours but for the last number
    lock     the versions of what it alone needs, which pip fetches
    """
    folder.mkdir()
    absent = []
    for name in {*_closure(wanted, python), BUILDER}:
        try:
            _wheel(distribution(name), folder)
        except PackageNotFoundError:
            absent.append(name)
    if absent:
        command = ["pip", "download", "-q", "--no-deps", "-c", str(lock), "-d", str(folder)]
        subprocess.run([sys.executable, "-m", *command, *absent], check=True)  # noqa: S603  pip
    return folder


def _closure(wanted: tuple[str, ...], python: str) -> set[str]:
    """Return the names of all that is needed, directly or not."""
    found: set[str] = set()
    left = [Requirement(text) for text in wanted]
    while left:
        needed = set(_needs(left.pop(), python)) - found
        found |= needed
        left += [Requirement(name) for name in needed]
    return found


def _needs(requirement: Requirement, python: str) -> Iterator[str]:
    try:
        texts = distribution(requirement.name).requires or ()
    except PackageNotFoundError:
        return
    for each in map(Requirement, texts):
        worlds = [{"python_full_version": python, "extra": e} for e in ("", *requirement.extras)]
        if each.marker is None or any(map(each.marker.evaluate, worlds)):
            yield each.name


def _wheel(found: Distribution, folder: Path) -> None:
    """Put the files of a distribution together again (PyPA: binary distribution format)."""
    tags = [line[5:] for line in found.read_text("WHEEL").splitlines() if line.startswith("Tag: ")]
    parts = zip(*(tag.split("-") for tag in tags), strict=True)
    tag = "-".join(".".join(dict.fromkeys(part)) for part in parts)
    name = found.name.replace("-", "_").replace(".", "_")
    with ZipFile(folder / f"{name}-{found.version}-{tag}.whl", "w") as archive:
        for file in found.files or ():
            if ".." not in file.parts and file.suffix != ".pyc" and file.name not in MADE_BY_PIP:
                archive.write(file.locate(), str(file))
