"""Behind Debian's nginx, as config/nginx.conf has it: what it must not spoil, over TLS and HTTP/2.

The client is curl, which speaks either version; it writes what it gets at once.
"""

import asyncio
import json
import re
import shutil
from contextlib import asynccontextmanager
from urllib.parse import quote

import pytest

import fronting
from clock import FakeClock
from fakes import Upstream, chat, chat_frame, reply
from program import PATIENT, running
from relaying import relaying
from service.settings import load
from serving import serving, upstream_toml

SSE = {"content_type": "text/event-stream"}
ROLE, FINISH, DONE = chat([])
ASK = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "Hi"}]})
OK = reply(200, "{}", content_type="application/json")
V1 = "/v1/chat/completions"
VERSION = "http %{http_version} status %{http_code}"
VERSIONS = pytest.mark.parametrize("version", ["1.1", "2"])
CUT = {"1.1": 18, "2": 92}
"""CURLE_PARTIAL_FILE, CURLE_HTTP2_STREAM."""


class Curl:
    """A curl that asks nginx."""

    def __init__(self, program):
        self.program = program
        self.lines = []

    async def until(self, text):
        """Read up to a line that holds that text."""
        while (line := await self.program.line()) is not None:
            self.lines.append(line)
            if text in line:
                return
        pytest.fail(f"{text!r} never came, but {self.lines}: {self.program.errors()}")

    async def rest(self):
        """Read to the end; return all that came, and the exit code."""
        while (line := await self.program.line()) is not None:
            self.lines.append(line)
        return "\n".join(self.lines), await self.program.code()


@asynccontextmanager
async def curl(front, ca, path, *options, version="2", body=None):
    """Ask nginx at this path; a body makes it a POST."""
    program = shutil.which("curl") or pytest.skip("curl is not installed: apt-get install curl")
    speak = "--http2" if version == "2" else "--http1.1"
    flags = ["--no-buffer", "--silent", "--show-error", speak, "--cacert", str(ca.file)]
    if body is not None:
        flags += ["--data-binary", body, "--header", "Content-Type: application/json"]
    command = [program, *flags, "--write-out", f"\n{VERSION}\n", *options, front.url + path]
    async with running(*command) as process:
        yield Curl(process)


@asynccontextmanager
async def fronted(folder, ca, toml="", **options):
    """Run an upstream, a relay and nginx before it."""
    async with Upstream() as upstream, relaying(upstream.url, toml=toml, **options) as relay:
        with fronting.nginx(folder, [relay.port], ca) as front:
            yield upstream, relay, front


async def answer(front, ca, path, *options, version="2", body=None):
    """Ask and return all that came, with curl's last line, and its exit code."""
    async with curl(front, ca, path, *options, version=version, body=body) as asked:
        return await asked.rest()


async def begun(upstream, token="one"):
    """Begin the next request's stream."""
    request, wire = await upstream.next()
    await wire.head(**SSE)
    await wire.chunk(ROLE + chat_frame({"content": token}))
    return request, wire


def test_only_ports_and_paths_are_other_ones(tmp_path):
    """What the tests run is config/nginx.conf, but for addresses, its certificate and its log."""

    def bare(text):
        places = r"(127\.0\.0\.1:)?\b\d{2,5}\b(?= (ssl|fail_))|/\S+/[\w.]+\.(pem|key|log)"
        return re.sub(places, "", text)

    made = fronting.derived([8081, 8082, 8083], 443, tmp_path)
    assert bare(made) == bare(fronting.CONFIG.read_text())
    assert fronting.CONFIG.read_text().count("fail_timeout") == 3


@VERSIONS
@pytest.mark.parametrize("path", [V1, "/chat"])
async def test_token_by_token(tmp_path, ca, path, version):
    """Each token is with the client before the upstream sends the next one."""
    body = ASK if path == V1 else '{"question": "Hi"}'
    async with (
        fronted(tmp_path, ca) as (upstream, _, front),
        curl(front, ca, path, version=version, body=body) as asked,
    ):
        _, wire = await begun(upstream, "token-0")
        await asked.until("token-0")
        for number in range(1, 5):
            await wire.chunk(chat_frame({"content": f"token-{number}"}))
            await asked.until(f"token-{number}")
        await wire.chunk(FINISH + DONE)
        await wire.end()
        text, code = await asked.rest()
    assert code == 0
    assert f"http {version} status 200" in text


