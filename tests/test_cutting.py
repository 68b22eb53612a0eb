"""A /v1 frame that is cut: several valid frames, in which everything comes exactly once."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.frames import chat_frame, frame
from service.core import sse
from service.core.cutting import cut_of
from service.core.dialect import Anthropic, Chat, Media, Responses
from service.core.events import Frame

TEXT = 'Why 天空 is \\ "blue"\n👩‍👩‍👧‍👦\u2028?'
LOGPROBS = '{"content":[{"token":"Why","logprob":-0.000010000000000000001,"bytes":null}]}'
USAGE = {"prompt_tokens": 1, "completion_tokens": 2}
CALLS = [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]


def read(raw, dialect=None):
    """Return a frame as the relay reads it, and its cut."""
    dialect = dialect or Chat()
    found = Frame(7, raw, dialect.read(raw))
    return found, cut_of(dialect, found)


def parts(raw, *places, dialect=None):
    """Return the parts that end at these places and at the end."""
    _, cut = read(raw, dialect)
    stops = [*places, cut.units]
    return [cut.part(a, b) for a, b in zip([0, *stops], stops, strict=False)]


def bodies(found):
    """Return the JSON of frames, each of which must be one whole frame."""
    for part in found:
        assert sse.Framer(1 << 20).feed(part) == [part]
    return [json.loads(sse.payload(part)) for part in found]


def said(body, *keys):
    """Return what stands at that path, "" where nothing does."""
    for key in keys:
        body = body.get(key, {}) if isinstance(body, dict) else body[key]
    return body or ""


class TestChunk:
    """A chunk of a completion."""

    FULL = (
        b'data: {"id":"c1","object":"chat.completion.chunk","created":17,"model":"m",'
        b'"system_fingerprint":"fp","obfuscation":"xyz","usage":%s,"choices":[{"index":2,'
        b'"delta":{"role":"assistant","content":"one two three","refusal":null,"extra":{"a":1}},'
        b'"logprobs":%s,"finish_reason":"stop","seen":[1.50]}]}\n\n'
        % (json.dumps(USAGE).encode(), LOGPROBS.encode())
    )

    def test_identity_is_on_each_part(self):
        """Id, object, created, model and index are repeated."""
        for body in bodies(parts(self.FULL, 3, 7)):
            assert (body["id"], body["object"], body["created"]) == (
                "c1", "chat.completion.chunk", 17,
            )  # fmt: skip
            assert (body["model"], body["system_fingerprint"]) == ("m", "fp")
            assert [choice["index"] for choice in body["choices"]] == [2]

    def test_the_text_is_cut_and_the_rest_comes_once(self):
        """The role goes with the first part; all that ends or measures, with the last."""
        first, second, last = (body for body in bodies(parts(self.FULL, 3, 7)))
        deltas = [body["choices"][0]["delta"] for body in (first, second, last)]
        assert [delta["content"] for delta in deltas] == ["one", " two", " three"]
        assert ["role" in delta for delta in deltas] == [True, False, False]
        assert ["extra" in delta for delta in deltas] == [False, False, True]
        assert [delta["refusal"] for delta in deltas] == [None] * 3
        for body in (first, second):
            assert (body["usage"], "obfuscation" in body) == (None, False)
            choice = body["choices"][0]
            assert (choice["finish_reason"], choice["logprobs"], "seen" in choice) == (
                None, None, False,
            )  # fmt: skip
        assert (last["usage"], last["obfuscation"]) == (USAGE, "xyz")
        assert last["choices"][0]["finish_reason"] == "stop"

    def test_what_is_not_cut_keeps_its_bytes(self):
        """Numbers are not read and written anew: log probabilities are as the upstream wrote."""
        last = parts(self.FULL, 3)[-1]
        assert LOGPROBS.encode() in last
        assert b'"seen":[1.50]' in last

    @pytest.mark.parametrize(
        ("delta", "texts"),
        [
            ({"content": TEXT}, ("content",)),
            ({"refusal": TEXT}, ("refusal",)),
            ({"content": None, "reasoning_content": TEXT}, ("reasoning_content",)),
            ({"content": "", "reasoning": TEXT}, ("reasoning",)),
            ({"reasoning": TEXT, "reasoning_content": TEXT}, ("reasoning", "reasoning_content")),
        ],
    )
    def test_wherever_the_text_is(self, delta, texts):
        """Answer, refusal and both names of reasoning are cut; a vendor may send both."""
        found = bodies(parts(chat_frame(delta), 4, 9))
        for name in texts:
            assert [said(b, "choices", 0, "delta", name) for b in found] == [
                TEXT[:4], TEXT[4:9], TEXT[9:],
            ]  # fmt: skip

    def test_reasoning_before_the_text(self):
        """A chunk with both is cut as if the text stood behind the reasoning."""
        raw = chat_frame({"reasoning": "abc", "content": "defg", "tool_calls": CALLS})
        deltas = [body["choices"][0]["delta"] for body in bodies(parts(raw, 2, 5))]
        assert [delta.get("reasoning") for delta in deltas] == ["ab", "c", None]
        assert [delta.get("content") for delta in deltas] == [None, "de", "fg"]
        assert [delta.get("tool_calls") for delta in deltas] == [None, None, CALLS]

    def test_plain_completions(self):
        """`text` of the choice is cut as well."""
        raw = frame({"id": "c", "choices": [{"index": 0, "text": "ab cd", "finish_reason": "x"}]})
        choices = [body["choices"][0] for body in bodies(parts(raw, 2))]
        assert choices == [
            {"index": 0, "text": "ab", "finish_reason": None},
            {"index": 0, "text": " cd", "finish_reason": "x"},
        ]

    def test_other_lines_of_the_frame(self):
        """Comments and retry come once, the event's name each time, the upstream's id never."""
        raw = b": c\nevent: e\nid: 5\nretry: 9\n" + chat_frame({"content": "abc"})
        assert [part.partition(b"data")[0] for part in parts(raw, 1)] == [
            b": c\nretry: 9\nevent: e\n", b"event: e\n",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        "raw",
        [
            chat_frame({"content": [{"type": "text", "text": TEXT}]}),
            frame({"choices": [{"delta": {"content": "a"}}, {"delta": {"content": "b"}}]}),
            frame({"choices": [{"index": 0, "text": 5, "delta": None}]}),
            chat_frame({"reasoning_content": "a", "reasoning": "b", "content": "c"}),
            frame({"choices": None}),
            frame([1]),
            b"data: {\n\n",
            b"data: [DONE]\n\n",
            b": comment\n\n",
        ],
    )
    def test_what_stays_whole(self, raw):
        """Content in parts, several choices, two thoughts, and what is no chunk."""
        assert read(raw)[1] is None

    @given(st.text(min_size=1), st.text(), st.data())
    def test_any_text_anywhere(self, text, reasoning, data):
        """Cut at any places, the parts say together what the frame said."""
        raw = chat_frame({"role": "assistant", "content": text, "reasoning": reasoning})
        found, cut = read(raw)
        places = data.draw(st.lists(st.integers(1, cut.units), max_size=4).map(sorted))
        dialect = Chat()
        events = [dialect.read(part) for part in parts(raw, *places)]
        assert "".join(event.text for event in events) == found.event.text == text
        assert "".join(event.reasoning for event in events) == reasoning


class TestAnthropic:
    """content_block_delta of the Messages API."""

    @pytest.mark.parametrize(
        ("kind", "key"), [("text_delta", "text"), ("thinking_delta", "thinking")]
    )
    def test_cut(self, kind, key):
        """Several deltas of the same block, each behind its event's name."""
        data = {"type": "content_block_delta", "index": 3, "delta": {"type": kind, key: "ab cd"}}
        found = parts(frame(data, "content_block_delta"), 2, dialect=Anthropic())
        assert bodies(found) == [
            data | {"delta": {"type": kind, key: "ab"}},
            data | {"delta": {"type": kind, key: " cd"}},
        ]
        assert all(part.startswith(b"event: content_block_delta\ndata: ") for part in found)

    def test_whole(self):
        """A block that begins with its text stays whole."""
        block = {"type": "text", "text": "ab cd"}
        data = {"type": "content_block_start", "index": 0, "content_block": block}
        assert read(frame(data, "content_block_start"), Anthropic())[1] is None


@pytest.mark.parametrize(
    ("dialect", "kind"),
    [(Responses, "response.output_text.delta"), (Media, "transcript.text.delta")],
)
def test_dialects_that_stay_whole(dialect, kind):
    """Responses numbers its events: one more would be one too many. Transcriptions are no talk."""
    raw = frame({"type": kind, "delta": "ab cd", "sequence_number": 4}, kind)
    found, cut = read(raw, dialect())
    assert found.event.text == "ab cd"
    assert cut is None
