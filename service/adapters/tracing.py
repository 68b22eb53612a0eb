"""One OpenTelemetry span a request, made when it has ended; without the `otel` extra, nothing.

The attributes' names: OpenTelemetry's semantic conventions for HTTP servers and generative AI.
Where the spans go is said by OpenTelemetry's own variables, such as OTEL_EXPORTER_OTLP_ENDPOINT.
"""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from service.adapters.metrics import tokens_of
from service.core.events import Summary

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

_NANO: Final = 1_000_000_000
_SERVER_ERROR: Final = 500


class Ended(NamedTuple):
    """A request: its headers, its line in the log, and what its stream came to."""

    method: str
    headers: Mapping[str, str]
    note: Mapping[str, Any]
    summary: Summary


class NoTraces:
    """Traces nothing; its methods are those of Traces."""

    def request(self, ended: Ended, seconds: float) -> None:
        """Record a request that has just ended and took so long."""

    def close(self) -> None:
        """Hand over what is still here."""


class Traces(NoTraces):
    """Spans through this processor, or in batches to the OTLP endpoint of the environment.

    Raises ImportError without the extra `otel`.
    """

    def __init__(self, processor: "SpanProcessor | None" = None) -> None:
        from opentelemetry.propagate import extract  # noqa: PLC0415  an extra
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.trace import SpanKind, StatusCode  # noqa: PLC0415

        self._provider = TracerProvider(resource=Resource.create({"service.name": "teleprinter"}))
        self._provider.add_span_processor(processor or _exporting())
        self._tracer = self._provider.get_tracer("teleprinter")
        self._extract, self._kind, self._failed = extract, SpanKind.SERVER, StatusCode.ERROR

    def request(self, ended: Ended, seconds: float) -> None:
        """Record a request that has just ended and took so long."""
        method, headers, note, _ = ended
        end = time.time_ns()
        traced = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        model = note.get("model")
        span = self._tracer.start_span(
            f"chat {model}" if model else method,
            context=self._extract(traced),
            kind=self._kind,
            attributes=_attributes(ended),
            start_time=end - round(seconds * _NANO),
        )
        if error := note.get("error"):
            span.set_attribute("error.type", error)
            if (note.get("status") or _SERVER_ERROR) >= _SERVER_ERROR or note.get("stream"):
                span.set_status(self._failed, error)
        span.end(end)

    def close(self) -> None:
        """Hand over what is still here; returns when it is gone or given up."""
        self._provider.shutdown()


def _exporting() -> "SpanProcessor":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    return BatchSpanProcessor(OTLPSpanExporter())


def _attributes(ended: Ended) -> dict[str, Any]:
    """Return what a span says; like the log, no prompt, no answer, no query, no secret."""
    method, _, note, summary = ended
    tokens = tokens_of(summary.usage)
    found = {
        "http.request.method": method,
        "http.response.status_code": note.get("status"),
        "teleprinter.request_id": note.get("id"),
        "teleprinter.caller": note.get("caller"),
        "teleprinter.upstream": summary.upstream,
        "teleprinter.proxy": summary.proxy,
        "teleprinter.outcome": note.get("outcome"),
        "teleprinter.attempts": summary.attempts or None,
    }
    if summary.upstream is not None:
        found |= {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": summary.upstream,
            "gen_ai.response.model": summary.model,
            "gen_ai.response.finish_reasons": [summary.finish_reason or "unknown"],
            "gen_ai.usage.input_tokens": tokens["prompt"] or None,
            "gen_ai.usage.output_tokens": tokens["completion"] or None,
        }
    return {name: value for name, value in found.items() if value is not None}
