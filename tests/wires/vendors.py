"""What the vendors' OpenAI-compatible APIs stream, each with its own quirks.

Written after what their servers send: field for field where it matters, and short. Each stream goes
with what `/chat` has to tell of it, so that the two are read side by side.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from fakes import frame
from fakes.frames import DONE

ROLE = {"role": "assistant", "content": ""}


class Vendor(NamedTuple):
    """A stream: its frames, the content that `/chat` tells of it as (name, data), and the ending.

    ending   of `done`: model, finish_reason and usage; of `error`: the upstream's words as `said`,
             `partial`, and the `status` that it stands for
    """

    frames: list[bytes]
    told: list[tuple[str, Any]]
    ending: dict[str, Any]

    @property
    def body(self) -> bytes:
        """All bytes."""
        return b"".join(self.frames)


def answers(*texts: str) -> list[tuple[str, Any]]:
    """Return the events of these pieces of an answer."""
    return [("answer", {"content": text}) for text in texts]


def thinks(*texts: str) -> list[tuple[str, Any]]:
    """Return the events of these pieces of reasoning."""
    return [("reasoning", {"content": text}) for text in texts]


def done(model: str, finish: str | None = "stop", usage: Any = None) -> dict[str, Any]:
    """Return what the vendor said of a good end."""
    return {"model": model, "finish_reason": finish, "usage": usage}


def said(words: str, *, partial: bool = True, status: int | None = None) -> dict[str, Any]:
    """Return what the vendor said of its failure; `status`: what it stands for, if it passes."""
    return {"said": words, "partial": partial, "status": status}


def usage(prompt: int, completion: int, **more: Any) -> dict[str, Any]:
    """Return token counts, with the vendor's own fields."""
    total = prompt + completion
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}
    return counts | more


def chunks(common: Mapping[str, Any], **choice: Any):
    """Return a maker of a vendor's chunks; `choice`: further fields of each of its choices."""

    def chunk(delta: Any = None, finish: str | None = None, **more: Any) -> bytes:
        fields = {"index": 0, "delta": delta, **choice, "finish_reason": finish}
        choices = [] if delta is None else [fields]
        return frame({**common, "object": "chat.completion.chunk", "choices": choices, **more})

    return chunk


# --- OpenAI: padding against eavesdroppers, the verdict of its moderation, the usage by itself

_openai = chunks(
    {
        "id": "chatcmpl-BqVxYk2uT6mJ",
        "created": 1_700_000_000,
        "model": "gpt-4o-mini-2024-07-18",
        "service_tier": "default",
        "system_fingerprint": "fp_34a54ae93c",
    },
    logprobs=None,
)
_VERDICT = {
    "type": "moderation_results",
    "model": "omni-moderation-latest",
    "results": [
        {
            "type": "moderation_result",
            "model": "omni-moderation-latest",
            "flagged": False,
            "categories": {"violence": False},
            "category_scores": {"violence": 0.0004},
            "category_applied_input_types": {"violence": ["text"]},
        }
    ],
}
_COUNTED = usage(9, 2, prompt_tokens_details={"cached_tokens": 0, "audio_tokens": 0})
OPENAI = Vendor(
    [
        _openai(ROLE | {"refusal": None}, usage=None, obfuscation="kX1vU8sWq"),
        _openai({"content": "Hé"}, usage=None, obfuscation="9m"),
        _openai({"content": "llo 👋"}, usage=None, obfuscation="a7QpLx3"),
        _openai({}, "stop", usage=None, obfuscation="Zt0"),
        _openai(moderation={"input": _VERDICT, "output": _VERDICT}, usage=None),
        _openai(usage=_COUNTED, obfuscation="Xw4bN"),
        DONE,
    ],
    answers("Hé", "llo 👋"),
    done("gpt-4o-mini-2024-07-18", "stop", _COUNTED),
)

# --- calls of tools: each told apart by its index, in pieces that take turns


def _call(index: int, arguments: str, **head: Any) -> list[dict[str, Any]]:
    return [{"index": index, **head, "function": {"arguments": arguments}}]


def _opened(index: int, name: str) -> list[dict[str, Any]]:
    function = {"name": name, "arguments": ""}
    return [{"index": index, "id": f"call_{index}", "type": "function", "function": function}]


