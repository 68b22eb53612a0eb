"""What the fuzzers draw from, and how much of it.

`make fuzz` runs the same tests under the profile `fuzz`: more examples, other seeds each time.
"""

import json
from itertools import pairwise

import hypothesis
from hypothesis import strategies as st

_USUAL = 100
"""Examples of the profile `suite`, hypothesis's own default."""


def examples(number: int, **more) -> hypothesis.settings:
    """Return settings for so many examples in the suite, and as many times more when fuzzing."""
    most = hypothesis.settings.default.max_examples
    return hypothesis.settings(max_examples=max(1, number * most // _USUAL), **more)


TEXTS = st.text(max_size=12) | st.sampled_from(
    ["word ", "你好，世界", "e\u0301", "👨‍👩‍👧", "\r\n", "\u2028", "data: x\n\n", "\0", "x" * 200]
)
"""Texts as models write them, and as they had better not."""

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
"""Any JSON, and the numbers that Python's module writes though JSON has none of them."""


def near(*kinds: str, names: tuple[str, ...]) -> st.SearchStrategy[dict]:
    """Draw an object with some of these members, of any kind each, its `type` often a known one."""
    fields: dict[str, st.SearchStrategy] = dict.fromkeys(names, JSON)
    if kinds:
        fields["type"] = st.sampled_from(kinds) | JSON
    return st.fixed_dictionaries({}, optional=fields)


_DELTA = near(names=("content", "reasoning_content", "reasoning", "refusal", "tool_calls", "role"))
_SAID = st.fixed_dictionaries({}, optional={"content": TEXTS, "reasoning_content": TEXTS})
_CHOICE = st.fixed_dictionaries(
    {},
    optional={
        "index": st.integers(-1, 2) | JSON,
        "delta": _SAID | _DELTA | JSON,
        "text": TEXTS | JSON,
        "finish_reason": st.sampled_from(["stop", "length", None, ""]) | JSON,
    },
)
_COUNTED = {"usage": JSON, "model": JSON}
CHUNKS = st.fixed_dictionaries(
    {},
    optional={
        "choices": st.lists(_CHOICE, max_size=2) | JSON,
        **_COUNTED,
        "error": JSON,
        "object": st.sampled_from(["chat.completion.chunk", "error"]) | JSON,
    },
)
"""Chunks of chat completions, more or less."""
CUTTABLE = st.builds(
    lambda chunk, choice, delta: chunk | {"choices": [choice | {"delta": delta}]},
    st.fixed_dictionaries({}, optional=_COUNTED),
    _CHOICE,
    st.builds(
        lambda some, said: some | said,
        _DELTA,
        _SAID.filter(lambda said: any(said.values())),
    ),
)
"""Those of one choice with a delta that says something, and without an error."""
BLOCKS = st.builds(
    lambda more, key, text: (
        {"usage": more, "delta": {key: text, "more": more}} | {"type": "content_block_delta"}
    ),
    JSON,
    st.sampled_from(["text", "thinking"]),
    TEXTS.filter(bool),
)
"""Anthropic's."""
TYPED = near(
    "message_start",
    "content_block_start",
    "content_block_delta",
    "message_delta",
    "message_stop",
    "ping",
    "error",
    "response.output_text.delta",
    "response.reasoning_text.delta",
    "response.completed",
    "response.failed",
    "transcript.text.delta",
    "transcript.text.done",
    names=("delta", "content_block", "error", "message", "response", "usage", "sequence_number"),
)
"""Messages of the APIs that name each one's type, more or less."""


def _frame(data: bytes, end: bytes, name: bytes) -> bytes:
    lines = [name] if name else []
    return end.join([*lines, *(b"data: " + line for line in data.split(b"\n")), b"", b""])


FRAMES = st.builds(
    _frame,
    st.one_of(
        st.just(b"[DONE]"),
        (CHUNKS | TYPED | JSON).map(lambda value: json.dumps(value).encode()),
        st.binary(max_size=8)
        | st.just(rb'{"choices": [{"delta": {"content": "\ud83d"}}]}'),  # half of a character
    ),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.sampled_from([b"", b": ping", b"id: 7", b"event: message_stop", b"event: error", b"retry:"]),
)
LINES = st.sampled_from(
    [
        b"\n",
        b"\r",
        b"\r\n",
        b"\xef\xbb\xbf",
        b"data",
        b"data:x\n",
        b": c\n\n",
        b'error: {"a":1}\n\n',
    ]
)
STREAMS = st.lists(FRAMES | LINES | st.binary(max_size=4), max_size=8).map(b"".join)
"""The bytes of an event stream: frames, halves of frames, and what is none."""


@st.composite
def splits(draw, stream=STREAMS):
    """Draw a stream and the pieces in which it comes."""
    whole = draw(stream)
    cuts = draw(st.lists(st.integers(0, len(whole)), max_size=8))
    edges = [0, *sorted(cuts), len(whole)]
    return whole, [whole[a:b] for a, b in pairwise(edges)]
