"""The doctor against each broken way, built for real: what it finds, and what it advises."""

import asyncio
import io
import json
import socket
import ssl

import pytest
import trustme

from examining import (
    JSON,
    KEY,
    MODELS,
    Cutter,
    Gatherer,
    api,
    examined,
    last_step,
    step_of,
    toml_of,
)
from fakes import HttpProxy, Server, SocksProxy, Upstream, chat, chat_frame, reply, sse
from proxying import KINDS, LOGIN, at, proxy_of, self_signed, upstream_of, url_of
from service.adapters.clock import LoopClock
from service.adapters.doctor.holding import hold
from service.adapters.doctor.ports import proxies_among, spoken
from service.core.doctor import advice, lumps
from service.core.doctor.findings import Flow, Way
from service.core.proxy import DIRECT
from service.doctor.command import examine
from service.doctor.examination import Wishes
from service.doctor.shown import Plain
from service.errors import Failure
from service.settings import SettingsError, load

NAME = "api.example.com"


@pytest.fixture
def asked(monkeypatch):
    """Fake the resolver: `asked[name]` are addresses; what was looked up is in `asked.log`."""

    class Names(dict):
        log = []  # noqa: RUF012  one test's

    names, real = Names(), socket.getaddrinfo
    names.log = []

    def fake(host, port, *args, **kwargs):
        name = host.decode() if isinstance(host, bytes) else host
        names.log.append(name)
        if name == "localhost" or name[0].isdigit() or name in {"::1", None}:
            return real(host, port, *args, **kwargs)
        if name not in names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port or 0))
            for address in names[name]
        ]

    monkeypatch.setattr(socket, "getaddrinfo", fake)
    return names


@pytest.mark.parametrize("kind", ["direct", *KINDS])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_way_that_works(kind, scheme, ca, tmp_path):
    """Every step is there, with its time, in the order of the way; the key goes to the upstream."""
    async with upstream_of(scheme, ca, api()) as upstream, proxy_of(kind, ca, auth=LOGIN) as proxy:
        toml = toml_of(f"{upstream.url}/v1", url_of(proxy, kind), ca_file=str(ca.file))
        found, text = await examined(tmp_path, toml)
        (way,) = found.ways
        assert (found.exit, found.works, way.works) == (0, "all", True), text
        assert upstream.requests[0].get("authorization") == f"Bearer {KEY}"
        hop = f"proxy 127.0.0.1:{proxy.port}"
    dial = {"direct": ["tcp"], "http": ["tcp"], "https": ["tcp"]}.get(kind, ["tcp", hop])
    if scheme == "https":
        dial = ["tls"] if kind == "direct" else ["tcp", hop, "tls"]
    certificate = ["certificate"] if scheme == "https" else []
    steps = [step.step for step in way.steps]
    assert steps == ["settings", "dns", *dial, *certificate, "models"]
    assert all(step.seconds is not None for step in way.steps if step.step not in steps[:2])
    if certificate:
        assert "issued by 'trustme" in step_of(way, "certificate").said
    assert "all ways work (1 of 1)" in text


async def test_a_chain(ca, tmp_path):
    """Every hop is a step."""
    async with (
        upstream_of("https", ca, api()) as upstream,
        HttpProxy() as near,
        SocksProxy() as far,
    ):
        chain = [near.url, url_of(far, "socks5h")]
        found, text = await examined(
            tmp_path, toml_of(f"{upstream.url}/v1", chain, ca_file=str(ca.file))
        )
        assert found.exit == 0, text
        hops = [step.step for step in found.ways[0].steps if step.step.startswith("proxy")]
        assert hops == [f"proxy {at(near)}", f"proxy {at(far)}"]