_CALLS = [
    _opened(0, "weather"),
    _call(0, '{"city": '),
    _opened(1, "time"),
    _call(1, '{"zone": "Asia/'),
    _call(0, '"東京"}') + _call(1, 'Tokyo"}'),
]
TOOLS = Vendor(
    [
        _openai({"role": "assistant", "content": None, "refusal": None, "tool_calls": _CALLS[0]}),
        *(_openai({"tool_calls": calls}) for calls in _CALLS[1:]),
        _openai({}, "tool_calls"),
        DONE,
    ],
    [("tool_calls", {"tool_calls": calls}) for calls in _CALLS],
    done("gpt-4o-mini-2024-07-18", "tool_calls"),
)

# --- Azure: begins with the verdict on the prompt, in a chunk without choices, id and model

_azure = chunks(
    {
        "id": "chatcmpl-AzQ1",
        "created": 1_700_000_000,
        "model": "gpt-4o-2024-11-20",
        "system_fingerprint": "fp_ee1d74bde0",
    },
    logprobs=None,
    content_filter_results={"violence": {"filtered": False, "severity": "safe"}},
)
_NOBODY = {"id": "", "object": "", "created": 0, "model": ""}
_PROMPT = {
    "prompt_index": 0,
    "content_filter_results": {
        "jailbreak": {"filtered": False, "detected": False},
        "violence": {"filtered": False, "severity": "safe"},
    },
}
_FILTERED_PROMPT = frame({**_NOBODY, "choices": [], "prompt_filter_results": [_PROMPT]})
AZURE = Vendor(
    [
        _FILTERED_PROMPT,
        _azure(ROLE | {"refusal": None}, usage=None),
        _azure({"content": "你"}, usage=None),
        _azure({"content": "好"}, usage=None),
        _azure({}, "stop", usage=None),
        _azure(usage=usage(8, 2)),
        DONE,
    ],
    answers("你", "好"),
    done("gpt-4o-2024-11-20", "stop", usage(8, 2)),
)


def _annotation(start: int, end: int) -> bytes:
    """Return a verdict that Azure's asynchronous filter sends later: a choice without a delta."""
    choice = {
        "index": 0,
        "finish_reason": None,
        "content_filter_results": {"violence": {"filtered": False, "severity": "safe"}},
        "content_filter_offsets": {"check_offset": end, "start_offset": start, "end_offset": end},
    }
    return frame({**_NOBODY, "choices": [choice]})


AZURE_ASYNC = Vendor(
    [
        _FILTERED_PROMPT,
        _azure(ROLE),
        _azure({"content": "Hel"}),
        _annotation(0, 3),
        _azure({"content": "lo"}),
        _azure({}, "stop"),
        _annotation(3, 5),
        DONE,
    ],
    answers("Hel", "lo"),
    done("gpt-4o-2024-11-20"),
)

# --- OpenRouter: comments while it waits, reasoning, its cost, errors within the stream

_openrouter = chunks(
    {"id": "gen-1753000000-xYz", "provider": "Fireworks", "model": "moonshotai/kimi-k2"},
    native_finish_reason=None,
    logprobs=None,
)
_PROCESSING = b": OPENROUTER PROCESSING\n\n"
_COST = usage(11, 4, cost=0.000021, is_byok=False)


def _thought(text: str) -> dict[str, Any]:
    details = [{"type": "reasoning.text", "text": text, "format": "unknown", "index": 0}]
    return ROLE | {"reasoning": text, "reasoning_details": details}


OPENROUTER = Vendor(
    [
        _PROCESSING,
        _PROCESSING,
        _openrouter(_thought("Well, ")),
        _openrouter(_thought("hm.")),
        _PROCESSING,
        _openrouter(ROLE | {"content": "Hi"}),
        _openrouter(ROLE | {"content": "!", "reasoning": None}),
        _openrouter(ROLE, "stop"),
        _openrouter(ROLE, usage=_COST),
        DONE,
    ],
    thinks("Well, ", "hm.") + answers("Hi", "!"),
    done("moonshotai/kimi-k2", "stop", _COST),
)
OPENROUTER_ERROR = Vendor(
    [
        _PROCESSING,
        _openrouter(ROLE | {"content": "Hi"}),
        _openrouter(
            ROLE, "error", error={"code": "server_error", "message": "Provider disconnected"}
        ),
        DONE,
    ],
    answers("Hi"),
    said("Provider disconnected", status=500),
)

# --- DeepSeek: comments and blank lines while it waits, the usage beside the finish

