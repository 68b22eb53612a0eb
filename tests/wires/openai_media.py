"""Embeddings, files, audio and images of OpenAI's API.

openai.types: CreateEmbeddingResponse, FileObject, FileDeleted, ImagesResponse, ImageGenStreamEvent;
openai.types.audio: Transcription, TranscriptionStreamEvent. Speech is the sound's bytes.
"""

import base64
import struct
from collections.abc import Iterable, Sequence
from typing import Any

from fakes import frame

VECTOR = (0.25, -0.5, 0.125)
"""Numbers that 32-bit floats hold exactly."""
SOUND = bytes(range(256)) * 64
"""16 KiB in which every byte occurs, as in an MP3."""
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
_FILE = "file-8LkPz3VxWq2T"


def embeddings(vectors: Sequence[Sequence[float]], *, base64_form: bool) -> dict[str, Any]:
    """Return embeddings, as lists or, as the SDK asks for by default, as base64 of floats."""
    rows = [
        {"object": "embedding", "index": n, "embedding": _packed(v) if base64_form else list(v)}
        for n, v in enumerate(vectors)
    ]
    counts = {"prompt_tokens": 8, "total_tokens": 8}
    return {"object": "list", "data": rows, "model": "text-embedding-3-small", "usage": counts}


def _packed(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def file(name: str, size: int) -> dict[str, Any]:
    """Return a FileObject."""
    return {
        "id": _FILE,
        "object": "file",
        "bytes": size,
        "created_at": 1_700_000_000,
        "expires_at": None,
        "filename": name,
        "purpose": "user_data",
        "status": "processed",
        "status_details": None,
    }


def file_list(*files: dict[str, Any]) -> dict[str, Any]:
    """Return a page of files, the last one."""
    ends = {"first_id": files[0]["id"], "last_id": files[-1]["id"]}
    return {"object": "list", "data": list(files), "has_more": False, **ends}


def file_deleted() -> dict[str, Any]:
    """Return what a deletion answers."""
    return {"id": _FILE, "object": "file", "deleted": True}


def _heard() -> dict[str, Any]:
    details = {"text_tokens": 0, "audio_tokens": 14}
    counts = {"input_tokens": 14, "output_tokens": 45, "total_tokens": 59}
    return {"type": "tokens", **counts, "input_token_details": details}


def transcription(text: str) -> dict[str, Any]:
    """Return a Transcription."""
    return {"text": text, "usage": _heard()}


def transcription_events(tokens: Iterable[str]) -> list[dict[str, Any]]:
    """Return the events of a streamed transcription."""
    tokens = list(tokens)
    done = {"type": "transcript.text.done", "text": "".join(tokens), "usage": _heard()}
    return [*({"type": "transcript.text.delta", "delta": token} for token in tokens), done]


def _drawn() -> dict[str, Any]:
    details = {"text_tokens": 10, "image_tokens": 40}
    return {
        "total_tokens": 100,
        "input_tokens": 50,
        "output_tokens": 50,
        "input_tokens_details": details,
    }


def _look() -> dict[str, Any]:
    look = {"background": "opaque", "output_format": "png", "quality": "high", "size": "1024x1024"}
    return look.copy()


def images(*pictures: bytes) -> dict[str, Any]:
    """Return an ImagesResponse."""
    data = [{"b64_json": base64.b64encode(picture).decode()} for picture in pictures]
    return {"created": 1_700_000_000, **_look(), "data": data, "usage": _drawn()}


def image_events(partial: Iterable[bytes], picture: bytes) -> list[dict[str, Any]]:
    """Return the events of a streamed image: its drafts and itself."""
    common = {"created_at": 1_700_000_000, **_look()}
    drafts = [
        {
            "type": "image_generation.partial_image",
            **common,
            "partial_image_index": number,
            "b64_json": base64.b64encode(draft).decode(),
        }
        for number, draft in enumerate(partial)
    ]
    last = {"type": "image_generation.completed", **common, "usage": _drawn()}
    return [*drafts, last | {"b64_json": base64.b64encode(picture).decode()}]


def framed(events: Iterable[dict[str, Any]]) -> list[bytes]:
    """Return the events as frames."""
    return [frame(event, event["type"]) for event in events]
