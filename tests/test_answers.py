"""An answer that is no event stream: a small one that is whole goes out in one write."""

import random

import pytest

from fakes import Upstream, reply
from line import exchange
from relaying import relaying
from service import answers

NOISE = random.Random(7).randbytes(100_000)  # noqa: S311  no secret
RETRY = "[retry]\nattempts = 2\n"
"""What may be asked again is shown at its end."""


@pytest.mark.both_loops
@pytest.mark.parametrize(
    ("size", "whole"), [(1, True), (8192, True), (8193, False), (100_000, False)]
)
async def test_a_small_answer_is_one_write_with_its_head(size, whole, monkeypatch):
    """What is whole and small needs no outlet, and is the same for the client as what is not."""
    written = []
    plain = answers.plain

    def note(request, stream, answer, body=None):
        written.append(body)
        return plain(request, stream, answer, body)

    monkeypatch.setattr(answers, "plain", note)
    body, kind = NOISE[:size], ("Content-Type", "application/json")
    async with (
        Upstream(reply(200, body, ("X-Own", "a"))) as upstream,
        relaying(upstream.url, toml=RETRY) as relay,
    ):
        path = "/v1/embeddings"
        answer = await exchange(relay.port, "POST", path, kind, body=b'{"model": "m"}')
    assert written == [body if whole else None]
    assert (answer.status, answer.body, answer.whole) == (200, body, True)
    assert answer.get_all("x-own") == ["a"]
    assert answer.get_all("content-length") == [str(size)]
