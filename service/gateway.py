"""What is in force, and what a request becomes: upstream, order, stream.

The settings may be changed under way (`adopt`): new requests go by the new ones, and streams that
are under way keep the connections that they have.
"""

import asyncio
import secrets
from collections.abc import Iterable
from typing import Final, NamedTuple

from yarl import URL

from service.adapters.clock import Clock
from service.adapters.egress import Lane
from service.adapters.rates import Rates
from service.adapters.upstream import Order
from service.core import dialect, routes
from service.core.access import Caller, Doors, Grant, Keys
from service.core.chat import Ask, Glance
from service.core.routes import Headers, Place
from service.core.tickets import Tickets
from service.errors import Failure
from service.relay import Stream, Streams, Terms
from service.settings import Clocks, Key, Settings, Upstream

_CREDENTIALS: Final = ("authorization", "x-api-key")
_CHAT_KEEPS: Final = frozenset(
    {*_CREDENTIALS, "user-agent", "traceparent", "tracestate", "openai-organization",
     "openai-project"}
)  # fmt: skip


class Incoming(NamedTuple):
    """A client's request, as far as an upstream is concerned."""

    method: str
    place: Place
    query: str
    headers: Headers
    body: bytes


class Gateway:
    """The settings in force, the ways to the upstreams, and the streams that are under way."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.clock = clock
        self.streams = Streams()
        self.rates = Rates(settings.store.url)
        self.tickets = Tickets(lambda: secrets.token_urlsafe(24))
        self.draining = False
        self._listening: tuple[str, ...] = ()
        self._lanes: dict[str, Lane] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self.adopt(settings)

    def adopt(self, settings: Settings) -> None:
        """Go by these settings from now on."""
        self.settings = settings
        self.keys = Keys((key.name, key.digest, _grant(key)) for key in settings.server.keys)
        self.prefixes = frozenset(upstream.prefix for upstream in settings.upstream)
        self.listens_on(self._listening)
        retired = list(self._lanes.values())
        self._lanes = {upstream.name: self._lane(upstream) for upstream in settings.upstream}
        for lane in retired:
            task = asyncio.create_task(lane.retire())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    def listens_on(self, addresses: Iterable[str]) -> None:
        """Learn the addresses of the sockets, if they are not the settings'."""
        server = self.settings.server
        self._listening = tuple(addresses)
        self.doors = Doors(self._listening or [server.host], server.hosts, server.origins)

    def _lane(self, upstream: Upstream) -> Lane:
        url = URL(upstream.url)
        return Lane(
            f"{url.host_subcomponent}:{url.port}",
            self.settings.ways(upstream),
            self.clock,
            self._clocks(upstream).connect,
            self.settings.trust(upstream),
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
        upstream = self._choose(incoming.place.prefix, ask.model or default)
        kept = [pair for pair in incoming.headers if pair[0].lower() in _CHAT_KEEPS]
        headers = [
            *self._headers(upstream, kept, caller),
            ("Content-Type", "application/json"),
            ("Accept", "text/event-stream"),
        ]
        url = f"{upstream.url}/chat/completions"
        model = ask.model or default
        order = Order("POST", url, headers, ask.payload(default), streams=True, model=model)
        return self._begin(name, caller, upstream, order, dialect.Chat(), committed=True)

    def v1(self, name: str, caller: Caller, incoming: Incoming, glance: Glance) -> Stream:
        """Begin the stream of a `/v1` request; raises Failure not_found."""
        model = glance.named
        upstream = self._choose(incoming.place.prefix, model)
        rest = incoming.place.rest
        url = f"{upstream.url}/{rest}" + (f"?{incoming.query}" if incoming.query else "")
        order = Order(
            incoming.method,
            url,
            self._headers(upstream, incoming.headers, caller),
            incoming.body or None,
            incoming.method == "POST" and glance.stream is True,
            model,
        )
        reader = dialect.for_path(rest)
        return self._begin(name, caller, upstream, order, reader, committed=False)

    def _choose(self, prefix: str, model: str | None) -> Upstream:
        return routes.choose(self.settings.upstream, prefix, model)

    def _headers(self, upstream: Upstream, headers: Headers, caller: Caller) -> Headers:
        """Return what goes upstream: never the relay's key, and one credential only."""
        without = {name.lower() for name in upstream.headers}
        if caller.key_header:
            without |= {caller.key_header.lower(), *self.keys.carriers(headers)}
        if upstream.key:
            without.update(_CREDENTIALS)
        sent = routes.upstream_headers(headers, without)
        sent.append(("Accept-Encoding", "identity"))
        if upstream.key:
            sent.append(("Authorization", f"Bearer {upstream.key.reveal()}"))
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
            caller=caller.name,
            upstream=upstream.name,
            committed=committed,
        )
        return self.streams.add(stream)

    def _check_room(self, caller: Caller) -> None:
        """Raise Failure too_many_streams, draining if no stream may begin."""
        limits = self.settings.limits
        if self.draining:
            raise Failure("draining", "the relay is shutting down: ask again", retry_after=1)
        if limits.streams and len(self.streams) >= limits.streams:
            text = "as many streams are open as this relay allows (limits.streams)"
            raise Failure("too_many_streams", text, retry_after=1)
        bound = caller.grant.streams or limits.streams_per_caller
        if bound and self.streams.of(caller.name) >= bound:
            text = f"you have {bound} streams open, as many as you may"
            raise Failure("too_many_streams", text, retry_after=1)

    def _clocks(self, upstream: Upstream) -> Clocks:
        return upstream.clocks or self.settings.clocks

    def _terms(self, upstream: Upstream, order: Order) -> Terms:
        clocks = self._clocks(upstream)
        return Terms(
            headers=clocks.headers_for(stream=order.streams),
            first_token=clocks.first_token_for(),
            idle=clocks.idle,
            open_after=self.settings.heartbeat.open_after,
            frame=self.settings.limits.frame,
        )

    async def close(self) -> None:
        """Close every connection to an upstream; no stream may be under way."""
        await asyncio.gather(*self._retiring)
        await self.rates.close()
        for lane in self._lanes.values():
            await lane.close()


def _grant(key: Key) -> Grant:
    return Grant(key.models, key.requests_per_minute, key.streams, key.tokens_per_day)
