"""What the frames of each API mean: text, finish, usage, error, and whether the stream is whole."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.frames import chat_frame, frame
from service.core import sse
from service.core.dialect import Anthropic, Chat, Dialect, Media, Plain, Responses, for_path
from service.core.events import COMMENT, MALFORMED, OPAQUE, QUIET, USAGE, Event
from service.errors import Failure

DONE = b"data: [DONE]\n\n"
ALL = [Chat, Responses, Anthropic, Media, Dialect, Plain]
PARSING = [Chat, Responses, Anthropic, Media]
CUT = Failure("upstream_cut", 'the upstream "ended"\nearly 你好', stage="stream")


def read(dialect, *frames):
    """Let a new reader of this API read the frames; return the reader and the events."""
    reader = dialect()
    return reader, [reader.read(raw) for raw in frames]


def state(reader):
    """Return what decides how a stream ends."""
    return {name for name in ("complete", "trusting", "over") if getattr(reader, name)}


def typed(kind, **fields):
    """Return a frame as Responses and Anthropic send it."""
    return frame({"type": kind, **fields}, event=kind)


def choice(index, content=None, finish=None):
    """Return one choice of a chunk."""
    delta = {} if content is None else {"content": content}
    return {"index": index, "delta": delta, "finish_reason": finish}


def chunk(*choices, **more):
    """Return a frame with these choices."""
    return frame({"object": "chat.completion.chunk", "choices": list(choices), **more})


class TestPaths:
    """The path below /v1 says which API it is."""

    @pytest.mark.parametrize(
        ("path", "dialect"),
        [
            ("chat/completions", Chat),
            ("chat/completions/", Chat),
            ("completions", Chat),
            ("responses", Responses),
            ("responses/resp_123", Responses),
            ("messages", Anthropic),
            ("audio/transcriptions", Media),
            ("audio/translations", Media),
            ("audio/speech", Media),
            ("images/generations", Media),
            ("images/edits", Media),
            ("threads/t/runs", Dialect),
            ("threads/t/messages", Dialect),
            ("messages/count_tokens", Anthropic),
            ("embeddings", Dialect),
            ("", Dialect),
        ],
    )
    def test_for_path(self, path, dialect):
        """A path that the relay does not know is read as an unknown API."""
        assert type(for_path(path)) is dialect

    @pytest.mark.parametrize(
        ("path", "dialect"),
        [("complete", Anthropic), ("chat/completions", Chat), ("responses/r", Responses)],
    )
    def test_an_upstream_of_another_api(self, path, dialect):
        """Where the path says nothing, the upstream's API does."""
        assert type(for_path(path, "anthropic")) is dialect
        assert type(for_path("complete", "azure")) is Dialect

    def test_each_stream_has_a_reader_of_its_own(self):
        """What one stream said is nothing that another stream said."""
        first = for_path("chat/completions")
        first.read(DONE)
        assert not for_path("chat/completions").complete


