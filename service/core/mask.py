"""Keep a secret out of bytes that come in pieces."""

from collections.abc import Callable
from typing import Final

_STAND_IN: Final = b"*"


class Mask:
    """Puts stars in the place of a secret, as many as it had bytes, so that no length changes.

    A piece is held back only while its end may be the secret's beginning. An empty secret hides
    nothing.
    """

    __slots__ = ("_held", "_secret", "_stars", "_text")

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._stars = _STAND_IN * len(secret)
        self._text = secret.decode(errors="surrogateescape")
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Return what can be told by now."""
        if not self._held and self._secret not in data and data[-1:] not in self._secret:
            return data
        if not self._secret:
            return data
        data = (self._held + data).replace(self._secret, self._stars)
        held = self._begun(data)
        self._held = data[len(data) - held :]
        return data[: len(data) - held]

    def before(self, sink: Callable[[bytes], bool]) -> Callable[[bytes], bool]:
        """Return what takes bytes, never none, and hands to `sink` what of them can be told.

        It returns what the sink does, and True if nothing can.
        """
        secret = self._secret
        if not secret:
            return sink

        def masked(data: bytes) -> bool:
            # `secret in data` makes and drops an exception each time: CPython, _Py_bytes_contains
            if self._held or data.find(secret) >= 0 or data[-1] in secret:
                data = self.feed(data)
                if not data:
                    return True
            return sink(data)

        return masked

    def rest(self) -> bytes:
        """Return what was held back, when nothing follows."""
        rest, self._held = self._held, b""
        return rest

    def text(self, text: str) -> str:
        """Return a whole text without the secret."""
        if not self._secret or self._text not in text:
            return text
        return text.replace(self._text, "*" * len(self._secret))

    def _begun(self, data: bytes) -> int:
        """Return how many bytes at the end may begin the secret."""
        if data[-1:] not in self._secret:
            return 0
        most = min(len(self._secret) - 1, len(data))
        return next((n for n in range(most, 0, -1) if data.endswith(self._secret[:n])), 0)
