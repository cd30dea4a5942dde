"""Spans by a switch, from gateway to engine. Real Envoy."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from gateway_doors import at_ports, calling
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from raw_servers import Answering, serving
from running_envoy import Proxy, a_free_port, an_envoy, until

from gateway.port import GatewayState, Tracing

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


@pytest.fixture
def engine() -> Iterator[tuple[Answering, int]]:
    """A server that keeps what arrives, and its port."""
    answering = Answering(OK)
    with serving(answering) as port:
        yield answering, port


@contextmanager
def traced(percent: float) -> Iterator[tuple[Proxy, Answering]]:
    """An Envoy that sends its spans to a collector."""
    collector = Answering(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    with ExitStack() as stack:
        port = stack.enter_context(serving(collector))
        yield stack.enter_context(an_envoy(tracing=Tracing("127.0.0.1", port, percent))), collector


def spans(collector: Answering) -> list[Span]:
    """All that arrived; each batch went to the path that OTLP asks for."""
    assert {request.path for request in collector.arrived} <= {"/v1/traces"}
    found = []
    for request in collector.arrived:
        body = gzip.decompress(request.body) if request.headers.get("content-encoding") == "gzip" else request.body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            found += [span for scope in resource.scope_spans for span in scope.spans]
    return found


def test_a_clients_trace_goes_on(engine: tuple[Answering, int]) -> None:
    """A request that comes with a trace gets spans in it, its parent's children, and the engine is told of them."""
    answering, port = engine
    with traced(percent=0) as (proxy, collector):
        proxy.gateway.apply(GatewayState((at_ports("chat", port),)))
        with calling(proxy, "chat") as chat:
            assert chat.client.get("x", headers={"traceparent": SAMPLED}).status_code == 200
        until(lambda: len(spans(collector)) >= 2, 20)
        found = {span.span_id.hex(): span for span in spans(collector)}
    assert {span.trace_id.hex() for span in found.values()} == {TRACE}
    told = answering.arrived[0].headers["traceparent"].split("-")
    assert told[1] == TRACE
    assert told[2] in found
    parents = {span.parent_span_id.hex() for span in found.values()}
    assert PARENT in parents
    assert parents - {PARENT} <= found.keys()
    assert "token-of-alice" not in str(found)


def test_a_trace_is_begun_for_a_share_of_the_requests(engine: tuple[Answering, int]) -> None:
    """Of requests without a trace the asked share gets one; a trace that its client does not sample stays so."""
    answering, port = engine
    for percent, sampled in ((100, "01"), (0, "00")):
        with traced(percent=percent) as (proxy, collector):
            proxy.gateway.apply(GatewayState((at_ports("chat", port),)))
            with calling(proxy, "chat") as chat:
                for headers in ({}, {"traceparent": UNSAMPLED}):
                    assert chat.client.get("x", headers=headers).status_code == 200
            fresh, continued = answering.arrived[-2:]
            assert fresh.headers.get("traceparent", "-00").endswith(sampled)
            assert continued.headers["traceparent"].endswith("00")
            assert continued.headers["traceparent"].split("-")[1] == TRACE
            if percent:
                until(lambda c=collector: bool(spans(c)), 20)
                assert TRACE not in {span.trace_id.hex() for span in spans(collector)}
            else:
                assert spans(collector) == []


def test_without_tracing_a_trace_passes_untouched(proxy: Proxy, engine: tuple[Answering, int]) -> None:
    """The gateway adds nothing to a trace that it takes no part in."""
    answering, port = engine
    proxy.gateway.apply(GatewayState((at_ports("chat", port),)))
    with calling(proxy, "chat") as chat:
        assert chat.client.get("x", headers={"traceparent": SAMPLED}).status_code == 200
        assert chat.client.get("x").status_code == 200
    with_one, without = answering.arrived
    assert with_one.headers["traceparent"] == SAMPLED
    assert "traceparent" not in without.headers


def test_a_dead_collector_costs_nothing(engine: tuple[Answering, int]) -> None:
    """Requests are answered and changes confirmed with nobody there to take the spans."""
    _, port = engine
    with an_envoy(tracing=Tracing("127.0.0.1", a_free_port(), 100)) as proxy:
        for timeout in (5, 6):
            proxy.gateway.apply(GatewayState((at_ports("chat", port, response_timeout_s=timeout),)))
            with calling(proxy, "chat") as chat:
                assert {chat.client.get("x").status_code for _ in range(200)} == {200}
        assert {record.flags for record in proxy.records(400)} == {"-"}
