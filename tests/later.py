"""Modules that are imported when a test asks something of them.

Every worker loads every test file; a client's SDK costs it seconds, and most never run its tests.
"""

from importlib import import_module
from typing import Any


class Later:
    """A module, by its name; its attributes are the module's."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("_", "pytest")):  # pytest asks it of all that stands in a test's module
            raise AttributeError(name)
        return getattr(import_module(self._name), name)


openai = Later("openai")
anthropic = Later("anthropic")
langchain_openai = Later("langchain_openai")
