"""Whom an X.509 certificate names, and who issued it: for messages, never for trust.

Python decodes a certificate only after it was verified, so the few fields that a message needs are
read from its DER here (X.690; RFC 5280, section 4.1).
"""

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Final, NamedTuple

_VERSION: Final = 0xA0
_EXTENSIONS: Final = 0xA3
_DNS: Final = 0x82
_ADDRESS: Final = 0x87
_BMP: Final = 0x1E  # the one kind of text that is UTF-16
_ALT_NAME: Final = bytes.fromhex("551d11")  # 2.5.29.17, section 4.2.1.6
_COMMON_NAME: Final = bytes.fromhex("550403")
_ORGANIZATION: Final = bytes.fromhex("55040a")
_UNIT: Final = bytes.fromhex("55040b")
_LONG: Final = 0x80
_SIZE_OF_SIZE: Final = 4
_NAMES: Final = 5
_TEXT: Final = 80


class Certificate(NamedTuple):
    """What a certificate says: texts that its maker chose, cut to a length and to one line.

    `issuer`: common name, else organisation; `names`: the first of those that it is for.
    """

    issuer: str
    names: tuple[str, ...]


def read(der: bytes) -> Certificate:
    """Read a certificate; raises ValueError if it is none."""
    body = _first(_first(der))
    fields = [field for field in _parts(body) if field[0] != _VERSION]
    if len(fields) < 5:  # noqa: PLR2004  serial number, algorithm, issuer, validity, subject
        raise ValueError("no certificate")
    issuer, subject = _title(fields[2][1]), _title(fields[4][1])
    extensions = next((inner for tag, inner in fields if tag == _EXTENSIONS), b"")
    return Certificate(issuer, tuple(_alt_names(extensions)) or ((subject,) if subject else ()))


def _parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of the elements that stand side by side."""
    at = 0
    while at < len(data):
        tag, at = data[at], at + 1
        size, at = _size(data, at)
        if at + size > len(data):
            raise ValueError("cut off")
        yield tag, data[at : at + size]
        at += size


def _first(data: bytes) -> bytes:
    for _, content in _parts(data):
        return content
    raise ValueError("nothing there")


def _size(data: bytes, at: int) -> tuple[int, int]:
    """Return the length that stands there, and where the content begins."""
    if at >= len(data):
        raise ValueError("cut off")
    first, at = data[at], at + 1
    if first < _LONG:
        return first, at
    count = first - _LONG
    if not 0 < count <= _SIZE_OF_SIZE or at + count > len(data):
        raise ValueError("a length that cannot be")
    return int.from_bytes(data[at : at + count], "big"), at + count


def _title(name: bytes) -> str:
    """Return how a distinguished name is called: common name, organisation, or unit."""
    found: dict[bytes, str] = {}
    for _, group in _parts(name):
        for _, pair in _parts(group):
            kind, (tag, text) = _pair(pair)
            found.setdefault(kind, _text(text, "utf-16-be" if tag == _BMP else "utf-8"))
    return next((found[k] for k in (_COMMON_NAME, _ORGANIZATION, _UNIT) if found.get(k)), "")


def _pair(data: bytes) -> tuple[bytes, tuple[int, bytes]]:
    parts = list(_parts(data))
    if len(parts) != 2:  # noqa: PLR2004  a kind and a value
        raise ValueError("no pair")
    return parts[0][1], parts[1]


def _alt_names(extensions: bytes) -> list[str]:
    for _, listed in _parts(extensions):
        for _, extension in _parts(listed):
            fields = [content for _, content in _parts(extension)]
            if fields and fields[0] == _ALT_NAME:
                names = [name for _, names in _parts(fields[-1]) for name in _readable(names)]
                return names[:_NAMES]
    return []


def _readable(names: bytes) -> Iterator[str]:
    for tag, text in _parts(names):
        if tag == _DNS:
            yield _text(text, "ascii")
        elif tag == _ADDRESS and len(text) in {4, 16}:
            yield str(ip_address(text))


def _text(data: bytes, encoding: str) -> str:
    """Return a text of somebody's choice as one short line."""
    text = data.decode(encoding, errors="replace")
    return "".join(c if c.isprintable() else "?" for c in text)[:_TEXT].strip()
