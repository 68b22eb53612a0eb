"""The fixtures say what the SDKs' types say: every field known, none missing that is required."""

from typing import Any

import anthropic.types as claude
import openai.types as gpt
import pytest
from openai.types import audio, chat, responses
from pydantic import BaseModel, TypeAdapter

from wires import anthropic, openai_chat, openai_media, openai_responses

ARGUMENTS = ('{"city": ', '"東京"}')

chunks = [*openai_chat.text_chunks("ab"), *openai_chat.call_chunks("f", ARGUMENTS)]
events = openai_responses.whole(
    openai_responses.reasoning_events("ab"),
    openai_responses.text_events("ab", 1),
    openai_responses.call_events("f", ARGUMENTS, 2),
)
streamed = anthropic.whole(
    anthropic.thinking_events("ab"),
    anthropic.text_events("ab", 1),
    anthropic.tool_events("f", ARGUMENTS, 2),
)
blocks = [anthropic.thinking("a"), anthropic.text("b"), anthropic.tool_use("f", {})]
vectors = [openai_media.VECTOR]

FIXTURES: list[tuple[Any, list[Any]]] = [
    (chat.ChatCompletion, [openai_chat.completion("a"), openai_chat.completion(None, ("f", "{}"))]),
    (chat.ChatCompletionChunk, chunks),
    (responses.Response, [openai_responses.response(openai_responses.message("a"))]),
    (responses.ResponseStreamEvent, events),
    (gpt.CreateEmbeddingResponse, [openai_media.embeddings(vectors, base64_form=False)]),
    (gpt.FileObject, [openai_media.file("a.txt", 1)]),
    (gpt.FileDeleted, [openai_media.file_deleted()]),
    (audio.Transcription, [openai_media.transcription("a")]),
    (audio.TranscriptionStreamEvent, openai_media.transcription_events("ab")),
    (gpt.ImagesResponse, [openai_media.images(openai_media.PICTURE)]),
    (gpt.ImageGenStreamEvent, openai_media.image_events([b"a"], b"b")),
    (claude.Message, [anthropic.message(*blocks)]),
    (claude.RawMessageStreamEvent, [e for e in streamed if e["type"] != "ping"]),
    (claude.BetaErrorResponse, [anthropic.error(status) for status in (401, 429, 529)]),
]


def unknown(value: Any) -> list[str]:
    """Return the fields that a parsed value has and its type does not."""
    if isinstance(value, BaseModel):
        extra = list(value.model_extra or {})
        return extra + [name for field in dict(value).values() for name in unknown(field)]
    if isinstance(value, list):
        return [name for item in value for name in unknown(item)]
    return []


@pytest.mark.parametrize(
    ("kind", "fixtures"),
    [
        pytest.param(*row, id=getattr(row[0], "__name__", f"Event{n}"))
        for n, row in enumerate(FIXTURES)
    ],
)
def test_fixtures(kind, fixtures):
    """A fixture is of its type, to the last field."""
    reader = TypeAdapter(kind)
    assert [unknown(reader.validate_python(fixture)) for fixture in fixtures] == [[]] * len(
        fixtures
    )