async def test_nothing_listens(dead_port, tmp_path, monkeypatch):
    """It asks whether Clash runs, and names a port of the usual ones at which a proxy answers."""
    async with Upstream(api()) as upstream, HttpProxy() as other, SocksProxy() as third:
        monkeypatch.setattr(advice, "USUAL_PORTS", (dead_port, upstream.port))
        toml = toml_of(f"{upstream.url}/v1", f"http://127.0.0.1:{dead_port}")
        step = await last_step(tmp_path, toml)
        assert step.step == "tcp"
        assert "refused the connection" in step.said
        assert "is Clash" in step.cure
        assert "Nothing speaks a proxy's protocol at the usual ports" in step.cure
        monkeypatch.setattr(advice, "USUAL_PORTS", (upstream.port, other.port, third.port))
        cure = (await last_step(tmp_path, toml)).cure
        assert f"{other.port} speaks HTTP; {third.port} speaks SOCKS5" in cure
        assert cure.endswith(f"write http://127.0.0.1:{other.port}")
        assert (other.targets, third.targets) == (["127.0.0.1:9"], [])  # nothing was dialled


async def test_no_port_is_tried_elsewhere(dead_port, tmp_path, monkeypatch, asked):
    """Another machine's ports are left alone."""
    asked["proxy.test"] = ["127.0.0.1"]
    async with HttpProxy() as other:
        monkeypatch.setattr(advice, "USUAL_PORTS", (other.port,))
        toml = toml_of("http://127.0.0.1:1/v1", f"http://proxy.test:{dead_port}")
        cure = (await last_step(tmp_path, toml)).cure
        assert cure.startswith("is the machine proxy.test up")
        assert f"at port {dead_port}" in cure
        assert "firewalls" in cure
        assert "Clash" not in cure
        assert other.connections == 0


@pytest.mark.parametrize("way", ["http://proxy.test:{}", "socks5h://proxy.test:{}"])
async def test_a_proxy_elsewhere_that_gets_no_further(way, ca, tmp_path, asked):
    """A proxy of another machine is looked for there, and not in a program on this one."""
    asked["proxy.test"] = ["127.0.0.1"]
    kind = HttpProxy if way.startswith("http") else SocksProxy
    async with upstream_of("https", ca, api()) as upstream, kind(silent=True) as proxy:
        toml = toml_of(f"{upstream.url}/v1", way.format(proxy.port))
        step = await last_step(tmp_path, toml + "[clocks]\nconnect = 0.5\n")
    assert "can that machine reach the upstream?" in step.cure or "speaks neither" in step.cure
    assert "proxy's own program" not in step.cure


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("real", "written", "right"),
    [
        ("socks5", "http", "speaks SOCKS5: write socks5h://127.0.0.1:{}"),
        ("http", "socks5h", "speaks HTTP: write http://127.0.0.1:{}"),
        ("http", "socks4", "speaks HTTP: write http://127.0.0.1:{}"),
        ("http", "https", "speaks HTTP: write http://127.0.0.1:{}"),
    ],
)
async def test_the_wrong_kind_of_port(real, written, right, scheme, request):
    """The other protocol is tried on the port, and the right URL is named."""
    ca, folder = request.getfixturevalue("ca"), request.getfixturevalue("tmp_path")
    async with upstream_of(scheme, ca, api()) as upstream, proxy_of(real, ca) as proxy:
        toml = toml_of(f"{upstream.url}/v1", f"{written}://127.0.0.1:{proxy.port}")
        step = await last_step(folder, toml + "[clocks]\nconnect = 0.5\n")  # both wait to hear more
        assert right.format(proxy.port) in step.cure, step


@pytest.mark.parametrize("written", ["http", "socks5h"])
async def test_a_port_of_no_proxy(written, ca, tmp_path):
    """A web server speaks neither, and is told from a proxy."""
    async with Upstream(reply(404, "no")) as web, upstream_of("https", ca, api()) as upstream:
        way = f"{written}://127.0.0.1:{web.port}"
        toml = toml_of(f"{upstream.url}/v1", way) + "[clocks]\nconnect = 0.5\n"
        assert "speaks neither" in (await last_step(tmp_path, toml)).cure


@pytest.mark.parametrize(
    ("connect", "status", "body"),
    [
        (405, 200, MODELS),
        (400, 200, "<html>"),
        (401, 401, "{}"),
        (404, 404, '{"error": "no"}'),
        (501, 404, "no"),
    ],
)
async def test_a_web_server_is_no_proxy(connect, status, body, tmp_path):
    """To an http:// upstream no tunnel is asked for, and a web server answers in its name."""

    async def script(request, wire):
        await wire.reply(connect if request.method == "CONNECT" else status, body)

    async with Upstream(script) as web, Upstream(api()) as upstream:
        toml = toml_of(f"{upstream.url}/v1", f"http://127.0.0.1:{web.port}")
        step = await last_step(tmp_path, toml)
        assert upstream.requests == []
    assert step.step == f"proxy 127.0.0.1:{web.port}"
    assert step.said.startswith(f"answered {status} for a host that cannot exist")
    assert "speaks neither HTTP proxy nor SOCKS5" in step.cure


