"""docs/openapi.json is right: the relay answers what it says to whatever is asked.

schemathesis sends requests made from the description, fitting and unfitting ones, and looks at
status, content type, headers and body of each answer.
"""

import asyncio
import json
import threading
from contextlib import AsyncExitStack
from importlib import import_module
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import Upstream, chat, sse
from line import exchange
from relaying import relaying
from service import __version__
from service.errors import CODES
from service.status import Snapshot
from strategies import examples

FILE = Path(__file__).parents[2] / "docs" / "openapi.json"
DESCRIPTION = json.loads(FILE.read_text(encoding="utf-8"))
OPEN = {"/healthz", "/readyz"}
OPERATIONS = [
    (method, path)
    for path, item in DESCRIPTION["paths"].items()
    for method in item
    if method in {"get", "post", "delete"}
]


class Described:
    """The description as schemathesis reads it. Imported late: it takes a second."""

    def __init__(self) -> None:
        schemathesis = import_module("schemathesis")
        checks = import_module("schemathesis.specs.openapi.checks")
        self._schema = schemathesis.openapi.from_dict(DESCRIPTION)
        rejection = self._schema.config.checks.negative_data_rejection
        rejection.expected_statuses = ["4xx", "5xx"]
        self.modes = list(schemathesis.GenerationMode)
        self.checks = [
            import_module("schemathesis.checks").not_a_server_error,
            checks.status_code_conformance,
            checks.content_type_conformance,
            checks.response_headers_conformance,
            checks.response_schema_conformance,
        ]
        self.refuses = checks.negative_data_rejection

    def cases(self, method: str, path: str, mode):
        """Return a strategy for requests of an operation: such as fit, or such as do not."""
        return self._schema[path][method].as_strategy(generation_mode=mode)


class Background:
    """A relay before a fake upstream, on a loop in a thread: the client of schemathesis waits."""

    def __init__(self, **settings: str) -> None:
        self._settings = settings
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self._parts = AsyncExitStack()
        self.run(self._open())

    def run(self, work):
        """Do something on the loop; return what comes of it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    async def _open(self) -> None:
        upstream = await self._parts.enter_async_context(Upstream(_answer))
        settings = relaying(
            upstream.url, toml="[store]\nretain = 300\n[chat]\nkeep = 15\n", **self._settings
        )
        self.relay = await self._parts.enter_async_context(settings)

    def ask(self, method, target, *pairs):
        """Send a request."""
        return self.run(exchange(self.relay.port, method, target, *pairs))

    def kept(self):
        """Return the name of a stream that can be read again."""
        return self.ask("GET", "/chat?question=Hi").get("teleprinter-stream")

    def close(self) -> None:
        """Stop."""
        self.run(self._parts.aclose())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


async def _answer(request, wire) -> None:
    if request.target.endswith("/models"):
        models = '{"object": "list", "data": [{"id": "m", "object": "model"}]}'
        await wire.reply(200, models, content_type="application/json")
    else:
        await sse(*chat(["Hi", " there"]))(request, wire)


@pytest.fixture(scope="module")
def running():
    """Return a relay that lets everybody in."""
    made = Background()
    yield made
    made.close()


@pytest.fixture(scope="module")
def described():
    """Return the description."""
    return Described()


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
@examples(12)
@given(data=st.data())
def test_the_relay_does_what_is_described(running, described, method, path, data):
    """Any request that fits, and any that does not, has an answer that the description has."""
    mode = data.draw(st.sampled_from(described.modes))
    case = data.draw(described.cases(method, path, mode))
    found = case.path_parameters and len(case.path_parameters.get("id", "")) % 2
    if found:  # a stream that there is, instead of one that never was
        case.path_parameters["id"] = running.kept()
    for name in [name for name in case.headers or () if name.lower() == "expect"]:
        del case.headers[name]  # HTTP's own business: aiohttp answers 417
    response = case.call(base_url=running.relay.url)
    checks = described.checks if found else [*described.checks, described.refuses]
    case.validate_response(response, checks=checks)


@pytest.fixture(scope="module")
def locked():
    """Return a relay that asks for a key."""
    made = Background(keys="me:secret-key")
    yield made
    made.close()


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_keys_are_asked_for_where_it_says_so(locked, method, path):
    """Without a key each operation is 401, but for those that are open."""
    answer = locked.ask(method.upper(), path.replace("{id}", "x"))
    described = DESCRIPTION["paths"][path][method]
    assert (answer.status == 401) == (path not in OPEN)
    assert (described.get("security") == [{}]) == (path in OPEN)
    assert str(answer.status) in described["responses"]


def test_what_is_known_in_code_is_in_the_description():
    """Error codes, the shape of the status and the version are those of the code."""
    schemas = DESCRIPTION["components"]["schemas"]
    error = schemas["Error"]["properties"]["error"]["properties"]
    assert error["code"]["enum"] == list(CODES)
    assert error["type"]["enum"] == sorted({code.type for code in CODES.values()})
    template = "#/components/schemas/{name}"
    _, made = msgspec.json.schema_components([Snapshot], ref_template=template)
    assert {name: schemas[name] for name in made} == json.loads(json.dumps(made))
    assert DESCRIPTION["info"]["version"] == __version__
