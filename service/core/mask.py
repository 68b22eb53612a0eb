"""Keep a secret out of bytes that come in pieces."""

from typing import Final

_STAND_IN: Final = b"*"


class Mask:
    """Puts stars in the place of a secret, as many as it had bytes, so that no length changes.

    A piece is held back only while its end may be the secret's beginning. An empty secret hides
    nothing.
    """

    __slots__ = ("_held", "_secret", "_stars", "_text", "hides")

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._stars = _STAND_IN * len(secret)
        self._text = secret.decode(errors="surrogateescape")
        self._held = b""
        self.hides = bool(secret)

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

    def rest(self) -> bytes:
        """Return what was held back, when nothing follows."""
        rest, self._held = self._held, b""
        return rest

    def text(self, text: str) -> str:
        """Return a whole text without the secret."""
        if not self.hides or self._text not in text:
            return text
        return text.replace(self._text, "*" * len(self._secret))

    def _begun(self, data: bytes) -> int:
        """Return how many bytes at the end may begin the secret."""
        if data[-1:] not in self._secret:
            return 0
        most = min(len(self._secret) - 1, len(data))
        return next((n for n in range(most, 0, -1) if data.endswith(self._secret[:n])), 0)
