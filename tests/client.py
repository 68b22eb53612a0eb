"""A client, as the cases see it, and tests that run with each of several.

Every client reports alike, whatever its own words are: {"text"}, {"reasoning"}, {"tools"},
{"done"}, {"error": {...}}, and {"lost"} with its own word for how its connection ended.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import pytest

from client_scene import COMPLETIONS, Api


class Running(Protocol):
    """A client at work."""

    async def says(self) -> Any:
        """Return its next report."""

    async def rest(self) -> list[Any]:
        """Return its reports up to its end."""

    async def abort(self) -> None:
        """Let it abort its request."""


@dataclass(frozen=True)
class Client:
    """A client.

    chat         it asks `/chat`, and sends no key; else its API below `/v1`
    lost         what it says when a stream is cut, behind the error that it was told
    sees_status  it can tell the status of a refusal
    refused      what else it says of one
    attempts     how often it asks an upstream that answers 429
    """

    name: str
    api: Api = COMPLETIONS
    chat: bool = False
    lost: tuple[Any, ...] = ()
    sees_status: bool = True
    refused: tuple[Any, ...] = ()
    attempts: int = 1

    @property
    def done(self) -> dict[str, str]:
        """What it says of a good end."""
        return {"done": self.api.finish}

    def run(
        self, url: str, question: str = "Hi", **job: Any
    ) -> AbstractAsyncContextManager[Running]:
        """Ask the relay at this URL."""
        raise NotImplementedError


class PerClient:
    """Tests that run with each of the CLIENTS."""

    CLIENTS: ClassVar[Sequence[Client]]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Give each test its clients, with ids such as `curl: error status 401`."""
        case = metafunc.function.__name__.removeprefix("test_").replace("_", " ")
        if "client" in metafunc.fixturenames:
            rows = list(self._rows(case, (401, 429) if "status" in metafunc.fixturenames else ()))
            names = "client, status" if "status" in metafunc.fixturenames else "client"
            metafunc.parametrize(names, rows)

    def _rows(self, case: str, statuses: Sequence[int]) -> Iterator[Any]:
        for client in self.CLIENTS:
            yield from (
                pytest.param(client, status, id=f"{client.name}: {case} {status}")
                for status in statuses
            )
            if not statuses:
                yield pytest.param(client, id=f"{client.name}: {case}")