async def test_a_proxy_without_connect_is_one(tmp_path):
    """Who forwards requests and grants no tunnel fails for a host that cannot exist."""

    class Forwarder(HttpProxy):
        async def _connect(self, connection, target):
            return await self._refuse(connection, 405)

    async with Upstream(api()) as upstream, Forwarder() as proxy:
        found, text = await examined(tmp_path, toml_of(f"{upstream.url}/v1", proxy.url))
        assert found.exit == 0, text
        assert proxy.targets[-1] == f"127.0.0.1:{upstream.port}"


@pytest.mark.parametrize("kind", ["https", "chain"])
async def test_what_was_not_checked_is_said(kind, ca, tmp_path):
    """Nobody asks an https proxy, or one behind another, whether it is one."""
    async with (
        Upstream(api()) as upstream,
        proxy_of("https" if kind == "https" else "http", ca) as far,
        SocksProxy() as near,
    ):
        way = far.url if kind == "https" else [near.url, far.url]
        found, text = await examined(
            tmp_path, toml_of(f"{upstream.url}/v1", way, ca_file=str(ca.file))
        )
        assert found.exit == 0, text
        assert "whether it is a proxy was not checked" in step_of(found.ways[0], "tcp").said


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
async def test_the_environments_proxy_is_named_where_the_direct_way_fails(
    name, dead_port, tmp_path, asked
):
    """Nobody goes by HTTPS_PROXY unless told: the cure says so, and never what is in it."""
    asked["api.test"] = ["127.0.0.1"]
    step = await last_with(tmp_path, f"https://api.test:{dead_port}/v1", name)
    assert step.cure.startswith(f"{name} is set, and not gone by: set TELEPRINTER_PROXY=env")


async def test_what_no_proxy_would_mend_has_its_own_cure(tmp_path, asked):
    """A certificate that is not accepted is no matter of HTTPS_PROXY."""
    asked["api.test"] = ["127.0.0.1"]
    tls, _ = self_signed(tmp_path, "127.0.0.1")
    async with Upstream(api(), ssl=tls) as upstream:
        step = await last_with(tmp_path, f"https://api.test:{upstream.port}/v1", "HTTPS_PROXY")
    assert "ca_file" in step.cure


async def last_with(folder, url, variable):
    """Examine the direct way where that variable names a proxy; return the step that failed."""
    file = folder / "examined.toml"
    file.write_text(toml_of(url))
    environ = {variable: "http://me:s3cret@127.0.0.1:7890"}
    settings = load(config=str(file), environ=environ, cwd=folder)
    out = io.StringIO()
    found = await examine(settings, (), Wishes(), Plain(out))
    assert "s3cret" not in out.getvalue()
    step = found.ways[0].steps[-1]
    assert step.result == "failed"
    return step


async def test_a_self_signed_certificate(ca, tmp_path):
    """It is called what it is, and named in ca_file it works, as the cure says."""
    tls, own = self_signed(tmp_path, "127.0.0.1")
    async with Upstream(api(), ssl=tls) as upstream:
        step = await last_step(tmp_path, toml_of(f"{upstream.url}/v1", ca_file=str(ca.file)))
        assert "self-signed certificate" in step.said
        assert "shown was one for 127.0.0.1 signed by itself" in step.said
        assert "name the PEM file of that certificate in ca_file" in step.cure
        found, text = await examined(tmp_path, toml_of(f"{upstream.url}/v1", ca_file=str(own)))
        assert found.exit == 0, text


