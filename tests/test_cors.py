"""CORS: pages of the origins that are allowed may ask and read, others may not."""

import pytest

from fakes import Upstream, chat, reply, sse
from line import exchange
from relaying import relaying

APP = "https://app.example.com"
ORIGIN = ("Origin", APP)
TOML = f'[server]\norigins = ["{APP}"]\nkeys = ["alice:ka"]\n'
KEY = ("Teleprinter-Key", "ka")
JSON = ("Content-Type", "application/json")
ASK = b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "Hi"}]}'
EXPOSED = {"Teleprinter-Request-Id", "Teleprinter-Stream", "Teleprinter-Upstream", "Retry-After"}


def shared(answer):
    """Check that the page may read this answer, and its headers."""
    assert answer.get_all("access-control-allow-origin") == [APP]
    assert set(answer.get("access-control-expose-headers").split(", ")) >= EXPOSED
    assert "Origin" in answer.get_all("vary")


async def test_a_preflight_needs_no_key():
    """It is told that method and headers are allowed; nothing goes upstream."""
    async with Upstream(reply(200)) as upstream, relaying(upstream.url, toml=TOML) as relay:
        answer = await exchange(
            relay.port,
            "OPTIONS",
            "/v1/chat/completions",
            ORIGIN,
            ("Access-Control-Request-Method", "POST"),
            ("Access-Control-Request-Headers", "authorization,content-type"),
        )
    assert answer.status == 204
    shared(answer)
    assert answer.get("access-control-allow-methods") == "POST"
    assert answer.get("access-control-allow-headers") == "authorization,content-type"
    assert upstream.requests == []


@pytest.mark.parametrize("path", ["/chat", "/v1/chat/completions"])
async def test_a_stream_may_be_read(path):
    """With its headers; what the upstream says of CORS does not come down."""
    answer = sse(*chat(["Hi"]))
    async with Upstream(answer) as upstream, relaying(upstream.url, toml=TOML) as relay:
        answer = await exchange(relay.port, "POST", path, ORIGIN, KEY, JSON, body=ASK)
    assert answer.status == 200
    shared(answer)
    assert answer.get("teleprinter-stream")


async def test_a_plain_answer_may_be_read():
    """The upstream's own CORS headers stay away."""
    async with (
        Upstream(reply(200, "{}", ("Access-Control-Allow-Origin", "*"))) as upstream,
        relaying(upstream.url, toml=TOML) as relay,
    ):
        answer = await exchange(relay.port, "GET", "/v1/models", ORIGIN, KEY)
    shared(answer)


async def test_a_refusal_may_be_read():
    """401 and 404 too, so that the page can tell why."""
    async with Upstream() as upstream, relaying(upstream.url, toml=TOML) as relay:
        for path, status in (("/v1/models", 401), ("/nothing", 404)):
            pairs = [ORIGIN] if status == 401 else [ORIGIN, KEY]
            answer = await exchange(relay.port, "GET", path, *pairs)
            assert answer.status == status
            shared(answer)


@pytest.mark.parametrize("origin", ["https://evil.example", "null", APP + ".evil.example"])
@pytest.mark.parametrize("method", ["OPTIONS", "POST"])
async def test_pages_of_other_origins_are_403(origin, method):
    """Also with the key, also as a preflight; and they may not read it."""
    pairs = [("Origin", origin), ("Access-Control-Request-Method", "POST"), KEY]
    async with Upstream() as upstream, relaying(upstream.url, toml=TOML) as relay:
        answer = await exchange(relay.port, method, "/v1/chat/completions", *pairs)
    assert (answer.status, answer.error["code"]) == (403, "forbidden")
    assert answer.get("access-control-allow-origin") is None
    assert upstream.requests == []


async def test_without_an_origin_nothing_is_said():
    """Programs see no CORS headers."""
    async with (
        Upstream(reply(200, "{}")) as upstream,
        relaying(upstream.url, toml=TOML) as relay,
    ):
        answer = await exchange(relay.port, "GET", "/v1/models", KEY)
    assert not [name for name in answer.names() if name.startswith("access-control")]
