"""The framing cases of the SDKs for Python: what their decoders make of a body.

openai-python 3.54, tests/test_streaming.py and tests/test_sse_framing.py; anthropic-sdk-python
2.12, tests/test_streaming.py. They feed a mocked response; here the pieces come from an upstream.
An event is what the SDK's own iterator hands on: its `event` (None as ""), `data` and `id`.
"""

from collections.abc import Sequence

from cases import Case, Seen, case

_BAR = 'event: completion\ndata: {"bar":false}\n\n'
_WORD = "известни"


def framed(source: str, *pieces: str | bytes, events: Sequence[tuple[str, str]]) -> Case:
    """Return a case whose events have no id."""
    seen: list[Seen] = [(name, data, "") for name, data in events]
    return case(source, *pieces, events=seen)


def _cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


STREAMING = (
    framed("test_basic", "event: completion\n", 'data: {"foo":true}\n', "\n",
           events=[("completion", '{"foo":true}')]),
    framed("test_data_missing_event", 'data: {"foo":true}\n', "\n", events=[("", '{"foo":true}')]),
    framed("test_event_missing_data", "event: ping\n", "\n", events=[("ping", "")]),
    framed("test_multiple_events", "event: ping\n", "\n", "event: completion\n", "\n",
           events=[("ping", ""), ("completion", "")]),
    framed("test_multiple_events_with_data", "event: ping\n", 'data: {"foo":true}\n', "\n", _BAR,
           events=[("ping", '{"foo":true}'), ("completion", '{"bar":false}')]),
    framed("test_multiple_data_lines_with_empty_line", "event: ping\n", "data: {\n",
           'data: "foo":\n', "data: \n", "data:\n", "data: true}\n", "\n\n",
           events=[("ping", '{\n"foo":\n\n\ntrue}')]),
    framed("test_data_json_escaped_double_new_line", "event: ping\n",
           'data: {"foo": "my long\\n\\ncontent"}', "\n\n",
           events=[("ping", '{"foo": "my long\\n\\ncontent"}')]),
    framed("test_multiple_data_lines", "event: ping\n", "data: {\n", 'data: "foo":\n',
           "data: true}\n", "\n\n", events=[("ping", '{\n"foo":\ntrue}')]),
    framed("test_special_new_line_character",
           *(part for text in (" culpa", " \u2028", "foo")
             for part in (f'data: {{"content":"{text}"}}\n', "\n")),
           events=[("", f'{{"content":"{text}"}}') for text in (" culpa", " \u2028", "foo")]),
    framed("test_multi_byte_character_multiple_chunks", 'data: {"content":"', b"\xd0",
           b"\xb8\xd0\xb7\xd0", _WORD.encode()[5:], '"}\n', "\n",
           events=[("", f'{{"content":"{_WORD}"}}')]),
)  # fmt: skip
"""Cases that both SDKs have."""

FRAMING = (
    *(
        framed(f"test_unterminated_event: {line.decode()!r} by {size}", *_cut(line * 40, size),
               events=[])
        for line in (b":x\n", b"data:x\n", b"ignored:x\n")
        for size in (7, 97)
    ),
    *(
        framed(f"test_every_chunk_boundary: {end!r} at {at}", frame[:at], frame[at:],
               events=[("", "ok")])
        for end in ("\n", "\r", "\r\n")
        for frame in (f"data:ok{end}{end}",)
        for at in range(1, len(frame))
    ),
    framed("test_many_complete_events", b"data:ok\n\n" * 2000, events=[("", "ok")] * 2000),
    framed("test_large_legitimate_events: one line", f"data:{'x' * 200_000}{_WORD}\u2028\r\n\r\n",
           events=[("", f"{'x' * 200_000}{_WORD}\u2028")]),
    framed("test_large_legitimate_events: many lines", b"data:x\n" * 10_000 + b"\n",
           events=[("", "\n".join("x" * 10_000))]),
    case("test_mixed_endings_utf8_and_eof",
         *_cut(f"id:one\r\ndata:{_WORD}\r\n\ndata:two\n\rdata:unfinished".encode(), 1),
         events=[("", _WORD, "one"), ("", "two", "one")]),
    *(
        framed(f"test_ignored_lines_are_discarded_incrementally: {line!r}", line * 1000,
               "data:ok\n", "\n", events=[("", "ok")])
        for line in (":x\n", "ignored:x\n")
    ),
)  # fmt: skip
"""Cases of openai's alone; theirs of 64 MiB passes what the relay takes for one event (16 MiB)."""
