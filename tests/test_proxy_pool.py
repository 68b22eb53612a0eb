"""Pools at work: which proxy carries a request, which rests, and how it comes back.

Policies   ordered · fastest · spread, over real connections
Strikes    what counts as the proxy's fault, and what never does
Rests      three strikes, a rest, a probe that brings it back
Closed     nothing goes past the pool; 503 when nothing is left
Shown      metrics, log lines, /readyz
"""

import asyncio
import json
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from fakes import HttpProxy, SocksProxy, Upstream, reply
from line import exchange
from proxying import BODY, PATH, PLAIN, ask, at
from relaying import relaying, settled, until
from service import gateway
from service.adapters import egress
from service.adapters.dial.trust import Trust
from service.core.pool import STRIKES
from service.errors import Failure

PROBE_EVERY = 5
QUIET = "[heartbeat]\nafter = 0\nopen_after = 0\n"
BUSY = reply(503, b"{}", content_type="application/json")


@pytest.fixture(autouse=True)
def _no_chance(monkeypatch):
    """Rests are 1, 2, 4 s to the moment."""
    monkeypatch.setattr(gateway, "random", SimpleNamespace(random=lambda: 0.5))


class Probes:
    """What probes find, by proxy: None, or the code of a failure. `asked`: proxies and URLs."""

    def __init__(self):
        self.found = {}
        self.asked = []
        self.took = {}

    async def __call__(self, proxy, url, _clock, _seconds, _tls=None):
        """Probe."""
        self.asked.append((str(proxy), url))
        if str(proxy) in self.took:
            await self.took[str(proxy)]()
        code = self.found.get(str(proxy))
        if code is not None:
            raise Failure(code, "it does not work", stage="dial")


@pytest.fixture
def probes(monkeypatch):
    """Return what answers all probes."""
    found = Probes()
    monkeypatch.setattr(egress, "probe", found)
    return found


@pytest.fixture
def log(monkeypatch):
    """Return what the egress writes to the log."""
    written = []

    def write(level):
        return lambda event, **fields: written.append((level, event, fields))

    levels = {name: write(name) for name in ("debug", "info", "warning", "error", "exception")}
    monkeypatch.setattr(egress, "log", SimpleNamespace(**levels))
    return written


def pool(*ways, policy="ordered", name="hk"):
    """Return the table of a pool."""
    return f'[[pool]]\nname = "{name}"\npolicy = "{policy}"\nproxies = {json.dumps(ways)}\n'


def upstream(url, name="api", more=""):
    """Return the table of an upstream."""
    return f'[[upstream]]\nname = "{name}"\nurl = "{url}/v1"\npool = "hk"\n{more}'


@asynccontextmanager
async def through(  # noqa: PLR0913  what a test may change
    url, *ways, ca, clock=None, policy="ordered", more="", retry=""
):
    """Run a relay to that upstream through these ways."""
    toml = QUIET + retry + pool(*ways, policy=policy) + upstream(url, more=more)
    async with relaying(toml=toml, clock=clock, tls=ca.client) as relay:
        yield relay


def pool_of(relay, name="api"):
    """Return the pool at work."""
    return relay.gateway._lanes[name].pool


async def good(relay, times=1):
    """Ask for plain answers, which must come."""
    for _ in range(times):
        assert await ask(relay) == (200, BODY)


async def anew(relay, server, times=1):
    """Ask for plain answers over new connections, for those of this server broke."""
    server.reset_connections()
    await settled()
    await good(relay, times)


async def failing(relay, times=1):
    """Ask for answers that cannot come; return the last error."""
    for _ in range(times):
        status, body = await ask(relay)
        assert status in {502, 503, 504}
    return status, json.loads(body)["error"]


async def sample(relay, name, **labels):
    """Return a value of /metrics, None if it is not there."""
    answer = await exchange(relay.port, "GET", "/metrics")
    shown = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    lines = answer.body.decode().splitlines()
    found = [line for line in lines if line.startswith(f"{name}{{{shown}}}")]
    return float(found[0].rpartition(" ")[2]) if found else None


async def up(relay, proxy):
    """Return teleprinter_proxy_up of a proxy."""
    return await sample(relay, "teleprinter_proxy_up", pool="hk", proxy=str(proxy))


async def ready(relay):
    """Return the status of /readyz."""
    return (await exchange(relay.port, "GET", "/readyz")).status


async def later(clock, seconds):
    """Move the clock, and let what falls due happen."""
    clock.advance(seconds)
    await settled()


# --- policies


