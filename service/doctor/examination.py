"""One way, tried step by step: an upstream through a proxy.

    settings ─▶ dns ─▶ tcp, handshakes, tls ─▶ certificate ─▶ models ─▶ stream ─▶ idle
                         └── failed: what listens there, what it speaks ──▶ the cure

It asks the world and `core.doctor.advice` in turn; the first step that fails is the last.
"""

from ipaddress import ip_address
from typing import Final, NamedTuple, Protocol

import msgspec
from yarl import URL

from service.adapters.clock import Clock
from service.adapters.dial.hops import Broken
from service.adapters.dial.look import Look
from service.adapters.dial.probe import probe
from service.adapters.doctor.errand import errand
from service.adapters.doctor.holding import hold
from service.adapters.doctor.names import addresses
from service.adapters.doctor.ports import proxies_among, spoken, tunnels
from service.core.doctor import advice
from service.core.doctor.findings import Step, Way, expected, failing
from service.core.proxy import DIRECT, Proxy
from service.doctor.inquiry import ANSWER, Inquiry
from service.errors import Failure
from service.settings import Settings, Upstream

_DIAL: Final = 10.0
"""Seconds for a dial where the clock `connect` is off."""


class Wishes(NamedTuple):
    """What of the doctor's is asked for: a stream, by which model, seconds of silence; 0 = none."""

    stream: bool = False
    model: str = ""
    idle: float = 0.0


class Watching(Protocol):
    """Told of each step that begins, and of each that is done."""

    def step_begins(self, way: Way, step: str) -> None: ...  # noqa: D102

    def step_ends(self, way: Way, step: Step) -> None: ...  # noqa: D102