_deepseek = chunks(
    {
        "id": "930c60df-bf64-41c9-a88e-3ec75f81e00e",
        "created": 1_700_000_000,
        "model": "deepseek-reasoner",
        "system_fingerprint": "fp_ffc7281d48_prod0820_fp8_kvcache",
    },
    logprobs=None,
)
_CACHED = usage(8, 4, prompt_cache_hit_tokens=0, prompt_cache_miss_tokens=8)
DEEPSEEK = Vendor(
    [
        b": keep-alive\n\n",
        b"\n",
        b"\n\n",
        b": keep-alive\n\n",
        _deepseek({"role": "assistant", "content": None, "reasoning_content": ""}),
        _deepseek({"content": None, "reasoning_content": "想"}),
        b": keep-alive\n\n",
        _deepseek({"content": None, "reasoning_content": "一想"}),
        _deepseek({"content": "你好", "reasoning_content": None}),
        _deepseek({"content": "", "reasoning_content": None}, "stop", usage=_CACHED),
        DONE,
    ],
    thinks("想", "一想") + answers("你好"),
    done("deepseek-reasoner", "stop", _CACHED),
)
DEEPSEEK_PLAIN = b'\n\n\n\n{"object":"chat.completion","choices":[]}'
"""An answer that is no stream: blank lines while it waited, then the JSON."""

# --- Ollama: `reasoning` below /v1; its own API speaks JSON, a line each

_ollama = chunks(
    {"id": "chatcmpl-412", "created": 1, "model": "qwen3:8b", "system_fingerprint": "fp_ollama"}
)
OLLAMA = Vendor(
    [
        _ollama(ROLE | {"reasoning": "Okay"}),
        _ollama(ROLE | {"reasoning": ", so"}),
        _ollama(ROLE | {"content": "Hi"}),
        _ollama(ROLE | {"content": " there"}),
        _ollama(ROLE, "stop"),
        _ollama(usage=usage(12, 5)),
        DONE,
    ],
    thinks("Okay", ", so") + answers("Hi", " there"),
    done("qwen3:8b", "stop", usage(12, 5)),
)
_OLLAMA = b'{"model":"qwen3:8b","message":{"role":"assistant","content":'
OLLAMA_LINES = [
    _OLLAMA + b'"\xe4\xbd\xa0"},"done":false}\n',
    _OLLAMA + b'"\\u597d","thinking":"\\u003c"},"done":false}\n',
    _OLLAMA + b'""},"done_reason":"stop","done":true,"total_duration":4883583458}\n',
]
OLLAMA_ERROR_LINES = [
    OLLAMA_LINES[0],
    b'{"error":"an error was encountered while running the model: unexpected EOF"}\n',
]

# --- vLLM and SGLang: reasoning by two names, the usage so far with every chunk, errors

_vllm = chunks(
    {"id": "chatcmpl-9f1c", "created": 1_700_000_000, "model": "Qwen/Qwen3-8B"},
    logprobs=None,
    token_ids=None,
)
VLLM = Vendor(
    [
        _vllm(ROLE, prompt_token_ids=None, usage=usage(7, 0)),
        _vllm({"reasoning": "Let me"}, usage=usage(7, 1)),
        _vllm({"reasoning": " see"}, usage=usage(7, 2)),
        _vllm({"content": "Hi"}, usage=usage(7, 3)),
        _vllm({"content": ""}, "length", usage=usage(7, 4)),
        _vllm(usage=usage(7, 4)),
        DONE,
    ],
    thinks("Let me", " see") + answers("Hi"),
    done("Qwen/Qwen3-8B", "length", usage(7, 4)),
)
VLLM_OLDER = Vendor(
    [
        _vllm(ROLE),
        _vllm({"reasoning_content": "Let me"}),
        _vllm({"reasoning_content": " see", "content": "Hi"}),
        _vllm({"reasoning": "!", "reasoning_content": "!"}),
        _vllm({"content": ""}, "stop"),
        DONE,
    ],
    [*thinks("Let me", " see"), *answers("Hi"), *thinks("!")],
    done("Qwen/Qwen3-8B"),
)
_GONE = {"message": "EngineCore encountered an issue.", "type": "Internal", "param": None}
VLLM_ERROR = Vendor(
    [_vllm(ROLE), _vllm({"content": "Hi"}), frame({"error": _GONE | {"code": 500}}), DONE],
    answers("Hi"),
    said("EngineCore encountered an issue.", status=500),
)
VLLM_OLDER_ERROR = Vendor(
    [_vllm(ROLE), frame({"object": "error", **_GONE, "code": 400}), DONE],
    [],
    said("EngineCore encountered an issue.", partial=False),
)
_sglang = chunks(
    {"id": "5e0c", "created": 1_700_000_000, "model": "default"}, logprobs=None, matched_stop=None
)
SGLANG = Vendor(
    [
        _sglang(ROLE | {"reasoning": None, "tool_calls": None}, usage=None),
        _sglang({"role": None, "content": None, "reasoning": "Hm"}, usage=None),
        _sglang({"role": None, "content": "Hi", "reasoning": None}, usage=None),
        _sglang({"role": None, "content": None, "tool_calls": None}, "stop", usage=None),
        DONE,
    ],
    [*thinks("Hm"), *answers("Hi")],
    done("default"),
)