@pytest.mark.parametrize("kind", ["http", "socks5h"])
async def test_a_password_is_wanted(kind, ca, tmp_path):
    """The URL to write is shown, without any password in it."""
    async with upstream_of("https", ca, api()) as upstream, proxy_of(kind, ca, auth=LOGIN) as proxy:
        toml = toml_of(f"{upstream.url}/v1", f"{kind}://127.0.0.1:{proxy.port}")
        step = await last_step(tmp_path, toml)
        assert step.step == f"proxy {at(proxy)}"
        assert f"write {kind}://USER:PASSWORD@127.0.0.1:{proxy.port}" in step.cure
        wrong = toml_of(f"{upstream.url}/v1", f"{kind}://me:wrong-word@127.0.0.1:{proxy.port}")
        found, text = await examined(tmp_path, wrong)
        assert "did not accept the user name and password" in found.ways[0].steps[-1].said
        assert "wrong-word" not in text


@pytest.mark.parametrize(
    ("address", "sign"),
    [
        ("198.18.0.23", "Clash's fake-ip"),
        ("127.0.0.1", "this machine itself"),
        ("0.0.0.0", "this machine itself"),
        ("10.10.34.36", "a private address"),
        ("240.0.0.1", "poisoned"),
        ("224.0.0.1", "nobody's address"),
    ],
)
async def test_a_poisoned_name(address, sign, tmp_path, asked):
    """A public name with such an address: let the proxy resolve it."""
    asked[NAME] = [address]
    async with SocksProxy(refuse=5) as proxy:
        toml = toml_of(f"http://{NAME}/v1", f"socks5://127.0.0.1:{proxy.port}")
        found, _ = await examined(tmp_path, toml)
        dns, last = step_of(found.ways[0], "dns"), found.ways[0].steps[-1]
        assert (dns.result, sign in dns.said) == ("warning", True)
        assert f"write socks5h://127.0.0.1:{proxy.port}" in dns.cure
        assert last.cure == dns.cure  # of what failed because of it


@pytest.mark.parametrize("name", ["localhost", "api.internal", "llm", "nas.local", "api.lan"])
def test_a_private_name(name):
    """A network's own names may have its own addresses."""
    assert advice.doubtful(name, ["192.168.1.2"]) == ""
    assert advice.doubtful(NAME, ["192.168.1.2"]) != ""
    assert advice.doubtful(NAME, ["93.184.216.34", "2606:2800:220:1::1"]) == ""


def test_a_network_that_lets_nobody_out():
    """Where nothing of the name is odd and no proxy was gone through: name one."""
    failure = Failure("upstream_unreachable", "refused the connection", stage="dial")
    cure = advice.of_dial(failure, DIRECT, local=False, suspect=False)
    assert cure.endswith("name a proxy: TELEPRINTER_PROXY")


@pytest.mark.parametrize("kind", ["http", "socks4a", "socks5h"])
async def test_the_proxy_resolves(kind, tmp_path, asked):
    """No query for the upstream's name leaves this machine."""
    async with Upstream(api()) as upstream:
        port = upstream.port
        async with proxy_of(kind, None, resolve={NAME: ("127.0.0.1", port)}) as proxy:
            toml = toml_of(f"http://{NAME}:{port}/v1", f"{kind}://127.0.0.1:{proxy.port}")
            found, text = await examined(tmp_path, toml)
            assert found.exit == 0, text
            said = step_of(found.ways[0], "dns").said
            assert said == f"proxy {at(proxy)} resolves {NAME}"
    assert NAME not in asked.log


async def test_a_name_that_cannot_be_resolved(tmp_path, asked):
    """Directly and by socks5:// alike: the cure is a proxy that resolves."""
    step = await last_step(tmp_path, toml_of(f"https://{NAME}/v1"))
    assert (step.step, "cannot be resolved here" in step.said) == ("dns", True)
    assert "socks5h://" in step.cure
    assert NAME in asked.log


@pytest.mark.parametrize("kind", ["direct", "http"])
async def test_an_intercepting_certificate(kind, ca, tmp_path):
    """Its issuer is named, and ca_file for those who trust it."""
    firewall = trustme.CA(organization_name="Corporate Firewall")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    firewall.issue_cert("127.0.0.1").configure_cert(context)
    async with Upstream(api(), ssl=context) as upstream, proxy_of(kind, ca) as proxy:
        toml = toml_of(f"{upstream.url}/v1", url_of(proxy, kind), ca_file=str(ca.file))
        step = await last_step(tmp_path, toml)
    assert step.step == "tls"
    assert "Corporate Firewall" in step.said
    assert "ca_file" in step.cure
    assert ("tampered" in step.cure) == (kind == "direct")  # where the name was resolved here