async def test_ordered(ca, clock, probes):
    """All goes through the first while it works."""
    async with Upstream(PLAIN, ssl=ca.server) as api, HttpProxy() as one, SocksProxy() as two:
        ways = one.url, two.url_as("socks5h")
        async with through(api.url, *ways, ca=ca, clock=clock) as relay:
            await good(relay, 5)
            one.refuse = 403
            await anew(relay, one, 2)
            assert len(two.targets) == 1


async def test_fastest(ca, clock, probes):
    """With the first request all are measured; the next goes where it is quickest."""
    async with (
        Upstream(PLAIN, ssl=ca.server) as api,
        HttpProxy() as slow,
        HttpProxy() as quick,
        through(api.url, slow.url, quick.url, ca=ca, clock=clock, policy="fastest") as relay,
    ):

        async def half_a_second():
            clock.advance(0.5)

        probes.took[slow.url] = half_a_second
        await good(relay)
        await until(lambda: len(probes.asked) == 2)
        assert {proxy for proxy, _ in probes.asked} == {slow.url, quick.url}
        assert {url for _, url in probes.asked} == {f"{api.url}/v1"}
        slow_before, quick_before = slow.connections, quick.connections
        await anew(relay, slow, 3)
        assert (slow.connections - slow_before, quick.connections - quick_before) == (0, 1)


async def test_fastest_is_measured_anew_every_minute(ca, clock, probes):
    """Ways change; one that is down is left to its own probes."""
    async with Upstream(PLAIN, ssl=ca.server) as api, HttpProxy() as one, HttpProxy() as two:
        ways = one.url, two.url
        async with through(api.url, *ways, ca=ca, clock=clock, policy="fastest") as relay:
            await good(relay)
            await until(lambda: len(probes.asked) >= 1)
            await settled()
            before = len(probes.asked)
            await later(clock, 59.9)
            assert len(probes.asked) == before
            await later(clock, 0.1)
            await later(clock, 60)
            assert len(probes.asked) >= before + 2


async def test_spread(ca, clock, probes):
    """Requests that begin together are spread too, though none has an answer yet."""
    async with (
        Upstream(ssl=ca.server) as api,
        HttpProxy() as one,
        HttpProxy() as two,
        HttpProxy() as three,
    ):
        ways = [each.url for each in (one, two, three)]
        async with through(api.url, *ways, ca=ca, clock=clock, policy="spread") as relay:
            asking = [asyncio.create_task(ask(relay)) for _ in range(9)]
            wires = [(await api.next())[1] for _ in range(9)]
            assert [each.connections for each in (one, two, three)] == [3, 3, 3]
            assert [member.open for member in pool_of(relay).members] == [3, 3, 3]
            for wire in wires:
                await wire.reply(200, BODY, content_type="application/json")
            await asyncio.gather(*asking)
            await until(lambda: not relay.streams)
            assert [member.open for member in pool_of(relay).members] == [0, 0, 0]


@pytest.mark.parametrize("how", ["refused", "cut", "left"])
async def test_spread_counts_out_what_fails(how, ca, clock, probes):
    """Whatever becomes of a request, nothing stays counted."""
    async with Upstream(ssl=ca.server) as api, HttpProxy() as one, HttpProxy() as two:
        one.refuse = two.refuse = 403 if how == "refused" else None
        async with through(api.url, one.url, two.url, ca=ca, clock=clock, policy="spread") as relay:
            asking = asyncio.create_task(ask(relay))
            if how != "refused":
                _, wire = await api.next()
                assert sum(member.open for member in pool_of(relay).members) == 1
            if how == "cut":
                wire.reset()
            if how == "left":
                asking.cancel()
            await asyncio.wait([asking])
            await until(lambda: not relay.streams)
            assert [member.open for member in pool_of(relay).members] == [0, 0]


# --- rests


async def test_three_strikes_a_rest_and_a_probe(ca, clock, probes):
    """It is left alone from the third on, probed every 5 s, and back with the first success."""
    async with (
        Upstream(PLAIN, ssl=ca.server) as api,
        HttpProxy(refuse=403) as one,
        HttpProxy(auth=None) as two,
        through(api.url, one.url, two.url, ca=ca, clock=clock) as relay,
    ):
        probes.found[one.url] = "proxy_unreachable"
        for strikes in range(1, STRIKES + 1):
            await anew(relay, two)
            assert one.connections == strikes
        await anew(relay, two)
        assert one.connections == STRIKES
        assert probes.asked == []
        await later(clock, PROBE_EVERY)
        assert probes.asked == [(one.url, f"{api.url}/v1")]
        await anew(relay, two)
        assert one.connections == STRIKES  # the probe's failure was a strike: it rests again
        one.refuse = None
        del probes.found[one.url]
        await later(clock, PROBE_EVERY)
        assert len(probes.asked) == 2
        await later(clock, 60)
        assert len(probes.asked) == 2  # nobody probes what works
        await anew(relay, two)
        assert len(one.targets) == STRIKES + 1


