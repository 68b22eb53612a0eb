"""The dialects of the APIs, by the path that answers in them."""

import re
from collections.abc import Mapping
from typing import Final

from service.core.dialect.base import Dialect, Plain
from service.core.dialect.chat import Chat
from service.core.dialect.typed import Anthropic, Media, Responses

__all__ = ["Anthropic", "Chat", "Dialect", "Media", "Plain", "Responses", "endpoint", "for_path"]

_BY_PATH: Mapping[str, type[Dialect]] = {
    "chat/completions": Chat,
    "completions": Chat,
    "responses": Responses,
    "messages": Anthropic,
    "audio/transcriptions": Media,
    "audio/translations": Media,
    "audio/speech": Media,
    "images/generations": Media,
    "images/edits": Media,
}

_BASE: Final = re.compile(r"(openai/)?(v1/|deployments/[^/]+/)?")
"""What leads to an API where the upstream's base URL does not; the deployments are Azure's."""


def endpoint(rest: str) -> str:
    """Return the endpoint that this path below `/v1/` means: `chat/completions`, `files`, …."""
    return _BASE.sub("", rest.strip("/"), count=1)


def for_path(rest: str, api: str = "openai") -> Dialect:
    """Return a reader for the stream that this path below `/v1/` answers with.

    Where the path says nothing, the upstream's `api` does.
    """
    name = endpoint(rest)
    if name in _BY_PATH:
        return _BY_PATH[name]()
    if name.startswith("responses/"):
        return Responses()
    if api == "anthropic" or name.startswith("messages/"):
        return Anthropic(trusting=True)
    return Dialect()