async def test_a_port_of_tls(ca, tmp_path):
    """An http:// url for a port of TLS, and what hangs up."""
    async with Upstream(api(), ssl=ca.server) as upstream:
        step = await last_step(tmp_path, toml_of(f"http://127.0.0.1:{upstream.port}/v1"))
        assert step.step == "models"
        assert "https://" in step.cure or "hangs up" in step.cure, step


@pytest.mark.parametrize(
    ("said", "cure"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "write http:// in the upstream's url"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "try another way: something on this one breaks TLS"),
    ],
    ids=["HTTP", "an alert"],
)
async def test_a_port_without_tls(said, cure, tmp_path):
    """An https:// url for a port that speaks plainly, and a handshake that is refused."""
    async with HttpProxy(garbage=said) as server:
        step = await last_step(tmp_path, toml_of(f"https://127.0.0.1:{server.port}/v1"))
    assert (step.step, cure in step.cure) == ("tls", True), step


class Reset(Server):
    """A server that resets a connection at its first byte."""

    async def serve(self, connection):
        """Hear one, and go."""
        await connection.reader.read(1)
        connection.reset()


async def test_a_proxy_that_breaks_off_tls(ca, tmp_path):
    """It was reached, and the handshake with it was not."""
    async with Reset() as proxy:
        toml = toml_of("http://127.0.0.1:1/v1", f"https://127.0.0.1:{proxy.port}")
        step = await last_step(tmp_path, toml)
    assert "broke off the connection" in step.said, step


async def test_a_proxy_whose_name_is_unknown(tmp_path, asked):
    """Nothing is dialled, and the step says which name it was."""
    step = await last_step(tmp_path, toml_of("http://127.0.0.1:1/v1", "http://proxy.test:1"))
    assert (step.step, "cannot be resolved here" in step.said) == ("dns", True), step
    assert "proxy.test" in step.said


async def test_a_wrong_key(tmp_path):
    """401 with a key is its fault; without one it is what each client's own is for."""
    async with Upstream(api()) as upstream:
        step = await last_step(tmp_path, toml_of(f"{upstream.url}/v1", key="sk-wrong"))
        assert (step.step, step.said) == ("models", "401: the key is not accepted")
        assert "TELEPRINTER_UPSTREAM_KEY" in step.cure
        found, _ = await examined(tmp_path, toml_of(f"{upstream.url}/v1", key=""))
        assert found.exit == 0
        assert "each client brings its own" in step_of(found.ways[0], "models").said


async def test_a_country_that_is_not_served(tmp_path):
    """OpenAI's 403 for a region is no fault of the key."""
    said = json.dumps({"error": {"message": "Country, region, or territory not supported"}})
    async with Upstream(reply(403, said, content_type=JSON)) as upstream:
        step = await last_step(tmp_path, toml_of(f"{upstream.url}/v1"))
    assert "use a proxy elsewhere" in step.cure


@pytest.mark.parametrize(("real", "written"), [("/v1", ""), ("/api/v1", "/api"), ("", "/v1")])
@pytest.mark.parametrize("key", [KEY, "sk-wrong"])
async def test_a_base_without_v1(real, written, key, tmp_path):
    """It is tried with and without; a wrong key at the right place says enough."""
    async with Upstream(api(real)) as upstream:
        step = await last_step(tmp_path, toml_of(f"{upstream.url}{written}", key=key))
        if real == "" and key != KEY:  # everything is below "": the key is what fails first
            assert step.said == "401: the key is not accepted"
        else:
            right = f"write {upstream.url}{real} in the upstream's url"
            assert step.cure == f"{right}: the API answers there"


@pytest.mark.parametrize(
    ("answer", "result", "said"),
    [
        ((200, "<html>", "text/html"), "failed", "not the base"),
        ((429, "{}", JSON), "warning", "quota"),
        ((502, "bad gateway", "text/plain"), "failed", "the upstream itself"),
        ((404, '{"error": "no such path"}', JSON), "warning", "--stream"),
        ((302, "", "text/plain"), "failed", "redirects"),
    ],
)
async def test_other_answers(answer, result, said, tmp_path):
    """Each has its own cure."""
    *told, kind = answer
    async with Upstream(reply(*told, content_type=kind)) as upstream:
        found, _ = await examined(tmp_path, toml_of(f"{upstream.url}/v1"))
        step = step_of(found.ways[0], "models")
        assert (step.result, said in step.cure) == (result, True), step


