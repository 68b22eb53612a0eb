"""What is in force, and what a request becomes: upstream, order, stream.

The settings may be changed under way (`adopt`): new requests go by the new ones, and streams that
are under way keep the connections that they have.
"""

import asyncio
import secrets
from collections.abc import Coroutine, Iterable
from typing import Final, NamedTuple

from yarl import URL

from service.adapters.clock import Clock
from service.adapters.egress import Lane, Route
from service.adapters.metrics import Metrics, tokens_of
from service.adapters.rates import Rates
from service.adapters.tracing import NoTraces
from service.adapters.upload import Upload
from service.adapters.upstream import Order
from service.core import chat, dialect, routes
from service.core.access import Caller, Doors, Grant, Keys
from service.core.chat import Ask, Glance
from service.core.events import Ending
from service.core.fronts import Fronts
from service.core.routes import Headers, Place
from service.core.tickets import Tickets
from service.errors import Failure
from service.relay import Stream, Streams, Terms
from service.settings import Key, Settings, Upstream

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


class Gateway:
    """The settings in force, the ways to the upstreams, and the streams that are under way."""

    def __init__(self, settings: Settings, clock: Clock, traces: NoTraces) -> None:
        self.clock = clock
        self.traces = traces
        self.streams = Streams()
        self.rates = Rates(settings.store.url)
        self.tickets = Tickets(lambda: secrets.token_urlsafe(24))
        self.metrics = Metrics((), ())
        self.metrics.open_streams = self.streams.__len__
        self.draining = False
        self._listening: tuple[str, ...] = ()
        self._lanes: dict[str, Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.adopt(settings)

    def adopt(self, settings: Settings) -> None:
        """Go by these settings from now on."""
        self.settings = settings
        self.keys = Keys((key.name, key.digest, _grant(key)) for key in settings.server.keys)
        self.prefixes = frozenset(upstream.prefix for upstream in settings.upstream)
        self.listens_on(self._listening)
        self.metrics.know((up.name for up in settings.upstream), self._proxies())
        retired = list(self._lanes.values())
        self._lanes = {upstream.name: self._lane(upstream) for upstream in settings.upstream}
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

    def _lane(self, upstream: Upstream) -> Lane:
        url = URL(upstream.url)
        route = Route(
            upstream.name,
            f"{url.host_subcomponent}:{url.port}",
            _pool(upstream),
            self.settings.ways(upstream),
        )
        return Lane(
            route,
            self.clock,
            self.metrics,
            connect=self.settings.clocks_of(upstream).connect,
            tls=self.settings.trust(upstream),
        )

    def redeem(self, ticket: str, stream: str, last_event: str | None) -> Caller:
        """Return whose ticket begins this stream, or goes on with that of the last event."""
        if last_event is not None:
            return self.tickets.resume(ticket, last_event.partition(".")[0])
        return self.tickets.start(ticket, stream, self.clock.now())

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
        upstream = self._choose(incoming.place.prefix, model)
        kept = [pair for pair in incoming.headers if pair[0].lower() in _CHAT_KEEPS]
        headers = [
            *self._headers(upstream, kept, caller),
            ("Content-Type", "application/json"),
            ("Accept", "text/event-stream"),
        ]
        url = f"{upstream.url}/chat/completions"
        payload = ask.payload(default)
        if caller.grant.tokens_per_day:
            payload, _ = chat.counted(payload)
        key = upstream.key.reveal()
        order = Order("POST", url, headers, payload, streams=True, model=model, secret=key)
        return self._begin(name, caller, upstream, order, dialect.Chat(), committed=True)

    def v1(self, name: str, caller: Caller, incoming: Incoming, glance: Glance) -> Stream:
        """Begin the stream of a `/v1` request; raises Failure not_found."""
        model = glance.named
        upstream = self._choose(incoming.place.prefix, model)
        rest = incoming.place.rest
        url = f"{upstream.url}/{rest}" + (f"?{incoming.query}" if incoming.query else "")
        streams = incoming.method == "POST" and glance.stream is True
        reader = dialect.for_path(rest, upstream.api)
        body, counting = incoming.body, False
        if streams and caller.grant.tokens_per_day and isinstance(reader, dialect.Chat):
            body, counting = _counted(body)
        headers = self._headers(upstream, incoming.headers, caller)
        if isinstance(body, Upload) and body.size is not None:
            headers.append(("Content-Length", str(body.size)))
        key = upstream.key.reveal()
        order = Order(incoming.method, url, headers, body or None, streams, model, key)
        stream = self._begin(name, caller, upstream, order, reader, committed=False)
        stream.hides_usage = counting
        return stream

    def _choose(self, prefix: str, model: str | None) -> Upstream:
        return routes.choose(self.settings.upstream, prefix, model)

    def _headers(self, upstream: Upstream, headers: Headers, caller: Caller) -> Headers:
        """Return what goes upstream: never the relay's key, and one credential only."""
        without = {name.lower() for name in upstream.headers}
        if caller.key_header:
            without |= {caller.key_header.lower(), *self.keys.carriers(headers)}
        if upstream.key:
            without.update(routes.CREDENTIALS)
        sent = routes.upstream_headers(headers, without)
        sent.append(("Accept-Encoding", "identity"))
        if upstream.key:
            sent += routes.credentials(upstream.api, upstream.key.reveal())
        return [*sent, *upstream.headers.items()]

    def _begin(  # noqa: PLR0913  what a stream is made of
        self,
        name: str,
        caller: Caller,
        upstream: Upstream,
        order: Order,
        reader: dialect.Dialect,
        *,
        committed: bool,
    ) -> Stream:
        self._check_room(caller)
        stream = Stream(
            name,
            order,
            self._lanes[upstream.name],
            reader,
            terms=self._terms(upstream, order),
            clock=self.clock,
            caller=caller.identity,
            upstream=upstream.name,
            committed=committed,
        )
        stream.task.add_done_callback(lambda _: self._settle(stream, caller))
        return self.streams.add(stream)

    def _settle(self, stream: Stream, caller: Caller) -> None:
        """Count what a stream has cost, when it has ended."""
        self.tickets.forget(stream.name)
        ending = stream.replay.ending or Ending(1, "left", stream.summary)  # before its first step
        self.metrics.stream_ended(stream.summary, ending, stream.gaps)
        if caller.grant.tokens_per_day:
            tokens = tokens_of(stream.summary.usage)
            cost = tokens["prompt"] + tokens["completion"]
            self._after(self.rates.spend(caller.name, caller.grant.tokens_per_day, cost))

    def _after(self, work: Coroutine[None, None, None]) -> None:
        """Let something go on that nobody waits for, until the gateway closes."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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

    def _terms(self, upstream: Upstream, order: Order) -> Terms:
        clocks = self.settings.clocks_of(upstream)
        return Terms(
            headers=clocks.headers_for(stream=order.streams),
            first_token=clocks.first_token_for(),
            idle=clocks.idle,
            open_after=self.settings.heartbeat.open_after,
            frame=self.settings.limits.frame,
        )

    async def close(self) -> None:
        """Close every connection to an upstream; no stream may be under way."""
        await asyncio.gather(*self._tasks)
        await self.rates.close()
        for lane in self._lanes.values():
            await lane.close()


def _counted(body: bytes | Upload) -> tuple[bytes | Upload, bool]:
    """Ask for the usage where it has to be asked for; the other APIs tell it unasked."""
    return chat.counted(body) if isinstance(body, bytes) else (body, False)


def _pool(upstream: Upstream) -> str:
    """Return the pool's name for labels, where an empty one would be none."""
    return upstream.pool or "default"


def _grant(key: Key) -> Grant:
    return Grant(key.models, key.requests_per_minute, key.streams, key.tokens_per_day)
