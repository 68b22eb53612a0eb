"""The fixtures say what the SDKs' types say: every field known, none missing that is required."""

from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

from later import Later
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

OPENAI, ANTHROPIC = "openai.types", "anthropic.types"
FIXTURES: list[tuple[str, str, list[Any]]] = [
    (
        "openai.types.chat",
        "ChatCompletion",
        [openai_chat.completion("a"), openai_chat.completion(None, ("f", "{}"))],
    ),
    ("openai.types.chat", "ChatCompletionChunk", chunks),
    (
        "openai.types.responses",
        "Response",
        [openai_responses.response(openai_responses.message("a"))],
    ),
    ("openai.types.responses", "ResponseStreamEvent", events),
    (OPENAI, "CreateEmbeddingResponse", [openai_media.embeddings(vectors, base64_form=False)]),
    (OPENAI, "FileObject", [openai_media.file("a.txt", 1)]),
    (OPENAI, "FileDeleted", [openai_media.file_deleted()]),
    ("openai.types.audio", "Transcription", [openai_media.transcription("a")]),
    ("openai.types.audio", "TranscriptionStreamEvent", openai_media.transcription_events("ab")),
    (OPENAI, "ImagesResponse", [openai_media.images(openai_media.PICTURE)]),
    (OPENAI, "ImageGenStreamEvent", openai_media.image_events([b"a"], b"b")),
    (ANTHROPIC, "Message", [anthropic.message(*blocks)]),
    (ANTHROPIC, "RawMessageStreamEvent", [e for e in streamed if e["type"] != "ping"]),
    (ANTHROPIC, "BetaErrorResponse", [anthropic.error(status) for status in (401, 429, 529)]),
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
    ("module", "kind", "fixtures"), [pytest.param(*row, id=row[1]) for row in FIXTURES]
)
def test_fixtures(module, kind, fixtures):
    """A fixture is of its type, to the last field."""
    reader = TypeAdapter(getattr(Later(module), kind))
    assert [unknown(reader.validate_python(fixture)) for fixture in fixtures] == [[]] * len(
        fixtures
    )