@pytest.mark.parametrize(
    ("lump", "verdict"), [(None, "streams"), (2400, "lumps"), (10**6, "held back")]
)
async def test_lumps(lump, verdict, clock, tmp_path):
    """A proxy that gathers is told from one that streams, and named when another way streams."""
    proxy = HttpProxy() if lump is None else Gatherer(lump)
    async with Upstream(api(clock=clock)) as upstream, SocksProxy() as last, proxy:
        chain = [proxy.url, url_of(last, "socks5h")]  # a tunnel, though it is http:// to the end
        toml = toml_of(f"{upstream.url}/v1", chain, "direct")
        found, text = await examined(tmp_path, toml, clock=clock, stream=True)
    through, direct = found.ways
    assert (through.stream.verdict, direct.stream.verdict) == (verdict, "streams"), text
    assert (through.stream.tokens, through.works) == (30, True)
    gathers = verdict != "streams"
    step = step_of(through, "stream")
    assert (step.result != "ok", "TELEPRINTER_PACE=smooth" in step.cure) == (gathers, gathers)
    culprit = f"so the proxy {through.way} gathers the tokens"
    assert [culprit in remark for remark in found.remarks] == [True] * gathers
    assert (culprit in text) == gathers


async def test_a_stream_that_is_refused(tmp_path):
    """The upstream's words are shown, and another model proposed."""

    async def script(request, wire):
        if request.method == "GET":
            return await wire.reply(200, MODELS, content_type=JSON)
        said = json.dumps({"error": {"message": f"no model {request.json()['model']}"}})
        return await wire.reply(404, said, content_type=JSON)

    async with Upstream(script) as upstream:
        step = await last_step(tmp_path, toml_of(f"{upstream.url}/v1"), stream=True, model="x")
    assert (step.step, step.said) == ("stream", "404 for the model x: no model x")
    assert "--model" in step.cure


def answering(told):
    """Return an API that lists its models, and plays that script to a question."""

    async def script(request, wire):
        if request.method == "GET":
            return await wire.reply(200, MODELS, content_type=JSON)
        return await told(request, wire)

    return script


async def cut(_, wire):
    """Begin a stream and break it off."""
    await wire.head(content_type="text/event-stream")
    await wire.chunk(chat_frame({"content": "Hi"}))
    wire.reset()


@pytest.mark.parametrize(
    ("told", "result", "said", "cure"),
    [
        (reply(200, "{}", content_type=JSON), "failed", f"{JSON}, and no event stream", "--model"),
        (sse(*chat([], role=False)), "warning", "gpt-4o-mini sent no token", "--model"),
        (cut, "failed", "", "cuts streams: try another way"),
    ],
    ids=["no stream", "no token", "cut"],
)
async def test_what_is_no_whole_stream(told, result, said, cure, tmp_path):
    """Each is told as what it is, with what to do."""
    async with Upstream(answering(told)) as upstream:
        found, _ = await examined(tmp_path, toml_of(f"{upstream.url}/v1"), stream=True)
    step = step_of(found.ways[0], "stream")
    assert (step.result, said in step.said, cure in step.cure) == (result, True, True), step


async def test_an_upstream_that_is_silent(clock, tmp_path):
    """The list is waited for 30 s, a stream 90 s: then another way is proposed."""
    async with Upstream() as upstream:
        toml = toml_of(f"{upstream.url}/v1")
        asked = asyncio.create_task(examined(tmp_path, toml, clock=clock, stream=True))
        await upstream.next()
        clock.advance(30)
        step = (await asked)[0].ways[0].steps[-1]
        assert (step.step, step.said) == ("models", "no answer within 30 s")
        asked = asyncio.create_task(examined(tmp_path, toml, clock=clock, stream=True))
        _, wire = await upstream.next()
        await wire.reply(200, MODELS, content_type=JSON)
        await upstream.next()
        clock.advance(90)
        step = (await asked)[0].ways[0].steps[-1]
    assert (step.step, step.said) == ("stream", "no stream that came to its end within 90 s")
    assert "another way" in step.cure