@VERSIONS
async def test_what_is_no_event_stream_comes_part_by_part(tmp_path, ca, version):
    """Speech plays from its first bytes on: nothing in it asks nginx not to collect it."""
    async with (
        fronted(tmp_path, ca) as (upstream, _, front),
        curl(front, ca, "/v1/audio/speech", version=version, body="{}") as asked,
    ):
        _, wire = await upstream.next()
        await wire.head(content_type="audio/mpeg")
        for number in range(3):
            await wire.chunk(b"part-%d\n" % number)
            await asked.until(f"part-{number}")
        await wire.end()
        assert (await asked.rest())[1] == 0


async def test_a_body_goes_on_as_it_comes(tmp_path, ca):
    """The relay has its beginning before its end was sent: no prompt waits on nginx's disk."""
    begun = asyncio.get_running_loop().create_future()

    async def takes(reader, writer):
        begun.set_result(await reader.readuntil(b"confidential"))
        writer.close()

    server = await asyncio.start_server(takes, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with fronting.nginx(tmp_path, [port], ca) as front:
            _, writer = await asyncio.open_connection("127.0.0.1", front.port, ssl=ca.client)
            head = f"POST {V1} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999\r\n\r\n"
            writer.write(head.encode() + b"confidential")
            async with asyncio.timeout(PATIENT):
                assert b"99999" in await begun
            writer.close()


@VERSIONS
async def test_a_cut_stays_a_cut(tmp_path, ca, version):
    """The error event arrives, then the stream breaks off; the question is in no log of nginx's."""
    async with fronted(tmp_path, ca) as (upstream, _, front):
        path = "/chat?question=Confidential&keep=0"
        async with curl(front, ca, path, version=version) as asked:
            _, wire = await begun(upstream)
            await asked.until("one")
            wire.close()
            text, code = await asked.rest()
        assert "upstream_cut" in text
        assert code == CUT[version]
        assert "Confidential" not in front.written()


@VERSIONS
@pytest.mark.parametrize("path", [V1, "/chat?question=Hi&keep=0"])
async def test_a_client_that_leaves_cancels_the_upstream(tmp_path, ca, path, version):
    """Through nginx, as without it."""
    body = ASK if path == V1 else None
    async with (
        fronted(tmp_path, ca) as (upstream, _, front),
        curl(front, ca, path, version=version, body=body) as asked,
    ):
        _, wire = await begun(upstream)
        await asked.until("one")
        asked.program.process.terminate()
        async with asyncio.timeout(PATIENT):
            await wire.closed.wait()


@pytest.mark.parametrize(("version", "size"), [("1.1", 65536), ("2", 64000)])
async def test_a_question_of_64_kib(tmp_path, ca, version, size):
    """It is one request line; by HTTP/2 it shares curl's 64 KiB with the other fields."""
    question = "w" * size
    async with fronted(tmp_path, ca) as (upstream, _, front):
        path = f"/chat?keep=0&question={quote(question)}"
        async with curl(front, ca, path, version=version) as asked:
            request, wire = await begun(upstream)
            await wire.chunk(FINISH + DONE)
            await wire.end()
            text, code = await asked.rest()
    assert (code, f"http {version} status 200" in text) == (0, True)
    assert json.loads(request.body)["messages"][-1]["content"] == question


@VERSIONS
async def test_a_heartbeat_passes(tmp_path, ca, version):
    """The comment after 15 s of silence reaches the client while the stream is open."""
    clock = FakeClock()
    async with (
        fronted(tmp_path, ca, clock=clock) as (upstream, _, front),
        curl(front, ca, "/chat?question=Hi&keep=0", version=version) as asked,
    ):
        _, wire = await begun(upstream)
        await asked.until("one")
        await clock.armed(1015.0)
        clock.advance(15)
        await asked.until(": keep-alive")
        wire.close()
        await asked.rest()


async def test_headers_pass_both_ways(tmp_path, ca):
    """Last-Event-ID goes on with the stream, Teleprinter-Keep keeps one, its name comes back."""
    toml = "[chat]\nkeep = 15\n"
    async with fronted(tmp_path, ca, toml) as (upstream, _, front):
        keep = ("--include", "--header", "Teleprinter-Keep: 15")
        async with curl(front, ca, V1, *keep, body=ASK) as asked:
            _, wire = await begun(upstream)
            await asked.until("one")
            await wire.chunk(FINISH + DONE)
            await wire.end()
            text, _ = await asked.rest()
        name = re.search(r"^teleprinter-stream: (\S+)", text, re.MULTILINE)[1]
        text, _ = await answer(front, ca, f"/streams/{name}", "-H", f"Last-Event-ID: {name}.1")
        assert '"one"' in text
        assert "[DONE]" in text
        text, _ = await answer(front, ca, "/chat?question=Hi", "-H", f"Last-Event-ID: {name}.9")
        assert "status 400" in text
        assert len(upstream.requests) == 1


async def test_the_log_names_the_client(tmp_path, ca):
    """X-Forwarded-For is believed where nginx is in `trusted_proxies`; the API never sees it."""
    server = '[server]\ntrusted_proxies = ["127.0.0.1"]\n\n'
    async with (
        Upstream(OK) as upstream,
        serving(tmp_path, server + upstream_toml(upstream)) as relay,
    ):
        with fronting.nginx(tmp_path, [relay.port], ca) as front:
            text, _ = await answer(front, ca, "/v1/models", "--interface", "127.0.0.7")
            assert "status 200" in text
            (record,) = await relay.until(relay.records)
    assert record["client"] == "127.0.0.7"
    assert upstream.requests[0].get("x-forwarded-for") is None


async def test_the_state_is_not_for_outside(tmp_path, ca):
    """/metrics and the status page are 404 by nginx; the page, /healthz and /readyz are there."""
    hidden = ("/metrics", "/status", "/status.json", "/status/events")
    async with fronted(tmp_path, ca) as (_, _, front):
        for path in hidden:
            assert "status 404" in (await answer(front, ca, path))[0]
        for path in ("/", "/healthz", "/readyz"):
            assert "status 200" in (await answer(front, ca, path))[0]


async def test_the_relay_judges_bodies(tmp_path, ca):
    """More than limits.body: the relay's own 413 in JSON; as much: taken."""
    body = tmp_path / "body"
    body.write_text(json.dumps({"model": "m", "input": "w" * 2_000_000}))
    async with fronted(tmp_path, ca, "[limits]\nbody = 2100000\n") as (upstream, _, front):
        async with curl(front, ca, "/v1/embeddings", body=f"@{body}") as asked:
            request, wire = await upstream.next()
            await wire.reply(200, "{}", content_type="application/json")
            assert "status 200" in (await asked.rest())[0]
        assert len(request.body) == body.stat().st_size
        body.write_text("w" * 2_200_000)
        text, _ = await answer(front, ca, "/v1/embeddings", body=f"@{body}")
    assert "too_large" in text
    assert "status 413" in text


def test_the_readme_names_settings_that_are_taken(tmp_path):
    """What it says of relays behind nginx is what `teleprinter check` takes."""
    text = (fronting.CONFIG.parents[1] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (block,) = [block for block in blocks if "admin" in block]
    (tmp_path / "teleprinter.toml").write_text(block)
    settings = load(environ={}, cwd=tmp_path)
    assert settings.server.admin_at == ("127.0.0.1", 9101)
    assert settings.server.hosts == ("relay.example.com",)
    assert "server_name relay.example.com;" in fronting.CONFIG.read_text()


async def test_one_that_refuses_is_passed_over(tmp_path, ca, dead_port):
    """A relay that is not there costs nobody a request, not even a POST."""
    async with Upstream(OK) as upstream, relaying(upstream.url) as relay:
        with fronting.nginx(tmp_path, [dead_port, relay.port], ca) as front:
            said = [(await answer(front, ca, V1, body=ASK))[0] for _ in range(4)]
    assert all("status 200" in text for text in said)
    assert len(upstream.requests) == 4


async def test_what_was_sent_is_not_sent_twice(tmp_path, ca):
    """A relay that took a POST and died: the client gets 502, no other relay gets the question."""

    async def dies(_request, wire):
        wire.reset()

    async with Upstream(dies) as first, Upstream(dies) as second:
        with fronting.nginx(tmp_path, [first.port, second.port], ca) as front:
            text, _ = await answer(front, ca, V1, body=ASK)
    assert "status 502" in text
    assert len(first.requests + second.requests) == 1