# --- llama.cpp: bare pings, a last line without its blank one, errors in a field of their own

_llama = chunks({"created": 1, "id": "chatcmpl-l1", "model": "gpt-oss", "system_fingerprint": "b9"})
_TIMINGS = {"prompt_n": 9, "predicted_n": 2, "predicted_per_second": 71.4}
LLAMA = Vendor(
    [
        b":\n\n",
        b":\n\n",
        _llama({"role": "assistant", "content": None}),
        _llama({"content": "Hi"}),
        b":\n\n",
        _llama({"content": "!"}),
        _llama({}, "stop", timings=_TIMINGS),
        _llama(usage=usage(9, 2), timings=_TIMINGS),
        DONE,
    ],
    answers("Hi", "!"),
    done("gpt-oss", "stop", usage(9, 2)),
)
_UNFINISHED = [_llama({"content": "Hi"}), _llama({"content": "!"})]
LLAMA_TORN = Vendor(
    [*_UNFINISHED, b"data: [DONE]\n"], answers("Hi", "!"), done("gpt-oss", finish=None)
)
LLAMA_BARE = Vendor(
    [*_UNFINISHED, b"data: [DONE]"], answers("Hi", "!"), done("gpt-oss", finish=None)
)
LLAMA_ERROR = Vendor(
    [
        _llama({"content": "Hi"}),
        b'error: {"code":500,"message":"Compute error.","type":"server_error"}\n\n',
        DONE,
    ],
    answers("Hi"),
    said("Compute error.", status=500),
)

# --- Mistral: content in parts, thoughts among them; no role by itself, the usage at the finish

_mistral = chunks({"id": "b7e1", "created": 1_700_000_000, "model": "magistral-medium-latest"})


def _thinking(text: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": [{"type": "text", "text": text}]}


MISTRAL = Vendor(
    [
        _mistral(ROLE),
        _mistral({"content": [_thinking("Hm")]}),
        _mistral({"content": [_thinking(", ") | {"closed": True}, {"type": "text", "text": "A"}]}),
        _mistral(
            {
                "content": [
                    {"type": "text", "text": "s "},
                    {"type": "reference", "reference_ids": [1]},
                    {"type": "text", "text": "said"},
                ]
            }
        ),
        _mistral({"content": "."}),
        _mistral({"content": ""}, "stop", usage=usage(5, 6)),
        DONE,
    ],
    [*thinks("Hm", ", "), *answers("A", "s said", ".")],
    done("magistral-medium-latest", "stop", usage(5, 6)),
)

STREAMS = {
    "openai": OPENAI,
    "openai tools": TOOLS,
    "azure": AZURE,
    "azure asynchronous filter": AZURE_ASYNC,
    "openrouter": OPENROUTER,
    "openrouter error": OPENROUTER_ERROR,
    "deepseek": DEEPSEEK,
    "ollama": OLLAMA,
    "vllm": VLLM,
    "vllm older": VLLM_OLDER,
    "vllm error": VLLM_ERROR,
    "vllm older error": VLLM_OLDER_ERROR,
    "sglang": SGLANG,
    "llama.cpp": LLAMA,
    "llama.cpp [DONE] and one line end": LLAMA_TORN,
    "llama.cpp [DONE] without a line end": LLAMA_BARE,
    "llama.cpp older error": LLAMA_ERROR,
    "mistral": MISTRAL,
}
"""Every stream, by its vendor and what is special about it."""