async def test_the_api_of_anthropic(tmp_path):
    """It is asked with its own headers."""
    async with Upstream(reply(200, MODELS, content_type=JSON)) as upstream:
        found, text = await examined(tmp_path, toml_of(f"{upstream.url}/v1", api="anthropic"))
    assert found.exit == 0, text
    (request,) = upstream.requests
    assert (request.get("x-api-key"), request.get("anthropic-version")) == (KEY, "2023-06-01")


@pytest.mark.parametrize(
    ("others", "says"),
    [
        ([], "another way (direct) would tell"),
        (["lumps"], "probably the upstream itself"),
        (["streams"], "so the way gathers the tokens"),
    ],
)
def test_whose_doing_it_is(others, says):
    """One way tells nothing; all alike accuse the upstream; another that streams, this way."""

    def way(name, verdict):
        return Way("up", "http://h/v1", name, stream=Flow(verdict, 30, 2, 15, 1.0, 0.1))

    first = way("direct", "lumps")
    ways = [first, *(way(f"other {number}", each) for number, each in enumerate(others))]
    assert says in lumps.blame(first, ways)
    assert lumps.blame(way("direct", "streams"), ways) == ""


async def test_a_model_that_wants_the_other_bound(tmp_path):
    """OpenAI's reasoning models refuse max_tokens, and name what they take."""
    streams = api()

    async def script(request, wire):
        if request.method == "POST" and "max_tokens" in request.json():
            said = '{"error": {"message": "use max_completion_tokens"}}'
            return await wire.reply(400, said, content_type=JSON)
        return await streams(request, wire)

    async with Upstream(script) as upstream:
        found, text = await examined(tmp_path, toml_of(f"{upstream.url}/v1"), stream=True)
    assert (found.exit, found.ways[0].stream.tokens) == (0, 30), text


async def test_exit_codes(dead_port, tmp_path):
    """0 all ways, 1 some, 2 none; a way for each entry, an upstream by its name."""
    async with Upstream(api()) as upstream:
        dead = f"http://127.0.0.1:{dead_port}"
        found, text = await examined(tmp_path, toml_of(f"{upstream.url}/v1", dead, "direct"))
        assert (found.exit, found.works) == (1, "some")
        assert [way.works for way in found.ways] == [False, True]
        assert "some ways work, others do not (1 of 2)" in text
        two = toml_of(f"{upstream.url}/v1") + toml_of("http://127.0.0.1:1/v1").replace(
            '"up"', '"down"'
        )
        assert (await examined(tmp_path, two))[0].exit == 1
        assert (await examined(tmp_path, two, "up"))[0].exit == 0
        assert (await examined(tmp_path, two, "down"))[0].exit == 2
        with pytest.raises(SettingsError, match=r"--upstream: expected .*: up, down"):
            await examined(tmp_path, two, "elsewhere")


async def test_the_demo(tmp_path):
    """Nothing is configured: the demo is examined, directly, and it says so."""
    found, text = await examined(tmp_path, "", stream=False)
    assert (found.exit, found.demo, found.ways[0].way) == (0, True, "direct")
    assert "no upstream is configured: this is the built-in demo" in text


async def test_what_a_port_speaks(sing_box, tinyproxy, microsocks):
    """Real proxies: sing-box speaks both, the others one; a web server and silence are none."""
    clock = LoopClock()
    ports = [each.port for each in (sing_box, tinyproxy, microsocks)]
    async with Upstream(reply(404)) as web:
        found = await proxies_among("127.0.0.1", [*ports, web.port], clock)
    both = frozenset({"http", "socks5"})
    assert found == dict(zip(ports, [both, {"http"}, {"socks5"}], strict=True))


async def test_a_port_that_is_silent(clock):
    """It is given up after a second."""
    async with SocksProxy(silent=True) as proxy:
        asking = asyncio.create_task(spoken("127.0.0.1", proxy.port, clock))
        await proxy.until(lambda: proxy.connections == 2)
        clock.advance(1)
        assert await asking == frozenset()


