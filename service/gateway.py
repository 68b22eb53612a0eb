"""What is in force, and what a request becomes: upstream, order, stream.

The settings may be changed under way (`adopt`): new requests go by the new ones, and streams that
are under way keep the connections that they have.
"""

import asyncio
import random
import secrets
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Final, NamedTuple

from msgspec.structs import astuple
from yarl import URL

from service.adapters.clock import Clock
from service.adapters.egress import Lane, Route
from service.adapters.metrics import FIRST_TOKEN, GAP, Metrics
from service.adapters.rates import Rates, rates_of
from service.adapters.replay.memory import MemoryStore, Store
from service.adapters.replay.redis import RedisStore
from service.adapters.replay.unkept import Replay
from service.adapters.tracing import NoTraces
from service.adapters.upload import Upload
from service.adapters.upstream import Order
from service.catalogue import Source
from service.core import chat, dialect, ids, retry, routes
from service.core.access import Caller, Doors, Grant, Keys
from service.core.chat import Ask, Glance, Pacing
from service.core.circuit import Circuit
from service.core.events import Ending
from service.core.fronts import Fronts
from service.core.history import Recent
from service.core.keeping import Caps
from service.core.pool import Pool
from service.core.proxy import Proxy
from service.core.records import Facts
from service.core.retry import Course
from service.core.routes import Headers, Place
from service.core.tickets import Tickets, digest_of
from service.errors import Failure
from service.relay import Leg, Stream, Terms
from service.settings import Key, Settings, Upstream
from service.streams import Streams

_CHAT_KEEPS: Final = routes.CREDENTIALS | {
    "user-agent",
    "traceparent",
    "tracestate",
    "openai-organization",
    "openai-project",
}


class Incoming(NamedTuple):
    """A client's request, as far as an upstream is concerned; an Upload is not looked into."""

    method: str
    place: Place
    query: str
    headers: Headers
    body: bytes | Upload