async def test_a_probe_that_the_upstream_spoils_brings_it_back(ca, clock, probes):
    """It rests for what it did; what its probe fails for now is the upstream's own doing."""
    async with (
        Upstream(PLAIN, ssl=ca.server) as api,
        HttpProxy(refuse=403) as one,
        HttpProxy() as two,
        through(api.url, one.url, two.url, ca=ca, clock=clock) as relay,
    ):
        probes.found[one.url] = "upstream_unreachable"
        for _ in range(STRIKES):
            await anew(relay, two)
        first, _ = pool_of(relay).members
        assert first.down
        await later(clock, PROBE_EVERY)
        assert (len(probes.asked), first.down) == (1, False)


async def test_traffic_brings_it_back_too(ca, clock, probes):
    """When its rest is over a request may try it: one failure, and it rests longer."""
    async with (
        Upstream(PLAIN, ssl=ca.server) as api,
        HttpProxy(refuse=403) as one,
        HttpProxy() as two,
        through(api.url, one.url, two.url, ca=ca, clock=clock) as relay,
    ):
        for _ in range(STRIKES):
            await anew(relay, two)
        for rest in (1, 2):
            await later(clock, rest - 0.01)
            before = one.connections
            await anew(relay, two)
            assert one.connections == before
            await later(clock, 0.01)
            await anew(relay, two)
            assert one.connections == before + 1
        one.refuse = None
        await later(clock, 4)
        await anew(relay, two)
        assert not pool_of(relay).member(pool_of(relay).members[0].proxy).down


async def test_a_proxy_that_is_killed_under_way(ca, clock, probes, dead_port):
    """The next attempt goes through another one, though its own is still the first of the list."""
    async with Upstream(ssl=ca.server) as api, HttpProxy() as one, HttpProxy() as two:
        retry = "[retry]\nattempts = 2\n"
        async with through(api.url, one.url, two.url, ca=ca, clock=clock, retry=retry) as relay:
            asking = asyncio.create_task(ask(relay))
            await api.next()
            one.reset_connections()
            await clock.armed(clock.now() + 0.5)
            clock.advance(0.5)
            _, wire = await api.next()
            await wire.reply(200, BODY, content_type="application/json")
            assert await asking == (200, BODY)
            assert (len(one.targets), len(two.targets)) == (1, 1)


# --- strikes


@pytest.mark.parametrize("refuse", [502, 504])
async def test_a_proxy_that_cannot_reach_what_its_sibling_can(refuse, ca, clock, probes):
    """Its "cannot reach" was its own fault: it is struck, and rests."""
    async with (
        Upstream(PLAIN, ssl=ca.server) as api,
        HttpProxy(refuse=refuse) as one,
        HttpProxy() as two,
        through(api.url, one.url, two.url, ca=ca, clock=clock) as relay,
    ):
        for _ in range(STRIKES):
            await anew(relay, two)
        first, second = pool_of(relay).members
        assert (first.strikes, first.why) == (STRIKES, "upstream_unreachable")
        assert second.strikes == 0
        probes.found[one.url] = "upstream_unreachable"
        await later(clock, PROBE_EVERY)
        assert first.down  # it still cannot
        probes.found[one.url] = None
        await later(clock, PROBE_EVERY)
        assert not first.down


async def test_a_probe_does_not_hear_the_request_that_began_it(ca, clock, monkeypatch):
    """A dial in the background is nobody's attempt."""
    heard = []

    async def probe(*_args):
        heard.append(egress.dialled.get(None))

    monkeypatch.setattr(egress, "probe", probe)
    async with (
        Upstream(PLAIN, ssl=ca.server) as api,
        HttpProxy(refuse=502) as one,
        HttpProxy() as two,
        through(api.url, one.url, two.url, ca=ca, clock=clock) as relay,
    ):
        for _ in range(STRIKES):
            await anew(relay, two)
        await later(clock, PROBE_EVERY)
    assert heard == [None]


