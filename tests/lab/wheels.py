"""Wheels of what the tests run on, so that pip installs the same again without asking an index."""

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from zipfile import ZipFile

from packaging.requirements import Requirement

BUILDER = "setuptools"
"""What pip builds ours with."""
MADE_BY_PIP = {"INSTALLER", "REQUESTED", "direct_url.json"}


def requirements(pyproject: Path, *extras: str) -> list[str]:
    """Return what a project with these extras requires, as its pyproject.toml says.

    Not as its metadata says: what an older build left beside the sources would speak for it.
    """
    project = tomllib.loads(pyproject.read_text())["project"]
    optional = project["optional-dependencies"]
    return [*project["dependencies"], *(text for extra in extras for text in optional[extra])]


def wheels(folder: Path, python: str, lock: Path, wanted: list[str]) -> Path:
    """Write the wheels of these requirements, and of what they need in all; return the folder.

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


def _closure(wanted: list[str], python: str) -> set[str]:
    """Return the names of all that is needed, directly or not."""
    found: set[str] = set()
    left = [each for each in map(Requirement, wanted) if _holds(each, python)]
    while left:
        each = left.pop()
        found.add(each.name)
        left += [other for other in _needs(each, python) if other.name not in found]
    return found


def _needs(requirement: Requirement, python: str) -> Iterator[Requirement]:
    try:
        texts = distribution(requirement.name).requires or ()
    except PackageNotFoundError:
        return
    for each in map(Requirement, texts):
        if _holds(each, python, *requirement.extras):
            yield each


def _holds(requirement: Requirement, python: str, *extras: str) -> bool:
    """Whether it is required by that version, with these extras."""
    worlds = [{"python_full_version": python, "extra": extra} for extra in ("", *extras)]
    return requirement.marker is None or any(map(requirement.marker.evaluate, worlds))


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
