"""One span a request, for OpenTelemetry; what the log says and no more."""

import sys

import aiohttp
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fakes import Upstream, chat, reply, sse
from relaying import read_events, relaying
from service.adapters.tracing import NoTraces, Traces
from service.app import application
from service.settings import Server, Settings, SettingsError

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
USAGE = {"prompt_tokens": 3, "completion_tokens": 2}


@pytest.fixture
def exporter():
    """Return where the spans end."""
    return InMemorySpanExporter()


@pytest.fixture
def traces(exporter):
    """Return traces that keep their spans in memory."""
    return Traces(SimpleSpanProcessor(exporter))


async def test_a_stream_is_a_span(exporter, traces):
    """A stream's span has the attributes of the conventions, and the client's span above it."""
    script = sse(*chat(["Hi"], usage=USAGE, model="m-1"))
    async with Upstream(script) as upstream, relaying(upstream.url, traces=traces) as relay:
        headers = {"traceparent": PARENT}
        async with relay.post("/chat", {"question": "secret words"}, headers) as response:
            await read_events(response)
    (span,) = exporter.get_finished_spans()
    assert span.name == "chat m-1"
    assert span.parent.span_id == int(PARENT.split("-")[2], 16)
    assert span.attributes["gen_ai.usage.input_tokens"] == 3
    assert span.attributes["gen_ai.usage.output_tokens"] == 2
    assert span.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert span.attributes["http.response.status_code"] == 200
    assert span.attributes["teleprinter.outcome"] == "ok"
    assert "secret words" not in span.to_json()


async def test_a_failure_is_an_error(exporter, traces):
    """What failed has its code as error.type; a client's own mistake is no error of the span."""
    cut = sse(*chat(["Hi"], finish=None, done=False), end=False)
    async with Upstream(cut) as upstream, relaying(upstream.url, traces=traces) as relay:
        with pytest.raises(aiohttp.ClientPayloadError):
            async with relay.get("/chat", question="Hi") as response:
                await read_events(response)
        async with relay.get("/nowhere") as response:
            await response.read()
    stream, stray = exporter.get_finished_spans()
    assert stream.attributes["error.type"] == "upstream_cut"
    assert not stream.status.is_unset
    assert (stray.name, stray.attributes["error.type"]) == ("GET", "not_found")
    assert stray.status.is_unset


async def test_traceparent_passes(traces):
    """The client's traceparent goes upstream, with or without traces."""
    for some in (traces, None):
        async with (
            Upstream(reply(200, "{}")) as upstream,
            relaying(upstream.url, traces=some) as relay,
            relay.get("/v1/models", {"traceparent": PARENT}) as response,
        ):
            await response.read()
        assert upstream.requests[0].get("traceparent") == PARENT


async def test_spans_reach_a_collector(monkeypatch):
    """With server.traces, spans go to the endpoint of OpenTelemetry's own variable."""
    async with Upstream(reply(200)) as collector, Upstream(reply(200, "{}")) as upstream:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        toml = "[server]\ntraces = true\n"
        async with (
            relaying(upstream.url, toml=toml) as relay,
            relay.get("/v1/models") as response,
        ):
            await response.read()
        assert [request.target for request in collector.requests] == ["/v1/traces"]
        assert b"teleprinter" in collector.requests[0].body


def test_traces_without_the_extra(monkeypatch):
    """The start fails, and says what is to be installed."""
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SettingsError, match=r"server\.traces .* 'teleprinter\[otel\]'"):
        application(Settings(server=Server(traces=True)))


def test_nothing_is_traced_unasked():
    """The silent twin has the same methods."""
    NoTraces().request(None, 0)
    NoTraces().close()