class TestChat:
    """Chat completions: `[DONE]`, or the finish_reason of every choice seen."""

    def test_a_whole_answer(self):
        """The events of an answer in their order; the terminal comes with `[DONE]`."""
        reader, events = read(
            Chat,
            chat_frame({"role": "assistant", "content": ""}, model="m-2026"),
            chat_frame({"content": "Hel"}),
            chat_frame({"content": "lo"}),
            chat_frame({}, finish="stop", model="m-2026"),
            chat_frame(usage={"total_tokens": 3}, model="m-2026"),
            DONE,
        )
        texts = [Event(content=True, text="Hel"), Event(content=True, text="lo")]
        assert events == [QUIET, *texts, QUIET, USAGE, QUIET]
        assert [event is USAGE for event in events] == [False] * 4 + [True, False]
        assert state(reader) == {"complete", "over"}
        assert (reader.model, reader.finish_reason) == ("m-2026", "stop")
        assert reader.usage == {"total_tokens": 3}
        assert reader.error is None

    def test_nothing_is_complete_at_the_beginning(self):
        """An empty body is no whole answer."""
        assert state(Chat()) == set()

    @pytest.mark.parametrize("reason", ["stop", "length", "tool_calls", "content_filter", "eos"])
    def test_a_finish_reason_completes(self, reason):
        """Any finish_reason ends a choice; usage and `[DONE]` may follow, so it is not over."""
        reader, _ = read(Chat, chat_frame({"content": "x"}), chat_frame({}, finish=reason))
        assert state(reader) == {"complete"}
        assert reader.finish_reason == reason

    @pytest.mark.parametrize("reason", [None, ""])
    def test_no_finish_reason_yet(self, reason):
        """Null and empty are no finish_reason."""
        reader, _ = read(Chat, chat_frame({"content": "x"}, finish=reason))
        assert state(reader) == set()

    def test_usage_after_the_finish(self):
        """The usage that follows the finish is noted and reopens nothing."""
        reader, _ = read(
            Chat,
            chat_frame({"content": "x"}, finish="stop", usage=None),
            chat_frame(usage={"completion_tokens": 1}),
        )
        assert state(reader) == {"complete"}
        assert reader.usage == {"completion_tokens": 1}

    def test_usage_beside_choices(self):
        """Only a chunk with the usage and nothing else is one that may be left out."""
        _, events = read(
            Chat,
            chat_frame({"content": "x"}, usage={"completion_tokens": 1}),
            chat_frame({}, finish="stop", usage={"completion_tokens": 1}),
            chat_frame(usage=None),
            chat_frame(usage={}, error={"message": "no"}),
        )
        assert not [event for event in events if event is USAGE]

    def test_every_choice_must_finish(self):
        """With n=2 the stream is complete when both have finished, in whatever order."""
        reader = Chat()
        steps = [
            (chunk(choice(0, "a")), False),
            (chunk(choice(1, "b")), False),
            (chunk(choice(1, finish="stop")), False),
            (chunk(choice(0, "c")), False),
            (chunk(choice(0, finish="length")), True),
        ]
        for raw, complete in steps:
            reader.read(raw)
            assert reader.complete is complete
        assert reader.finish_reason == "length"

    def test_a_choice_that_begins_late_reopens(self):
        """A choice first seen after another's finish has to finish too."""
        reader, _ = read(Chat, chunk(choice(0, "a", "stop")))
        assert reader.complete
        reader.read(chunk(choice(1, "b")))
        assert not reader.complete
        reader.read(chunk(choice(1, finish="stop")))
        assert reader.complete

    def test_a_finished_choice_stays_finished(self):
        """What a vendor sends of a choice after its finish, such as a filter's verdict, is late."""
        reader, _ = read(Chat, chunk(choice(0, "a", "stop")), chunk(choice(0)))
        assert reader.complete

    def test_done_is_the_last_word(self):
        """After `[DONE]` nothing reopens the stream."""
        reader, _ = read(Chat, chunk(choice(0, "a")), DONE, chunk(choice(1, "b")))
        assert state(reader) == {"complete", "over"}

    def test_several_choices_in_one_chunk(self):
        """Such a chunk is content, whichever choice has the text; the first one's is shown."""
        _, [second, first] = read(
            Chat, chunk(choice(0), choice(1, "b")), chunk(choice(0, "a"), choice(1))
        )
        assert second == Event(content=True)
        assert first == Event(content=True, text="a")

    def test_plain_completions(self):
        """`text` instead of a delta; an empty one is no content."""
        reader, events = read(
            Chat,
            frame({"object": "text_completion", "choices": [{"text": "Hi", "index": 0}]}),
            frame({"choices": [{"text": "", "index": 0, "finish_reason": "stop"}]}),
            DONE,
        )
        assert events == [Event(content=True, text="Hi"), QUIET, QUIET]
        assert state(reader) == {"complete", "over"}

    def test_azure_begins_with_its_filter(self):
        """Azure's first chunk has no choices and an empty model: nothing is said by it."""
        first = {"choices": [], "created": 0, "id": "", "model": "", "object": "",
                 "prompt_filter_results": [{"prompt_index": 0}]}  # fmt: skip
        reader, [event] = read(Chat, frame(first))
        assert event == QUIET
        assert reader.model is None
        assert state(reader) == set()

    @pytest.mark.parametrize(
        "comment", [b": OPENROUTER PROCESSING\n\n", b": keep-alive\n\n", b":\n\n", b"\n\n"]
    )
    def test_comments(self, comment):
        """OpenRouter's, DeepSeek's and llama.cpp's comments are no data."""
        assert Chat().read(comment) == COMMENT
        assert not COMMENT.data

    @pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
    def test_reasoning(self, name):
        """The names of vLLM and DeepSeek for what the model thinks; it is content."""
        _, events = read(Chat, chat_frame({"content": None, name: "Hm"}), chat_frame({name: ""}))
        assert events == [Event(content=True, reasoning="Hm"), QUIET]

    def test_reasoning_and_text_together(self):
        """A chunk may have both."""
        _, [event] = read(Chat, chat_frame({"content": "x", "reasoning_content": "y"}))
        assert event == Event(content=True, text="x", reasoning="y")

    def test_a_refusal_is_the_answer(self):
        """The model's refusal is text like any other."""
        _, [event] = read(Chat, chat_frame({"refusal": "No."}))
        assert event == Event(content=True, text="No.")

    def test_tool_calls(self):
        """They are content and are kept as they came; an empty list is none."""
        calls = [{"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a":1'}}]
        _, events = read(Chat, chat_frame({"tool_calls": calls}), chat_frame({"tool_calls": []}))
        assert events == [Event(content=True, tool_calls=calls), QUIET]

    @pytest.mark.parametrize("delta", [{"function_call": {"name": "f"}}, {"audio": {"id": "a"}}])
    def test_other_content(self, delta):
        """Function calls and audio are content that `/chat` does not show."""
        assert read(Chat, chat_frame(delta))[1] == [OPAQUE]

    @pytest.mark.parametrize(
        ("raw", "error"),
        [
            (frame({"error": {"message": "no"}}), {"message": "no"}),
            (frame({"error": {"message": "no"}}, event="error"), {"message": "no"}),
            (frame({"error": "no"}), "no"),
            (frame({"object": "error", "message": "no", "code": 400}), "no"),
            (chat_frame({"content": ""}, finish="error", error={"code": 502}), {"code": 502}),
            (b'error: {"message": "no"}\n\n', {"message": "no"}),
            (b"error: no\n\n", "no"),
            (b"error: \xff\n\n", "�"),
        ],
    )
    def test_the_upstreams_own_errors(self, raw, error):
        """OpenAI's, OpenRouter's, vLLM's and llama.cpp's errors; nothing is left to be said."""
        reader, events = read(Chat, chat_frame({"content": "x"}), raw)
        assert reader.error == error
        assert events[1] == QUIET
        assert state(reader) == {"complete"}

    def test_done_after_an_error(self):
        """llama.cpp sends `[DONE]` behind an error: it stays an error."""
        reader, _ = read(Chat, frame({"error": {"message": "no"}}), DONE)
        assert reader.error == {"message": "no"}

    @pytest.mark.parametrize(
        "raw", [frame({"object": "error"}), b"error: null\n\n", b"error:\n\n", b"error: {}\n\n"]
    )
    def test_an_error_without_words_is_an_error(self, raw):
        """Whatever is missing in an error, it never looks like success."""
        assert read(Chat, raw)[0].error == "an error, without a word about it"

    @pytest.mark.parametrize("nothing", [None, "", {}, False])
    def test_an_empty_error_is_none(self, nothing):
        """Some vendors send the field with every chunk."""
        reader, [event] = read(Chat, chat_frame({"content": "x"}, error=nothing))
        assert event.text == "x"
        assert reader.error is None

    @pytest.mark.parametrize("raw", [b"data: [DONE]", b"data: [DONE]\n", b"data:[DONE]\r\n"])
    def test_done_without_its_blank_line(self, raw):
        """What some servers send last counts."""
        reader = Chat()
        assert reader.read_rest(raw) == QUIET
        assert state(reader) == {"complete", "over"}

    @pytest.mark.parametrize("raw", [b"\n", b"\r\n", b"\n\r\n\n"])
    def test_line_ends_are_no_torso(self, raw):
        """They are handed on: nothing of a frame was cut."""
        assert Chat().read_rest(raw) == COMMENT

    @pytest.mark.parametrize("raw", [b'data: {"choices":[]}', b"data: [DON", b"data", b": c\n"])
    def test_a_torso_says_nothing(self, raw):
        """Any other frame without its blank line is cut, and dropped."""
        reader = Chat()
        assert reader.read_rest(raw) is None
        assert state(reader) == set()

    @pytest.mark.parametrize(
        "data",
        [b"", b"x", b"{", b'{"a":}', b"<html></html>", b"[DONE", b"[DONE] ", b'"\xff"', b"5 x",
         b'{"model": 1, ', b'{"choices": 5, "model', b'{"model":"\\ud800"}', b'{"usage":1e999}',
         b"[" * 100_000, b'{"usage":' + b"[" * 100_000],
    )  # fmt: skip
    def test_malformed(self, data):
        """What is no JSON is malformed, wherever the fault is, also behind an unexpected type."""
        reader, [event] = read(Chat, b"data: " + data + b"\n\n")
        assert event == MALFORMED
        assert state(reader) == set()

    @pytest.mark.parametrize(
        "value",
        [5, '"x"', None, True, [], [1], {}, {"choices": None}, {"choices": 1}, {"choices": {}},
         {"choices": [None, 1, "x", []]}, {"choices": [{}]}, {"choices": [{"delta": None}]},
         {"choices": [{"delta": 1}]}, {"choices": [{"delta": {"content": 1, "tool_calls": 2}}]},
         {"choices": [{"index": "0", "finish_reason": 7}]}, {"choices": [{"text": 1}]}],
    )  # fmt: skip
    def test_unexpected_types_say_nothing(self, value):
        """JSON of another shape is read as far as it makes sense."""
        reader, [event] = read(Chat, frame(value))
        assert event == QUIET
        assert (reader.error, reader.finish_reason) == (None, None)
        assert state(reader) == set()

    def test_one_odd_field_hides_no_other(self):
        """The rest of a chunk counts."""
        odd = {"index": None, "delta": {"content": "x", "role": 5}, "finish_reason": "stop"}
        odd = {"model": 7, "usage": {"total_tokens": 1}, "choices": [odd]}
        reader, [event] = read(Chat, frame(odd))
        assert event == Event(content=True, text="x")
        assert (reader.model, reader.usage) == (None, {"total_tokens": 1})
        assert state(reader) == {"complete"}

    def test_content_in_parts(self):
        """Mistral's list of parts: the text of those that have one, joined."""
        parts = [{"type": "text", "text": "a"}, "x", {"type": "image"}, {"text": 1}, {"text": "b"}]
        _, [event] = read(Chat, chat_frame({"content": parts, "reasoning": [{"text": "c"}]}))
        assert event == Event(content=True, text="ab", reasoning="c")

    def test_odd_calls_are_kept(self):
        """Tool calls beside a field of another type are kept as they came."""
        _, [event] = read(Chat, chat_frame({"content": 5, "tool_calls": ["odd"]}))
        assert event == Event(content=True, tool_calls=["odd"])


class TestResponses:
    """The Responses API: `response.completed`, `.incomplete`, `.failed`, `.cancelled`."""

    def test_a_whole_answer(self):
        """Deltas are content; the response says its model and its usage."""
        usage = {"input_tokens": 1}
        reader, events = read(
            Responses,
            typed("response.created", response={"model": "m", "usage": None}, sequence_number=0),
            typed("response.reasoning_summary_text.delta", delta="Hm", sequence_number=1),
            typed("response.output_text.delta", delta="Hi", sequence_number=2),
            typed("response.refusal.delta", delta="No", sequence_number=3),
            typed("response.function_call_arguments.delta", delta="{", sequence_number=4),
            typed("response.output_text.done", text="Hi", sequence_number=5),
            typed("response.completed", response={"model": "m", "usage": usage}),
        )
        assert events == [
            QUIET,
            Event(content=True, reasoning="Hm"),
            Event(content=True, text="Hi"),
            Event(content=True, text="No"),
            OPAQUE,
            QUIET,
            QUIET,
        ]
        assert state(reader) == {"complete"}
        assert (reader.model, reader.usage, reader.error) == ("m", usage, None)

    @pytest.mark.parametrize("kind", ["completed", "incomplete", "failed", "cancelled"])
    def test_endings(self, kind):
        """Each says that the stream is whole; `[DONE]` may follow, and says nothing."""
        reader, events = read(Responses, typed(f"response.{kind}", response={}), DONE)
        assert events == [QUIET, QUIET]
        assert state(reader) == {"complete"}

    @pytest.mark.parametrize(
        "raw", [typed("response.created", response={}), typed("response.output_item.done"), DONE]
    )
    def test_no_endings(self, raw):
        """Nothing else ends it, `[DONE]` neither: the API has none."""
        assert state(read(Responses, raw)[0]) == set()

    @pytest.mark.parametrize(
        ("fields", "error"),
        [
            ({"response": {"error": {"message": "no"}}}, {"message": "no"}),
            ({"response": {"error": None}}, "an error, without a word about it"),
            ({"response": 5}, "an error, without a word about it"),
            ({}, "an error, without a word about it"),
        ],
    )
    def test_failed(self, fields, error):
        """`response.failed` is the upstream's own error, whatever it carries."""
        assert read(Responses, typed("response.failed", **fields))[0].error == error

    @pytest.mark.parametrize(
        ("raw", "error"),
        [
            (typed("error", code="c", message="no", param=None), {"code": "c", "message": "no"}),
            (typed("error", error={"message": "no"}), {"message": "no"}),
            (typed("error"), "an error, without a word about it"),
            (frame({"message": "no"}, event="error"), "no"),
            (frame({"error": {"message": "no"}}), {"message": "no"}),
        ],
    )
    def test_errors(self, raw, error):
        """The API's error event, with and without words, and a proxy's plain error object."""
        reader, [event] = read(Responses, raw)
        assert (reader.error, event) == (error, QUIET)
        assert state(reader) == {"complete"}

    def test_an_error_field_of_an_event_is_none(self):
        """The type says what an event is, not that it has a field of that name."""
        reader, _ = read(Responses, typed("response.mcp_call.failed", error={"message": "no"}))
        assert reader.error is None

    def test_the_error_frame_goes_on_counting(self):
        """Its sequence_number is the next one; an odd one of the upstream's does not count."""
        reader, _ = read(
            Responses, typed("x", sequence_number=41), typed("x", sequence_number="odd")
        )
        assert reader.error_body(CUT)["sequence_number"] == 42
        assert Responses().error_body(CUT)["sequence_number"] == 1

    def test_the_event_name_stands_in(self):
        """An event whose data has no type is what its `event:` line says."""
        reader, _ = read(Responses, frame({"response": {}}, event="response.completed"))
        assert reader.complete


class TestAnthropic:
    """Anthropic's messages: `message_stop`."""

    USAGE = {"input_tokens": 9, "output_tokens": 1}  # noqa: RUF012
    START = typed("message_start", message={"model": "claude", "usage": USAGE})

    def test_a_whole_answer(self):
        """Deltas are content; the usage is that of the start with the counts of the end."""
        reader, events = read(
            Anthropic,
            self.START,
            typed("content_block_start", index=0, content_block={"type": "text", "text": ""}),
            typed("ping"),
            typed("content_block_delta", delta={"type": "text_delta", "text": "Hi"}),
            typed("content_block_delta", delta={"type": "thinking_delta", "thinking": "Hm"}),
            typed("content_block_delta", delta={"type": "input_json_delta", "partial_json": ""}),
            typed("content_block_stop", index=0),
            typed(
                "message_delta",
                delta={"stop_reason": "end_turn"},
                usage={"output_tokens": 7, "input_tokens": None},
            ),
            typed("message_stop"),
        )
        hi, hm = Event(content=True, text="Hi"), Event(content=True, reasoning="Hm")
        assert events == [QUIET, QUIET, COMMENT, hi, hm, OPAQUE, QUIET, QUIET, QUIET]
        assert state(reader) == {"complete", "over"}
        assert (reader.model, reader.finish_reason) == ("claude", "end_turn")
        assert reader.usage == {"input_tokens": 9, "output_tokens": 7}

    def test_a_stop_reason_is_no_ending(self):
        """Only `message_stop` ends a message."""
        reader, _ = read(Anthropic, self.START, typed("message_delta", delta={"stop_reason": "x"}))
        assert state(reader) == set()

    @pytest.mark.parametrize(
        ("block", "event"),
        [
            ({"type": "text", "text": ""}, QUIET),
            ({"type": "thinking", "thinking": ""}, QUIET),
            ({"type": "text", "text": "Hi"}, Event(content=True, text="Hi")),
            ({"type": "tool_use", "name": "f"}, OPAQUE),
            ({"type": "redacted_thinking", "data": "x"}, OPAQUE),
            ({"type": []}, OPAQUE),
            (5, OPAQUE),
        ],
    )
    def test_a_block_begins(self, block, event):
        """A block that begins without text is no content yet, as a role is none."""
        _, [found] = read(Anthropic, typed("content_block_start", content_block=block))
        assert found == event

    @pytest.mark.parametrize(
        ("raw", "error"),
        [
            (typed("error", error={"type": "overloaded_error"}), {"type": "overloaded_error"}),
            (typed("error"), "an error, without a word about it"),
            (frame({"error": {"message": "no"}}), {"message": "no"}),
        ],
    )
    def test_errors(self, raw, error):
        """Its error event, and a proxy's plain error object."""
        reader, [event] = read(Anthropic, self.START, raw)[0], read(Anthropic, raw)[1]
        assert (reader.error, event) == (error, QUIET)
        assert state(reader) == {"complete"}

    @pytest.mark.parametrize(
        "raw",
        [
            typed("message_start", message=5),
            typed("message_start", message={"model": 5}),
            typed("message_delta", delta=[], usage=5),
            typed("some_new_event"),
            frame({"type": 5}),
            frame({}),
        ],
    )
    def test_unexpected_types_say_nothing(self, raw):
        """Unknown events pass; odd fields are passed over."""
        reader, [event] = read(Anthropic, raw)
        assert event == QUIET
        assert (reader.model, reader.finish_reason, reader.error) == (None, None, None)
        assert state(reader) == set()

    def test_usage_of_another_shape(self):
        """What is no table of counts is taken as it is."""
        reader, _ = read(Anthropic, self.START, typed("message_delta", usage=5))
        assert reader.usage == 5


class TestMedia:
    """Transcriptions, images and speech."""

    @pytest.mark.parametrize(
        "kind",
        ["transcript.text.done", "image_generation.completed", "image_edit.completed",
         "speech.audio.done"],
    )  # fmt: skip
    def test_endings(self, kind):
        """Each says that the stream is whole, but not that it is over: images may follow."""
        reader, _ = read(Media, typed(kind, usage={"total_tokens": 5}))
        assert state(reader) == {"complete"}
        assert reader.usage == {"total_tokens": 5}

    def test_a_transcript(self):
        """Its deltas are text; without its end it is not whole."""
        reader, [event] = read(Media, typed("transcript.text.delta", delta="Hi"))
        assert event == Event(content=True, text="Hi")
        assert state(reader) == set()

    def test_sound_and_pictures(self):
        """They are content without text."""
        _, events = read(
            Media,
            typed("speech.audio.delta", audio="UklG"),
            typed("image_generation.partial_image", b64_json="iVBO", partial_image_index=0),
            typed("something.delta", delta={"x": 1}),
        )
        assert events == [OPAQUE, OPAQUE, OPAQUE]

    @pytest.mark.parametrize("next_kind", ["image_generation.partial_image", "x.delta"])
    def test_the_next_image_reopens(self, next_kind):
        """A part that comes after an end belongs to what has not ended."""
        reader, _ = read(Media, typed("image_generation.completed"), typed(next_kind))
        assert state(reader) == set()
        reader.read(typed("image_generation.completed"))
        assert state(reader) == {"complete"}

    def test_an_error_is_no_content(self):
        """An upstream's own error is no part of the answer."""
        reader, [event] = read(Media, typed("error", error={"message": "no"}))
        assert (reader.error, event) == ({"message": "no"}, QUIET)


class TestUnknown:
    """An API that the relay does not know, and a body that is no event stream."""

    def test_it_ends_as_its_transport_ends(self):
        """Any data is content; nothing but the transport says that it is whole."""
        reader, events = read(Dialect, frame("x"), b": c\n\n", DONE, frame({"error": "no"}))
        assert events == [OPAQUE, COMMENT, OPAQUE, OPAQUE]
        assert state(reader) == {"trusting"}
        assert reader.error is None

    @pytest.mark.parametrize(("rest", "event"), [(b"data: x", OPAQUE), (b": c", COMMENT)])
    def test_its_last_bytes_count(self, rest, event):
        """Where nobody can tell a torso, nothing is taken for one."""
        assert Dialect().read_rest(rest) == event

    def test_plain(self):
        """Every piece of a body that is no event stream is content."""
        reader, events = read(Plain, b"\x00", b": c\n\n")
        assert events == [OPAQUE, OPAQUE]
        assert state(reader) == {"trusting"}


@pytest.mark.parametrize(
    ("dialect", "kind"), [(Anthropic, "message_stop"), (Responses, "response.completed")]
)
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_the_last_frame_without_its_blank_line(dialect, kind, end):
    """The upstream has said that it is complete; a piece of the same says nothing."""
    raw = b'event: %b\ndata: {"type":"%b"}' % (kind.encode(), kind.encode())
    reader = dialect()
    assert reader.read_rest(raw[:-1]) is None
    assert reader.read_rest(b'data: {"type":"ping"}') is None
    assert not reader.complete
    assert reader.read_rest(raw + end) is not None
    assert reader.complete


@pytest.mark.parametrize("dialect", PARSING)
@pytest.mark.parametrize("data", [b"x", b"5", b"[]", b"{", b"[" * 100_000, b'{"usage":1e999}'])
def test_no_object_is_no_event(dialect, data):
    """What is no JSON object says nothing in any API, and never raises."""
    reader, [event] = read(dialect, b"data: " + data + b"\n\n")
    assert event in (QUIET, MALFORMED)
    assert state(reader) == set()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
KINDS = st.sampled_from(
    ["error", "ping", "message_start", "message_delta", "content_block_start",
     "content_block_delta", "message_stop", "response.failed", "response.completed",
     "response.output_text.delta", "transcript.text.delta", "image_edit.completed"]
)  # fmt: skip
NAMED = st.sampled_from(
    ["object", "model", "usage", "error", "message", "delta", "content_block", "response",
     "sequence_number", "text", "thinking", "content", "tool_calls", "audio", "index",
     "finish_reason", "reasoning", "refusal", "function_call"]
)  # fmt: skip
OBJECT = st.dictionaries(NAMED, JSON | st.dictionaries(NAMED, JSON), max_size=6)
CHOICE = st.dictionaries(NAMED | st.just("delta"), JSON | OBJECT, max_size=4)


@st.composite
def odd_chunks(draw):
    """Draw JSON with the names that the APIs have, and values of any type."""
    found = draw(OBJECT)
    if draw(st.booleans()):
        found["choices"] = draw(st.lists(CHOICE | JSON, max_size=3) | JSON)
    if draw(st.booleans()):
        found["type"] = draw(KINDS | JSON)
    return found


SCRAPS = st.sampled_from(
    [b"data: ", b"\n", b"error:", b"event: error", b"[DONE]", b"{", b"1", b'"']
)


def plausible(event):
    """Check the types of an event."""
    assert isinstance(event.text, str)
    assert isinstance(event.reasoning, str)
    assert event.tool_calls is None or isinstance(event.tool_calls, list)
    assert event.content or not (event.text or event.reasoning or event.tool_calls)
    assert event.data or not event.content


@settings(deadline=None)
@given(st.binary() | st.lists(SCRAPS).map(b"".join))
def test_any_bytes(data):
    """No bytes make a reader raise."""
    for dialect in ALL:
        reader = dialect()
        for raw in (data, b"data: " + data + b"\n\n"):
            plausible(reader.read(raw))
            reader.read_rest(raw)


@settings(deadline=None)
@given(st.lists(JSON | odd_chunks(), max_size=3))
def test_any_json(values):
    """No JSON makes a reader raise, or gives an event or a state of the wrong type."""
    frames = [frame(json.dumps(value)) for value in values]
    for dialect in ALL:
        reader, events = read(dialect, *frames)
        for event in events:
            plausible(event)
        assert reader.model is None or isinstance(reader.model, str)
        assert reader.finish_reason is None or isinstance(reader.finish_reason, str)
        assert sse.payload(reader.error_frame(CUT)) is not None


class TestErrorFrames:
    """A cut is told in the words of the API that the client speaks."""

    FIELDS = CUT.fields()

    @staticmethod
    def parsed(raw):
        """Return a frame's event name and its data; it is one whole frame of one data line."""
        framer = sse.Framer(1 << 20)
        assert framer.feed(raw) == [raw]
        name = sse.field(raw, b"event")
        return name and name.decode(), json.loads(sse.payload(raw))

    def test_chat(self):
        """`data: {"error": …}` without an event name, which the SDKs raise as an API error."""
        assert self.parsed(Chat().error_frame(CUT)) == (None, {"error": self.FIELDS})

    def test_responses(self):
        """The API's error event, with the `error` that makes its SDKs raise."""
        name, data = self.parsed(Responses().error_frame(CUT))
        assert name == data["type"] == "error"
        assert data["error"] == self.FIELDS
        assert (data["code"], data["message"]) == ("upstream_cut", CUT.message)
        assert data["param"] is None

    def test_anthropic(self):
        """The API's error event."""
        expected = {"type": "error", "error": self.FIELDS}
        assert self.parsed(Anthropic().error_frame(CUT)) == ("error", expected)

    @pytest.mark.parametrize("dialect", [Media, Dialect])
    def test_others(self, dialect):
        """An event named error with an `error`."""
        assert self.parsed(dialect().error_frame(CUT)) == ("error", {"error": self.FIELDS})

    @pytest.mark.parametrize("dialect", PARSING)
    def test_another_relay_understands(self, dialect):
        """What a relay tells of a cut, the next relay reads as the upstream's own error."""
        reader, _ = read(dialect, dialect().error_frame(CUT))
        assert reader.error == self.FIELDS

    @pytest.mark.parametrize("dialect", ALL)
    def test_refusals(self, dialect):
        """Outside a stream it is `{"error": …}`, for Anthropic with its type."""
        expected = {"error": self.FIELDS}
        if dialect is Anthropic:
            expected["type"] = "error"
        assert dialect().refusal(CUT) == expected
