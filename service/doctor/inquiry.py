"""What an upstream is asked on one way: its models, and a small answer.

    models   GET /models, and beside it the base URL that was perhaps meant
    stream   one completion of a few tokens, whose reads are looked at

Every answer becomes a Step; none of them repeats a secret.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from service import __version__
from service.adapters.doctor.errand import Errand
from service.adapters.upstream import Answer, Order
from service.core.dialect import for_path
from service.core.doctor import listing
from service.core.doctor.findings import Flow, Step
from service.core.doctor.lumps import Read, flow
from service.core.proxy import Proxy
from service.core.routes import Headers, credentials
from service.errors import Failure
from service.settings import Upstream

ANSWER: Final = 30.0
"""Seconds for the list of models."""
_NOBODY: Final = "http://teleprinter-doctor.invalid/"
_AT_ONCE: Final = 5.0
"""Seconds for an answer of the proxy's own."""
_STREAM: Final = 90.0
"""Seconds for the small answer."""
_TOKENS: Final = 40
_QUESTION: Final = "Count from one to thirty, in words, separated by spaces. Nothing else."
_EVEN: Final = "TELEPRINTER_PACE=smooth spreads them; better: no scanning or buffering on the way"
_BAD_REQUEST: Final = 400
_OK: Final = 200

Cure = Callable[[Failure, str], Awaitable[str]]
"""Takes a failure and its step, looks closer, returns what to do."""


class Inquiry:
    """The requests of one way. `flow`: how the tokens came, once there were some.

    `default`: the model to ask where it fits.
    """

    def __init__(self, upstream: Upstream, proxy: Proxy, asking: Errand, default: str) -> None:
        self.flow: Flow | None = None
        self._upstream = upstream
        self._asking = asking
        self._default = default
        self._listing = b""
        self._secrets = [
            upstream.key.reveal(),
            *upstream.headers.values(),
            *(hop.password.reveal() for hop in proxy.hops),
        ]

    async def of_nobody(self) -> int | None:
        """Return the status that a host has which cannot exist (RFC 6761); None if none came."""
        order = Order("GET", _NOBODY, [], None, streams=False)
        try:
            answer, _ = await self._asking._replace(seconds=_AT_ONCE).ask(order)
        except (Failure, TimeoutError):
            return None
        return answer.status

    async def models(self, cure: Cure) -> Step:
        """Ask for the list of models, where the base URL says and where it perhaps should."""
        try:
            step = await self._listed(self._upstream.url)
            if step.cure in {listing.NO_BASE, listing.PERHAPS}:
                return await self._elsewhere(step)
        except Failure as failure:
            return Step("models", "failed", None, failure.message, await cure(failure, "models"))
        except TimeoutError:
            said = f"no answer within {ANSWER:g} s"
            return Step("models", "failed", None, said, "try another way, or later")
        return step

    async def _elsewhere(self, step: Step) -> Step:
        """Return that step, or one that names the base URL at which there is an API."""
        other = listing.other_base(self._upstream.url)
        better = await self._listed(other)
        if better.result != "ok" and better.cure != listing.KEY:
            return step
        cure = f"write {other} in the upstream's url: the API answers there"
        return Step("models", "failed", said=step.said, cure=cure)

    async def _listed(self, base: str) -> Step:
        answer, self._listing = await self._asking.ask(self._order("GET", f"{base}/models"))
        kind = listing.kind_of(answer.content_type, self._listing)
        words = listing.words_of(self._listing, self._secrets)
        keyed = bool(self._upstream.key)
        return listing.of_models(answer.status, kind, keyed=keyed, words=words)

    def _order(self, method: str, url: str, body: object = None) -> Order:
        key = self._upstream.key.reveal()
        asked = None if body is None else msgspec.json.encode(body)
        return Order(method, url, self._headers(key), asked, streams=body is not None, secret=key)

    def _headers(self, key: str) -> Headers:
        """Return the upstream's key in its way, and its own headers, which win."""
        headers = {"Content-Type": "application/json", "User-Agent": f"teleprinter/{__version__}"}
        headers |= dict(credentials(self._upstream.api, key)) if key else {}
        if self._upstream.api == "anthropic":
            headers["anthropic-version"] = "2023-06-01"
        own = {name.lower() for name in self._upstream.headers}
        kept = [pair for pair in headers.items() if pair[0].lower() not in own]
        return [*kept, *self._upstream.headers.items()]

    async def stream(self, model: str = "") -> Step:
        """Ask for a small answer of that model, or of one that fits; see how its tokens come."""
        globs = self._upstream.models
        wanted = model or listing.model_for(self._default, globs, self._listing)
        model = self._upstream.model_map.get(wanted, wanted)
        try:
            answer, reads, first = await self._answered(model)
        except Failure as failure:
            cure = "something on the way, or the upstream, cuts streams: try another way"
            return Step("stream", "failed", None, failure.message, cure)
        except (TimeoutError, ValueError):
            said = f"no stream that came to its end within {_STREAM:g} s"
            return Step("stream", "failed", None, said, "try another model, or another way")
        if answer.status != _OK or answer.content_type != "text/event-stream":
            return self._no_stream(answer, first, model)
        return self._judged(reads, model)

    async def _answered(self, model: str) -> tuple[Answer, list[Read], bytes]:
        path = "messages" if self._upstream.api == "anthropic" else "chat/completions"
        messages = [{"role": "user", "content": _QUESTION}]
        asked = {"model": model, "messages": messages, "stream": True}
        asking = self._asking._replace(seconds=_STREAM)

        async def once(limit: str) -> tuple[Answer, list[Read], bytes]:
            order = self._order("POST", f"{self._upstream.url}/{path}", asked | {limit: _TOKENS})
            return await asking.listen(order, for_path(path, self._upstream.api))

        found = await once("max_tokens")
        if found[0].status == _BAD_REQUEST and b"max_completion_tokens" in found[2]:
            return await once("max_completion_tokens")  # as OpenAI's reasoning models want it
        return found

    def _no_stream(self, answer: Answer, body: bytes, model: str) -> Step:
        words = listing.words_of(body, self._secrets)
        said = f"{answer.status} for the model {model}{f': {words}' if words else ''}"
        if answer.status == _OK:
            said = f"{answer.content_type or 'a body without a type'}, and no event stream"
        return Step("stream", "failed", said=said, cure="name a model that is there: --model NAME")

    def _judged(self, reads: list[Read], model: str) -> Step:
        if not any(read.tokens for read in reads):
            cure = "name another model: --model NAME"
            return Step("stream", "warning", said=f"{model} sent no token", cure=cure)
        found = self.flow = flow(reads)
        said = (
            f"{model}: first token after {found.first_token:.2f} s, {found.tokens} tokens in"
            f" {found.reads} reads, longest gap {found.longest_gap:.2f} s: {found.verdict}"
        )
        if found.verdict in {"lumps", "held back"}:
            return Step("stream", "warning", said=said, cure=_EVEN)
        return Step("stream", "ok", said=said)