class Line(Server):
    """A server that says nothing: it closes on `cut`, and answers what it is sent if `alive`."""

    def __init__(self, *, alive=True):
        super().__init__()
        self.cut = asyncio.Event()
        self._alive = alive

    async def serve(self, connection):
        """Wait for the cut, or for a word."""
        cut = asyncio.create_task(self.cut.wait())
        said = asyncio.create_task(connection.reader.read(1))
        await asyncio.wait([cut, said], return_when=asyncio.FIRST_COMPLETED)
        if said.done() and self._alive:
            await connection.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        elif said.done():
            self.notify()
            await cut
        cut.cancel()
        said.cancel()


@pytest.mark.parametrize(
    ("cuts", "alive", "held"),
    [(False, True, "held"), (True, True, "closed"), (False, False, "dropped")],
)
async def test_a_silent_line(cuts, alive, held, clock):
    """Held to the end and alive; closed meanwhile; or open and dead."""
    async with Line(alive=alive) as server:
        url = f"http://127.0.0.1:{server.port}/v1"
        holding = asyncio.create_task(hold(DIRECT, url, clock, 60))
        await clock.armed(clock.now() + 60)
        await server.until(lambda: server.connections == 1)
        if cuts:
            clock.advance(30)
            server.cut.set()
            assert await holding == (held, 30)
            return
        clock.advance(60)
        if not alive:
            await clock.armed(clock.now() + 10)
            clock.advance(10)
            server.cut.set()
        assert (await holding)[0] == held


@pytest.mark.parametrize(
    ("forgets", "said"),
    [
        (False, "a silent line was closed after 30 s"),
        (True, "a silent line was dropped within 60 s"),
    ],
)
async def test_a_hop_that_cuts_idle_lines(forgets, said, clock, tmp_path):
    """It is a warning on that way, with what to do; a way on which silence is held has none."""
    async with Upstream(api()) as upstream, Cutter(forgets=forgets) as proxy:
        toml = toml_of(f"{upstream.url}/v1", url_of(proxy, "socks5h"), "direct")
        asked = asyncio.create_task(examined(tmp_path, toml, clock=clock, idle=60))
        await clock.armed(clock.now() + 60)
        clock.advance(30)
        proxy.cut.set()
        if forgets:
            clock.advance(30)
            await clock.armed(clock.now() + 10)  # for a sign of life
            clock.advance(10)
        await clock.armed(clock.now() + 60)
        clock.advance(60)
        found, text = await asked
    through, direct = found.ways
    step = step_of(through, "idle")
    assert (step.result, step.said, through.works) == ("warning", said, True), text
    assert "keep silence on the way shorter than that" in step.cure
    assert step_of(direct, "idle").said == "a silent line stood for 60 s"
    assert said in text


async def test_a_silent_line_of_tls(clock, ca, tmp_path):
    """What is held is a line as streams use it."""
    async with Upstream(api(), ssl=ca.server) as upstream:
        toml = toml_of(f"{upstream.url}/v1", ca_file=str(ca.file))
        asked = asyncio.create_task(examined(tmp_path, toml, clock=clock, idle=60))
        await clock.armed(clock.now() + 60)
        clock.advance(60)
        found, text = await asked
    assert step_of(found.ways[0], "idle").said == "a silent line stood for 60 s", text


async def test_no_tunnel_is_no_line_to_hold(tmp_path):
    """An HTTP proxy makes none for http://: the step is left out."""
    async with Upstream(api()) as upstream, HttpProxy() as proxy:
        found, text = await examined(tmp_path, toml_of(f"{upstream.url}/v1", proxy.url), idle=60)
    assert found.exit == 0, text
    assert "idle" not in [step.step for step in found.ways[0].steps]


async def test_a_line_that_cannot_be_laid(tmp_path):
    """It is a warning: what was asked before had an answer."""

    async def script(request, wire):
        await api()(request, wire)
        proxy.refuse = 5  # the next one, which is the silent line

    async with Upstream(script) as upstream, SocksProxy() as proxy:
        toml = toml_of(f"{upstream.url}/v1", url_of(proxy, "socks5h"))
        found, text = await examined(tmp_path, toml, idle=60)
    step = step_of(found.ways[0], "idle")
    assert (step.result, step.said) == ("warning", "no line could be laid for it"), text
    assert found.exit == 0