async def test_an_upstream_that_nobody_reaches_strikes_no_proxy(ca, clock, probes):
    """Where all say so, it is the upstream."""
    async with (
        Upstream(PLAIN, ssl=ca.server) as api,
        HttpProxy(refuse=502) as one,
        SocksProxy(refuse=4) as two,
        through(api.url, one.url, two.url_as("socks5h"), ca=ca, clock=clock) as relay,
    ):
        _, error = await failing(relay, 2 * STRIKES)
        assert error["code"] == "upstream_unreachable"
        assert [member.strikes for member in pool_of(relay).members] == [0, 0]
        assert await ready(relay) == 200
        assert probes.asked == []


@pytest.mark.parametrize("status", [401, 407, 429, 500, 503, 529])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_what_a_target_answers_strikes_no_proxy(scheme, status, ca, clock, probes):
    """Its rate limit least of all; 407 is a proxy's word only before the tunnel stands."""
    tls = ca.server if scheme == "https" else None
    answer = reply(status, b"{}", content_type="application/json")
    async with (
        Upstream(answer, ssl=tls) as api,
        SocksProxy() as one,
        SocksProxy() as two,
        through(api.url, one.url_as("socks5h"), two.url_as("socks5h"), ca=ca, clock=clock) as relay,
    ):
        for _ in range(2 * STRIKES):
            assert (await ask(relay))[0] == status
        assert [member.strikes for member in pool_of(relay).members] == [0, 0]
        assert two.connections == 0


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_wants_a_password_is_struck(scheme, ca, clock, probes):
    """Also where its 407 comes in the place of an answer, since there is no tunnel."""
    tls = ca.server if scheme == "https" else None
    async with (
        Upstream(PLAIN, ssl=tls) as api,
        HttpProxy(auth=("me", "secret")) as one,
        SocksProxy() as two,
        through(api.url, one.url_as("http").replace("me:secret@", ""), two.url_as("socks5h"),
                ca=ca, clock=clock) as relay,
    ):  # fmt: skip
        for _ in range(STRIKES):
            await anew(relay, two)
        first, second = pool_of(relay).members
        assert (first.down, first.why) == (True, "proxy_refused")
        assert second.strikes == 0


async def test_direct_is_struck_for_what_only_it_can_have_done(ca, clock, probes, dead_port):
    """Without a proxy in between there is nobody else to blame but the way itself."""
    async with HttpProxy(refuse=502) as one:
        url = f"https://127.0.0.1:{dead_port}"
        async with through(url, "direct", one.url, ca=ca, clock=clock) as relay:
            await failing(relay, STRIKES)
            direct, proxy = pool_of(relay).members
            assert (direct.down, proxy.strikes) == (True, 0)


# --- closed


async def test_nothing_goes_past_the_pool(ca, clock, probes, dead_port):
    """Direct is not listed: the upstream sees nobody, however long all proxies are down."""
    async with Upstream(PLAIN, ssl=ca.server) as api:
        ways = f"http://127.0.0.1:{dead_port}", f"socks5h://127.0.0.1:{dead_port}"
        probes.found = dict.fromkeys(ways, "proxy_unreachable")
        async with through(api.url, *ways, ca=ca, clock=clock) as relay:
            for _ in range(5):
                await failing(relay, STRIKES)
                await later(clock, 17)
        assert api.connections == 0


async def test_direct_where_it_is_listed(ca, clock, probes, dead_port):
    """Then it is one way of several, and is all that is left while the proxy rests."""
    async with Upstream(PLAIN, ssl=ca.server) as api:
        way = f"http://127.0.0.1:{dead_port}"
        async with through(api.url, way, "direct", ca=ca, clock=clock) as relay:
            for _ in range(STRIKES + 2):
                await anew(relay, api)
            assert [member.strikes for member in pool_of(relay).members] == [STRIKES, 0]


async def test_no_proxy(ca, clock, probes, dead_port):
    """While all rest, the one nearest its end is tried; then 503, and when to ask again."""
    async with Upstream(PLAIN, ssl=ca.server) as api, HttpProxy(refuse=403) as one:
        ways = f"http://127.0.0.1:{dead_port}", one.url
        async with through(api.url, *ways, ca=ca, clock=clock) as relay:
            status, error = await failing(relay, STRIKES)
            assert (status, error["code"]) == (502, "proxy_refused")
            await later(clock, 0.25)
            before = one.connections
            async with relay.post(PATH, {"model": "m", "messages": []}) as response:
                error = (await response.json())["error"]
                assert (response.status, response.headers["Retry-After"]) == (503, "1")
                assert "x-should-retry" not in response.headers
            assert (error["code"], error["stage"], error["retryable"]) == ("no_proxy", "dial", True)
            assert "every proxy of the pool hk rests" in error["message"]
            assert "127.0.0.1" in error["message"]
            assert one.connections <= before + 1
            one.refuse = None
            await later(clock, 1)
            await good(relay)