class _Errand(NamedTuple):
    """What is to be asked of any upstream that may serve a request; `rest` as in Place."""

    method: str
    rest: str
    body: bytes | Upload
    compose: Callable[[Upstream], Order]
    streams: bool
    background: bool = False

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent twice."""
        endpoint = dialect.endpoint(self.rest)
        sent_once = isinstance(self.body, Upload)
        return not sent_once and retry.repeatable(self.method, endpoint, background=self.background)

    def too_large(self, rules: retry.Rules) -> str:
        """Say why a body is not kept for a second time; empty if it is."""
        if isinstance(self.body, Upload) or len(self.body) <= rules.body:
            return ""
        return f"not tried again: its body is larger than the {rules.body} bytes of retry.body"


class Gateway:
    """The settings in force, the ways to the upstreams, and the streams that are under way."""

    def __init__(self, settings: Settings, clock: Clock, traces: NoTraces) -> None:
        self.clock = clock
        self.traces = traces
        self.streams = Streams()
        self.rates: Rates = rates_of(settings.store.url)
        self.store = _store(settings, clock)
        self.tickets = Tickets(lambda: secrets.token_urlsafe(24))
        self.metrics = Metrics((), ())
        self.metrics.open_streams = self.streams.__len__
        self.recent = Recent(FIRST_TOKEN, GAP)
        self.began = clock.now()
        self.draining = False
        self.admin: frozenset[tuple[str, int]] = frozenset()
        self._listening: tuple[str, ...] = ()
        self._lanes: dict[str, Lane] = {}
        self._circuits: dict[str, Circuit] = {}
        self._tasks: set[asyncio.Task[object]] = set()
        self.adopt(settings)

    def adopt(self, settings: Settings) -> None:
        """Go by these settings from now on."""
        self.settings = settings
        self.keys = Keys((key.name, key.digest, _grant(key)) for key in settings.server.keys)
        self.prefixes = routes.ranked(upstream.prefix for upstream in settings.upstream)
        self.store.adopt(_caps(settings), settings.store.retain)
        self._rules = retry.Rules(*astuple(settings.retry))
        self._known_terms: dict[tuple[str, bool, bool], Terms] = {}
        self.listens_on(self._listening)
        self.metrics.know((up.name for up in settings.upstream), self._proxies())
        retired = list(self._lanes.values())
        pools: dict[tuple[str, tuple[Proxy, ...]], Pool] = {}
        self._lanes = {up.name: self._lane(up, pools) for up in settings.upstream}
        self._circuits = {up.name: Circuit() for up in settings.upstream}
        for lane in retired:
            self._after(lane.retire())

    def listens_on(self, addresses: Iterable[str]) -> None:
        """Learn the addresses of the sockets, if they are not the settings'."""
        server = self.settings.server
        self._listening = tuple(addresses)
        self.fronts = Fronts(server.trusted_proxies)
        self.doors = Doors(self._listening or [server.host], server.hosts, server.origins)

    def _proxies(self) -> list[tuple[str, str]]:
        return [
            (_pool(upstream), str(way))
            for upstream in self.settings.upstream
            for way in self.settings.ways(upstream)
        ]

    def _lane(self, upstream: Upstream, pools: dict[tuple[str, tuple[Proxy, ...]], Pool]) -> Lane:
        """Return the ways to an upstream; those that have their pool in common share its health."""
        ways = self.settings.ways(upstream)
        kind = self.settings.pool_of(upstream)
        policy = kind.policy if kind is not None else "ordered"
        name = _pool(upstream)
        pool = pools.setdefault((name, ways), Pool(name, ways, policy, random.random))
        url = URL(upstream.url)
        return Lane(
            Route(upstream.name, upstream.url, f"{url.host_subcomponent}:{url.port}"),
            pool,
            self.clock,
            self.metrics,
            connect=self.settings.clocks_of(upstream).connect,
            tls=self.settings.trust(upstream),
        )

    def lane(self, upstream: str) -> Lane:
        """Return the ways to an upstream of the settings."""
        return self._lanes[upstream]

    def circuit(self, upstream: str) -> Circuit:
        """Return what is known of an upstream of the settings."""
        return self._circuits[upstream]

    @property
    def usable(self) -> bool:
        """Whether there is an upstream that can be reached, as far as is known."""
        return any(lane.pool.usable for lane in self._lanes.values())

    async def redeem(self, ticket: str, stream: str, last_event: str | None) -> Caller:
        """Return whose ticket begins this stream, or goes on with that of the last event.

        Raises Failure unauthorized, bad_request; resume_lost if it cannot be told.
        """
        if last_event is None:
            return self.tickets.start(ticket, stream, self.clock.now())
        name = ids.parse(last_event).stream
        owner = None
        if name not in self.tickets:  # it has ended, or began at another instance
            owner = await self.store.owner(name, digest_of(ticket))
        caller = self.keys.named(owner) if owner is not None else None
        return caller or self.tickets.resume(ticket, name)

    async def admit(self, caller: Caller, model: str | None) -> None:
        """Count a request; raises Failure forbidden, rate_limited."""
        grant = caller.grant
        grant.check_model(model)
        wait = await self.rates.request(caller.name, grant.requests_per_minute)
        if wait is not None:
            text = f"your key may send {grant.requests_per_minute} requests a minute"
            raise Failure("rate_limited", text, retry_after=wait)
        wait = await self.rates.exhausted(caller.name, grant.tokens_per_day)
        if wait is not None:
            text = f"your key may use {grant.tokens_per_day} tokens a day, and they are used up"
            raise Failure("rate_limited", text, retry_after=wait)

    def chat(self, name: str, caller: Caller, incoming: Incoming, ask: Ask) -> Stream:
        """Begin the stream of a `/chat` request; raises Failure not_found."""
        default = self.settings.chat.model
        model = ask.model or default
        payload = ask.payload(default)
        if caller.grant.tokens_per_day:
            payload, _ = chat.counted(payload)
        kept = [pair for pair in incoming.headers if pair[0].lower() in _CHAT_KEEPS]
        own = [("Content-Type", "application/json"), ("Accept", "text/event-stream")]
        first = self._choose(incoming.place.prefix, model)

        def compose(upstream: Upstream) -> Order:
            url = f"{upstream.url}/chat/completions"
            headers = [*self._headers(upstream, kept, caller, first), *own]
            body = _renamed(payload, model, upstream)
            key = upstream.key.reveal()
            return Order("POST", url, headers, body, streams=True, model=model, secret=key)

        errand = _Errand("POST", "chat/completions", payload, compose, streams=True)
        keep = self.settings.chat.keep if ask.keep is None else ask.keep
        ticket = self.tickets.digest(name)
        facts = Facts("chat/completions", first.api, model, first.name, ticket=ticket)
        return self._begin(name, caller, first, errand, facts, keep=keep)

    def v1(
        self, name: str, caller: Caller, incoming: Incoming, glance: Glance, keep: float | None
    ) -> Stream:
        """Begin the stream of a `/v1` request, kept so long; raises Failure not_found."""
        model = glance.named
        method, place, query, headers, body = incoming
        first = self._choose(place.prefix, model)
        streams = method == "POST" and glance.stream is True
        counting = False
        metered = streams and caller.grant.tokens_per_day
        if metered and isinstance(dialect.for_path(place.rest, first.api), dialect.Chat):
            body, counting = _counted(body)

        def compose(upstream: Upstream) -> Order:
            url = f"{upstream.url}/{place.rest}" + (f"?{query}" if query else "")
            sent = self._headers(upstream, headers, caller, first)
            if isinstance(body, Upload) and body.size is not None:
                sent.append(("Content-Length", str(body.size)))
            asked = _renamed(body, model, upstream) or None
            return Order(method, url, sent, asked, streams, model, upstream.key.reveal())

        background = bool(glance.background)
        errand = _Errand(method, place.rest, body, compose, streams, background)
        facts = Facts(place.rest, first.api, model, first.name, counting, "v1")
        keep = (first.keep if keep is None else keep) if streams else 0
        return self._begin(name, caller, first, errand, facts, keep=keep)

    def sources(self, caller: Caller, incoming: Incoming) -> list[Source]:
        """Return the upstreams of the prefix, to ask each for its models."""
        fitting = [up for up in self.settings.upstream if up.prefix == incoming.place.prefix]

        def compose(upstream: Upstream) -> Order:
            url = f"{upstream.url}/models" + (f"?{incoming.query}" if incoming.query else "")
            headers = self._headers(upstream, incoming.headers, caller, fitting[0])
            return Order("GET", url, headers, None, streams=False, secret=upstream.key.reveal())

        errand = _Errand("GET", "models", b"", compose, streams=False)
        return [Source(self._leg(up, errand, last=True), up.models) for up in fitting]

    def chat_pace(self, pace: str | None, delay_ms: int | None) -> Pacing:
        """Return the pace of `/chat` that was asked for, else the settings'.

        Raises Failure bad_request.
        """
        own = self.settings.chat
        return chat.pacing(pace, delay_ms, Pacing(own.pace, own.delay_ms / 1000))

    def pace_of(self, stream: Stream) -> Pacing:
        """Return the pace of a `/v1` stream whose request asked for none: its upstream's."""
        delay = Pacing("off", self.settings.chat.delay_ms / 1000)
        paces = {upstream.name: upstream.pace for upstream in self.settings.upstream}
        return chat.pacing(paces.get(stream.summary.upstream or "") or "off", None, delay)

    def _choose(self, prefix: str, model: str | None) -> Upstream:
        return routes.choose(self.settings.upstream, prefix, model)

    def _headers(
        self, upstream: Upstream, headers: Headers, caller: Caller, first: Upstream
    ) -> Headers:
        """Return what goes upstream: never the relay's key, and one credential only.

        The client's own is for the upstream that it asked, not for a fallback elsewhere.
        """
        without = set(map(str.lower, upstream.headers))
        elsewhere = upstream is not first and URL(upstream.url).origin() != URL(first.url).origin()
        if upstream.key or elsewhere:
            without |= routes.CREDENTIALS  # whoever's they are
        elif caller.key_header:
            without |= {caller.key_header.lower(), *self.keys.carriers(headers)}
        sent = routes.upstream_headers(headers, without)
        sent.append(("Accept-Encoding", "identity"))
        if upstream.key:
            sent += routes.credentials(upstream.api, upstream.key.reveal())
        return [*sent, *upstream.headers.items()]

    def _begin(  # noqa: PLR0913  what a stream is made of
        self,
        name: str,
        caller: Caller,
        first: Upstream,
        errand: "_Errand",
        facts: Facts,
        *,
        keep: float,
    ) -> Stream:
        self._check_room(caller)
        rules = self._rules
        repeatable = errand.repeatable
        targets = self.settings.targets(first) if repeatable else [first]
        circuits = [self._circuits[upstream.name] for upstream in targets]
        stream = Stream(
            name,
            [self._leg(upstream, errand, last=upstream is targets[-1]) for upstream in targets],
            Course(rules, circuits, self.clock.now(), random.random),
            clock=self.clock,
            replay=self.store.open(name, caller.name, facts) if keep > 0 else Replay(),
            keep=keep,
            caller=caller.identity,
            repeatable=repeatable,
            too_large=errand.too_large(rules),
            continues=first.continue_on_cut and errand.streams,
            committed=facts.door == "chat",
        )
        stream.hides_usage = facts.hides_usage
        stream.task.add_done_callback(lambda _: self._settle(stream, caller))
        return self.streams.add(stream)

    def _leg(self, upstream: Upstream, errand: "_Errand", *, last: bool) -> Leg:
        return Leg(
            upstream.name,
            self._lanes[upstream.name],
            self._circuits[upstream.name],
            self._terms(upstream, streams=errand.streams, last=last),
            partial(errand.compose, upstream),
            partial(dialect.for_path, errand.rest, upstream.api),
        )

    def _settle(self, stream: Stream, caller: Caller) -> None:
        """Count what a stream has cost, when it has ended."""
        self.tickets.forget(stream.name)  # from now on its log tells, as long as it is kept
        ending = stream.replay.ending or Ending(1, "left", stream.summary)  # before its first step
        tokens = self.metrics.stream_ended(stream.summary, ending, stream.gaps)
        status = stream.answer.status if stream.answer is not None else None
        now = self.clock.now()
        self.recent.ended(stream.summary, ending, stream.gaps.counts, status, now)
        if caller.grant.tokens_per_day:
            cost = tokens["prompt"] + tokens["completion"]
            rest = self.rates.spend(caller.name, caller.grant.tokens_per_day, cost)
            if rest is not None:
                self._after(rest)

    def _after(self, work: Coroutine[Any, Any, object]) -> None:
        """Let something go on that nobody waits for, until the gateway closes."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self, name: str, caller: Caller) -> None:
        """End a stream of this caller, or forget it; raises Failure not_found, stream_gone."""
        stream = self.streams.get(name)
        if stream is None or stream.kept:
            await self.store.stop(name, caller.name)
            return
        if stream.caller != caller.identity:
            raise Failure("not_found", "there is no such stream of yours")
        stream.stop()

    def _check_room(self, caller: Caller) -> None:
        """Raise Failure too_many_streams, draining if no stream may begin."""
        limits = self.settings.limits
        if self.draining:
            raise Failure("draining", "the relay is shutting down: ask again", retry_after=1)
        if limits.streams and len(self.streams) >= limits.streams:
            text = "as many streams are open as this relay allows (limits.streams)"
            raise Failure("too_many_streams", text, retry_after=1)
        bound = caller.grant.streams or limits.streams_per_caller
        if bound and self.streams.of(caller.identity) >= bound:
            text = f"you have {bound} streams open, as many as you may"
            raise Failure("too_many_streams", text, retry_after=1)

    def _terms(self, upstream: Upstream, *, streams: bool, last: bool) -> Terms:
        which = upstream.name, streams, last
        if which not in self._known_terms:
            self._known_terms[which] = self._terms_of(upstream, streams=streams, last=last)
        return self._known_terms[which]

    def _terms_of(self, upstream: Upstream, *, streams: bool, last: bool) -> Terms:
        clocks = self.settings.clocks_of(upstream)
        return Terms(
            headers=clocks.headers_for(stream=streams),
            first_token=clocks.first_token_for(fallback=not last),
            idle=clocks.idle,
            total=clocks.total,
            open_after=self.settings.heartbeat.open_after,
            frame=self.settings.limits.frame,
        )

    async def close(self) -> None:
        """Close every connection to an upstream; no stream may be under way."""
        await asyncio.gather(*self._tasks)
        await self.store.close()
        await self.rates.close()
        for lane in self._lanes.values():
            await lane.close()


def _counted(body: bytes | Upload) -> tuple[bytes | Upload, bool]:
    """Ask for the usage where it has to be asked for; the other APIs tell it unasked."""
    return chat.counted(body) if isinstance(body, bytes) else (body, False)


def _renamed(body: bytes | Upload, model: str | None, upstream: Upstream) -> bytes | Upload:
    """Ask for the model by the name that it has there."""
    name = upstream.model_map.get(model) if model is not None else None
    return body if name is None or isinstance(body, Upload) else chat.renamed(body, name)


def _caps(settings: Settings) -> Caps:
    store = settings.store
    return Caps(store.stream_bytes, store.streams_per_caller, store.total_bytes)


def _store(settings: Settings, clock: Clock) -> Store:
    url, retain = settings.store.url, settings.store.retain
    if url == "memory":
        return MemoryStore(clock, _caps(settings), retain)
    return RedisStore(url, clock, _caps(settings), retain)


def _pool(upstream: Upstream) -> str:
    """Return the pool's name for labels, where an empty one would be none."""
    return upstream.pool or "default"


def _grant(key: Key) -> Grant:
    return Grant(key.models, key.requests_per_minute, key.streams, key.tokens_per_day)
