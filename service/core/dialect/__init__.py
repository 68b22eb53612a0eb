"""The dialects of the APIs, by the path that answers in them."""

from collections.abc import Mapping

from service.core.dialect.base import Dialect, Plain
from service.core.dialect.chat import Chat
from service.core.dialect.typed import Anthropic, Media, Responses

__all__ = ["Anthropic", "Chat", "Dialect", "Media", "Plain", "Responses", "for_path"]

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


def for_path(rest: str, api: str = "openai") -> Dialect:
    """Return a reader for the stream that this path below `/v1/` answers with.

    Where the path says nothing, the upstream's `api` does.
    """
    name = rest.strip("/")
    known = _BY_PATH.get(name)
    if known is None and name.startswith("responses/"):
        known = Responses
    if known is None:
        known = Anthropic if api == "anthropic" or name.startswith("messages/") else Dialect
    return known()