async def test_a_proxy_that_is_back_while_all_rest_is_used(ca, clock, probes):
    """The one that is tried works: the client never hears that all were resting."""
    async with (
        Upstream(PLAIN, ssl=ca.server) as api,
        HttpProxy(refuse=403) as one,
        HttpProxy(refuse=403) as two,
        through(api.url, one.url, two.url, ca=ca, clock=clock) as relay,
    ):
        await failing(relay, STRIKES)
        one.refuse = two.refuse = None
        await good(relay)


async def test_no_proxy_on_chat_is_an_event(ca, clock, probes, dead_port):
    """The stream is open already: the same code, as its last event."""
    ways = f"http://127.0.0.1:{dead_port}", f"socks5://127.0.0.1:{dead_port}"
    async with through("https://127.0.0.1:1", *ways, ca=ca, clock=clock) as relay:
        await failing(relay, STRIKES)
        answer = await exchange(relay.port, "GET", "/chat?question=Hi")
        assert b'"code":"no_proxy"' in answer.body


async def test_no_proxy_is_the_fallbacks_chance(ca, clock, probes, dead_port):
    """An upstream that cannot be reached through its pool is one that failed in the dial."""
    ways = f"http://127.0.0.1:{dead_port}", f"socks5://127.0.0.1:{dead_port}"
    async with Upstream(PLAIN, ssl=ca.server) as api:
        toml = QUIET + pool(*ways) + pool("direct", name="own")
        toml += upstream("https://127.0.0.1:1", more='fallback = ["b"]\n')
        toml += f'[[upstream]]\nname = "b"\nurl = "{api.url}/v1"\npool = "own"\n'
        async with relaying(toml=toml, clock=clock, tls=ca.client) as relay:
            await good(relay, STRIKES + 4)


# --- shown


async def test_ready(ca, clock, probes, dead_port):
    """503 when no way is usable, 200 again with the first that is."""
    async with Upstream(PLAIN, ssl=ca.server) as api, HttpProxy(refuse=403) as one:
        ways = f"http://127.0.0.1:{dead_port}", one.url
        probes.found = dict.fromkeys(ways, "proxy_unreachable")
        async with through(api.url, *ways, ca=ca, clock=clock) as relay:
            await failing(relay, STRIKES - 1)
            assert await ready(relay) == 200
            await failing(relay)
            answer = await exchange(relay.port, "GET", "/readyz")
            assert (answer.status, answer.json()) == (503, {"status": "no way to any upstream"})
            assert (await exchange(relay.port, "GET", "/healthz")).status == 200
            await later(clock, PROBE_EVERY)
            assert await ready(relay) == 503
            probes.found[one.url] = None
            await later(clock, PROBE_EVERY)
            assert await ready(relay) == 200


async def test_ready_is_about_all_upstreams(ca, clock, probes, dead_port):
    """One that can be reached is enough."""
    async with Upstream(PLAIN, ssl=ca.server) as api:
        toml = pool(f"http://127.0.0.1:{dead_port}") + upstream(api.url)
        toml += pool("direct", name="own")
        toml += f'[[upstream]]\nname = "b"\nurl = "{api.url}/v1"\npool = "own"\nprefix = "/b"\n'
        async with relaying(toml=QUIET + toml, clock=clock, tls=ca.client) as relay:
            await failing(relay, STRIKES)
            assert not pool_of(relay).usable
            assert await ready(relay) == 200


@pytest.mark.parametrize("alone", [True, False])
async def test_one_line_each_way(alone, ca, clock, probes, log):
    """Down once, however often it fails again; back once. No credentials in either."""
    async with (
        Upstream(PLAIN, ssl=ca.server) as api,
        HttpProxy(auth=("me", "s3cret")) as one,
        SocksProxy() as two,
    ):
        one.auth = ("me", "other")
        ways = [f"http://me:s3cret@{at(one)}", *([] if alone else [two.url_as("socks5h")])]
        shown = f"http://{at(one)}"
        probes.found[shown] = "proxy_refused"
        async with through(api.url, *ways, ca=ca, clock=clock) as relay:
            for _ in range(STRIKES + 2):
                two.reset_connections()
                await settled()
                await ask(relay)
            for _ in range(20):
                await later(clock, PROBE_EVERY)
            [(level, event, fields)] = log
            assert (level, event, fields["pool"], fields["proxy"]) == (
                "warning",
                "proxy is down",
                "hk",
                shown,
            )
            assert "did not accept" in fields["why"]
            assert len(probes.asked) == 20
            probes.found[shown] = None
            await later(clock, 3 * PROBE_EVERY)
            assert log[1:] == [("info", "proxy is back", {"pool": "hk", "proxy": shown})]
            assert "s3cret" not in repr(log)