class Examination:
    """One way; `run` returns what was found. Nothing that it says has a secret in it."""

    def __init__(  # noqa: PLR0913, PLR0917  what there is to be tried, and who is told
        self,
        settings: Settings,
        upstream: Upstream,
        proxy: Proxy,
        clock: Clock,
        wishes: Wishes,
        watching: Watching,
    ) -> None:
        self.way = Way(upstream.name, upstream.url, str(proxy))
        self._upstream = upstream
        self._proxy = proxy
        self._clock = clock
        self._wishes = wishes
        self._watching = watching
        self._began = clock.now()
        self._default = settings.chat.model
        self._connect = settings.clocks_of(upstream).connect or _DIAL
        self._trust = settings.trust(upstream)
        self._target = URL(upstream.url, encoded=True)
        self._secure = self._target.scheme == "https"
        self._suspect = False
        self._overlooked = settings.overlooked(upstream)

    async def run(self) -> Way:
        """Try step after step, up to the first that fails."""
        key = "a key is set" if self._upstream.key else "no key: each client's own goes upstream"
        self._add(Step("settings", "ok", said=key))
        if await self._names() and await self._dial():
            await self._certificate()
            await self._requests()
        self.way.works = all(step.result != "failed" for step in self.way.steps)
        return self.way

    def _begin(self, step: str) -> None:
        self._watching.step_begins(self.way, step)
        self._began = self._clock.now()

    def _took(self) -> float:
        return round(self._clock.now() - self._began, 3)

    def _add(self, step: Step) -> bool:
        """Write a step down; tell whether one may go on."""
        self.way.steps.append(step)
        self._watching.step_ends(self.way, step)
        return step.result != "failed"

    async def _names(self) -> bool:
        """Resolve what is resolved here, and nothing else: no query leaves this host in vain."""
        host = self._target.host or ""
        hops = self._proxy.hops
        if hops and not _is_address(hops[0].host) and not await self._resolve(hops[0].host):
            return False
        if _is_address(host):
            return self._add(Step("dns", "ok", said=f"{host} is an address"))
        if hops and self._proxy.remote_dns:
            return self._add(Step("dns", "ok", said=f"{self._proxy.title} resolves {host}"))
        return await self._resolve(host, of_upstream=True)

    async def _resolve(self, host: str, *, of_upstream: bool = False) -> bool:
        self._begin("dns")
        try:
            found = await addresses(host, self._clock, self._connect)
        except (OSError, UnicodeError):
            cure = self._let_it_resolve() if of_upstream else "correct the proxy's host"
            said = f"{host} cannot be resolved here"
            return self._add(Step("dns", "failed", self._took(), said, cure))
        said = f"this machine resolves {host} to {', '.join(found[:3])}"
        if of_upstream and (odd := advice.doubtful(host, found)):
            self._suspect = True
            cure = self._let_it_resolve()
            return self._add(Step("dns", "warning", self._took(), f"{said}: {odd}", cure))
        return self._add(Step("dns", "ok", self._took(), said))

    def _let_it_resolve(self) -> str:
        if self._overlooked:
            return advice.go_by(self._overlooked)
        return advice.let_it_resolve(self._proxy)

    async def _dial(self) -> bool:
        """Dial as a request would."""
        steps, done = expected(self._proxy, tls=self._secure), list[str]()

        def on_step(name: str, seconds: float) -> None:
            done.append(name)
            self._add(Step(name, "ok", round(seconds, 3), self._meaning(name)))
            if len(done) < len(steps):
                self._begin(steps[len(done)])

        self._begin(steps[0])
        url, clock = self._upstream.url, self._clock
        try:
            await probe(self._proxy, url, clock, self._connect, self._trust, on_step=on_step)
        except Failure as failure:
            took, name = self._took(), failing(steps, len(done))
            self._watching.step_begins(self.way, "the cause")
            cure = await self._cure(failure, name)
            return self._add(Step(name, "failed", took, failure.message, cure))
        return True

    def _meaning(self, step: str) -> str:
        origin = f"{self._target.host_subcomponent}:{self._target.port}"
        if step == "tcp":
            first = self._proxy.hops[0].title if self._proxy.hops else origin
            unknown = self._forwarded and not self._is_askable
            return f"connected to {first}{_UNCHECKED if unknown else ''}"
        if step == "tls":
            return f"with {origin}{'' if self._proxy.hops else ', TCP included'}"
        return "accepted the way onward"

    async def _cure(self, failure: Failure, step: str) -> str:
        """Look closer at the proxy that this machine dials, if that is where it failed."""
        first = self._proxy.hops[0] if self._proxy.hops else DIRECT
        refused = step == "tcp" and failure.code == "proxy_unreachable"
        if refused and _is_loopback(first.host):
            usual = [port for port in advice.USUAL_PORTS if port != first.port]
            return advice.nobody_there(first, await proxies_among(first.host, usual, self._clock))
        if first != DIRECT and not refused and self._doubts(first, failure, step):
            speaks = await spoken(first.host, first.port, self._clock)
            if cure := advice.wrong_kind(first, speaks):
                return cure
        return self._way_out(failure, step, first)

    def _way_out(self, failure: Failure, step: str, first: Proxy) -> str:
        local = _is_loopback(self._target.host or "")
        barred = self._suspect or failure.code in _BARRED
        if self._overlooked and barred and not local:
            return advice.go_by(self._overlooked)
        remote = first != DIRECT and not _is_loopback(first.host)
        alone = step == "tcp" or len(self._proxy.hops) == 1
        if remote and alone and (cure := advice.elsewhere(first, failure, step)):
            return cure
        return advice.of_dial(failure, self._proxy, local=local, suspect=self._suspect)

    @staticmethod
    def _doubts(first: Proxy, failure: Failure, step: str) -> bool:
        """Tell whether it may be a port of another kind; the TLS of an https proxy is in `tcp`."""
        if failure.code in _UNDERSTOOD:
            return False
        own = {f"proxy {first.address}", *(["tcp"] if first.scheme == "https" else [])}
        return step in own or failure.code.startswith("upstream_")

    async def _certificate(self) -> None:
        """Show who issued the upstream's certificate: an intercepting firewall shows itself."""
        if not self._secure:
            return
        self._begin("certificate")
        host, port = self._target.host or "", self._target.port or 0
        name = (self._trust.server_name if self._trust else "") or host
        look = Look(self._proxy, host, port, name, self._trust and self._trust.proxies)
        seen = await look.at(self._clock, self._connect)
        if seen is None:
            self._add(Step("certificate", "warning", self._took(), "could not be looked at again"))
        else:
            said = f"for {', '.join(seen.names[:2]) or 'nobody'}, issued by '{seen.issuer}'"
            self._add(Step("certificate", "ok", self._took(), said))

    async def _requests(self) -> None:
        """Ask the upstream, for which it may want money; then keep silence."""
        origin = f"{self._target.host_subcomponent}:{self._target.port}"
        clocks = {"connect": self._connect, "seconds": ANSWER}
        async with errand(self._proxy, origin, self._clock, tls=self._trust, **clocks) as asking:
            inquiry = Inquiry(self._upstream, self._proxy, asking, self._default)
            if self._forwarded and self._is_askable and not await self._forwards(inquiry):
                return
            self._begin("models")
            if not self._add(self._timed(await inquiry.models(self._cure))):
                return
            if self._wishes.stream:
                self._begin("stream")
                self._add(self._timed(await inquiry.stream(self._wishes.model)))
                self.way.stream = inquiry.flow
        if self._wishes.idle:
            await self._idle()

    @property
    def _forwarded(self) -> bool:
        """Whether a proxy is asked for no tunnel, and so for nothing that only proxies grant."""
        return self._proxy.scheme in {"http", "https"} and not self._secure

    @property
    def _is_askable(self) -> bool:
        return self._proxy.scheme == "http" and len(self._proxy.hops) == 1

    async def _forwards(self, inquiry: Inquiry) -> bool:
        """Tell a web server: it understands no CONNECT, and answers for whatever host."""
        place = self._proxy.host, self._proxy.port
        self._begin(f"proxy {self._proxy.address}")
        if await tunnels(*place, self._clock):
            return True
        status = await inquiry.of_nobody()
        if status is None or status in _REFUSED or status >= _FAILED:
            return True
        said = f"answered {status} for a host that cannot exist: a web server does, no proxy"
        cure = advice.wrong_kind(self._proxy, await spoken(*place, self._clock))
        return self._add(Step(f"proxy {self._proxy.address}", "failed", self._took(), said, cure))

    def _timed(self, step: Step) -> Step:
        return msgspec.structs.replace(step, seconds=self._took())

    async def _idle(self) -> None:
        """Keep a line silent: some hops cut it."""
        if self._forwarded:
            return  # there is no tunnel to be held
        seconds = self._wishes.idle
        self._begin(f"idle, {seconds:g} s of silence")
        try:
            held, after = await hold(
                self._proxy, self._upstream.url, self._clock, seconds, self._trust
            )
        except (OSError, EOFError, Broken):
            self._add(Step("idle", "warning", self._took(), "no line could be laid for it"))
            return
        if held == "held":
            self._add(Step("idle", "ok", self._took(), f"a silent line stood for {seconds:g} s"))
            return
        said = f"a silent line was {held} {'after' if held == 'closed' else 'within'} {after:.0f} s"
        self._add(Step("idle", "warning", self._took(), said, _CUTS))


_UNCHECKED: Final = "; whether it is a proxy was not checked"
_REFUSED: Final = frozenset({403, 407})
_FAILED: Final = 500
"""What proxies say of a host that cannot exist: not allowed, who are you, or not found."""
_CUTS: Final = (
    "a hop cuts idle lines, or the upstream does (another way tells which): ask for streams, and"
    " keep silence on the way shorter than that"
)
_BARRED: Final = frozenset({"upstream_unreachable", "upstream_cut"})
"""Codes of an upstream that cannot be reached, or only so far."""
_UNDERSTOOD: Final = frozenset({"proxy_refused", "upstream_tls"})
"""Codes that only a proxy of the right kind can lead to."""


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return ip_address(host).is_loopback if _is_address(host) else host == "localhost"
