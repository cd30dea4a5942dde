"""One span a request, sent by OTLP over HTTP: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/.

Where it goes is told by OTEL_EXPORTER_OTLP_ENDPOINT and its relatives, which the exporter reads itself. Importing this
costs time and memory, so it is imported only where that variable is set.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable

from aiohttp import web
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_EXPORT_S = 2.0  # for one batch, with all tries; and for what is left when the process ends
_OWN_PATHS = ("/health", "/metrics")


class Spans:
    """The spans of one engine process. A thread sends them in batches; a collector that fails costs spans only."""

    def __init__(self, served_name: str) -> None:
        resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME") or served_name})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=_EXPORT_S)))
        self._tracer = self._provider.get_tracer("roundhouse.engine")
        self._parents = TraceContextTextMapPropagator()

    @web.middleware
    async def around(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Answer within a span, a child of the request's ``traceparent``."""
        if request.path in _OWN_PATHS:
            return await handler(request)
        span = self._tracer.start_span(
            f"{request.method} {request.path}", self._parents.extract(request.headers), SpanKind.SERVER
        )
        try:
            response = await handler(request)
            _note(span, request, response.status)
            return response
        except BaseException as error:  # also a client that left, which cancels the handler
            _failed(span, type(error).__name__)
            raise
        finally:
            span.end()

    async def close(self) -> None:
        """Send what is left, within ``_EXPORT_S`` seconds: a collector that is away must not hold up an exit."""
        sender = threading.Thread(target=self._provider.shutdown, daemon=True)
        sender.start()
        await asyncio.to_thread(sender.join, _EXPORT_S)


def _note(span: Span, request: web.Request, status: int) -> None:
    span.set_attribute("http.response.status_code", status)
    span.set_attribute("roundhouse.queue_wait_s", request.get("queue_wait_s", 0.0))
    if "usage" in request:
        tokens_in, tokens_out, _ = request["usage"]
        if tokens_in is not None:
            span.set_attribute("gen_ai.usage.input_tokens", tokens_in)
        span.set_attribute("gen_ai.usage.output_tokens", tokens_out)
    if "broken" in request or status >= 500:
        _failed(span, request.get("broken", str(status)))


def _failed(span: Span, kind: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)