async def test_metrics(ca, clock, probes, dead_port):
    """proxy_up falls with the third strike and rises with the probe; attempts by their result."""
    async with Upstream(PLAIN, ssl=ca.server) as api, HttpProxy() as two:
        dead = f"http://127.0.0.1:{dead_port}"
        async with through(api.url, dead, two.url, ca=ca, clock=clock) as relay:
            for state in [1, 1, 0]:
                await anew(relay, two)
                assert await up(relay, dead) == state
                assert await up(relay, two.url) == 1
            labels = {"upstream": "api", "proxy": dead, "result": "proxy_unreachable"}
            assert await sample(relay, "teleprinter_attempts_total", **labels) == STRIKES
            labels = {"upstream": "api", "proxy": two.url, "result": "ok"}
            assert await sample(relay, "teleprinter_attempts_total", **labels) == STRIKES
            await later(clock, PROBE_EVERY)
            assert await up(relay, dead) == 1
            connects = {"pool": "hk", "proxy": dead}
            assert await sample(relay, "teleprinter_proxy_connect_seconds_count", **connects) == 1


async def test_two_upstreams_share_the_health_of_their_pool(ca, clock, probes, dead_port):
    """What one learns the other knows; their connections are their own."""
    dead = f"http://127.0.0.1:{dead_port}"
    async with (
        Upstream(PLAIN, ssl=ca.server) as a,
        Upstream(PLAIN, ssl=ca.server) as b,
        HttpProxy() as two,
    ):
        toml = (
            QUIET
            + pool(dead, two.url)
            + upstream(a.url, "a")
            + upstream(b.url, "b", 'prefix = "/b"\n')
        )
        async with relaying(toml=toml, clock=clock, tls=ca.client) as relay:
            assert pool_of(relay, "a") is pool_of(relay, "b")
            for _ in range(STRIKES):
                await anew(relay, two)
            labels = {"proxy": dead, "result": "proxy_unreachable"}
            async with relay.post(f"/b{PATH}", {"model": "m"}) as response:
                assert response.status == 200
            count = "teleprinter_attempts_total"
            assert await sample(relay, count, upstream="a", **labels) == STRIKES
            assert await sample(relay, count, upstream="b", **labels) is None
            await later(clock, PROBE_EVERY)
            assert [proxy for proxy, _ in probes.asked] == [dead]


async def test_reload(ca, clock, probes, dead_port):
    """New pools begin afresh, also in the metrics; the old ones are probed no more."""
    dead = f"http://127.0.0.1:{dead_port}"
    probes.found[dead] = "proxy_unreachable"
    async with (
        Upstream(PLAIN, ssl=ca.server) as api,
        HttpProxy() as two,
        through(api.url, dead, two.url, ca=ca, clock=clock) as relay,
    ):
        for _ in range(STRIKES):
            await anew(relay, two)
        old = pool_of(relay)
        await later(clock, PROBE_EVERY)
        assert len(probes.asked) == 1
        relay.gateway.adopt(relay.gateway.settings)
        relay.gateway._lanes["api"]._tls = Trust(ca.client, ca.client)
        assert pool_of(relay) is not old
        await until(lambda: len(relay.gateway._tasks) == 0)
        await later(clock, 10 * PROBE_EVERY)
        assert len(probes.asked) == 1
        await good(relay)
        assert await up(relay, dead) == 1


async def test_nothing_is_left_when_the_relay_closes(ca, clock, probes, dead_port):
    """Neither a probe nor a timer, though a proxy is down and a pool is measured."""
    dead = f"http://127.0.0.1:{dead_port}"
    async with (
        Upstream(PLAIN, ssl=ca.server) as api,
        HttpProxy() as two,
        through(api.url, dead, two.url, ca=ca, clock=clock, policy="fastest") as relay,
    ):
        for _ in range(STRIKES):
            await anew(relay, two)
        assert relay.gateway._lanes["api"]._probes
    assert clock.pending() == []
