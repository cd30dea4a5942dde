"""Spans of a real engine process, received over OTLP/HTTP and decoded from its protocol buffers."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from running_engine import CLIENT, body, running_engine

from engines.llama_cpp import LlamaCpp
from engines.port import OTLP_ENDPOINT, EngineSpec
from rollout.nouns import Engine

SPEC = EngineSpec(quantization="Q4_0", slots=1, context=512)
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class _Collector(ThreadingHTTPServer):
    """Takes what is exported."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Take)
        self.exports: list[ExportTraceServiceRequest] = []


class _Take(BaseHTTPRequestHandler):
    server: _Collector

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.exports.append(ExportTraceServiceRequest.FromString(content))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a test's output is its result."""


@pytest.fixture
def collector() -> Iterator[_Collector]:
    with _Collector() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def _plain(attributes: list[KeyValue]) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in attributes}


def test_a_request_is_a_span_of_its_caller_s_trace(
    kind: LlamaCpp, tiny: Engine, tmp_path: Path, collector: _Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streamed or not: status, waiting and tokens, under the caller's span; what is left is sent at the end."""
    endpoint = f"http://127.0.0.1:{collector.server_port}"
    monkeypatch.setenv(OTLP_ENDPOINT, endpoint)
    assert kind.serve_command(tiny, SPEC, "127.0.0.1", 18123).env[OTLP_ENDPOINT] == endpoint
    with running_engine(kind, tiny, SPEC, tmp_path / "log") as running:
        for stream in (False, True):
            CLIENT.post(
                f"{running.base}/v1/completions",
                json=body(stream=stream, ignore_eos=True),
                headers={"traceparent": f"00-{TRACE}-{PARENT}-01"},
            )
        CLIENT.post(f"{running.base}/nowhere")
    resources = [resource for export in collector.exports for resource in export.resource_spans]
    assert {_plain(r.resource.attributes)["service.name"] for r in resources} == {"tiny"}
    whole, streamed, lost = [span for r in resources for scope in r.scope_spans for span in scope.spans]
    for span in (whole, streamed):
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
        assert span.name == "POST /v1/completions" and span.end_time_unix_nano > span.start_time_unix_nano
        told = _plain(span.attributes)
        assert told["http.response.status_code"] == 200 and told["roundhouse.queue_wait_s"] >= 0
        assert told["gen_ai.usage.output_tokens"] == 8 and told["gen_ai.usage.input_tokens"] > 0
    assert _plain(lost.attributes)["http.response.status_code"] == 404 and lost.parent_span_id == b""


def test_a_collector_that_is_away_costs_no_request(
    kind: LlamaCpp, tiny: Engine, tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens: requests are answered, and the process ends with 0."""
    monkeypatch.setenv(OTLP_ENDPOINT, f"http://127.0.0.1:{free_port}")
    with running_engine(kind, tiny, SPEC, tmp_path / "log") as running:
        assert [running.complete().status_code for _ in range(3)] == [200, 200, 200]
        running.process.terminate()
        assert running.process.wait(20) == 0


def test_without_a_collector_there_is_no_variable(
    kind: LlamaCpp, tiny: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traces are off unless somebody asked for them."""
    monkeypatch.delenv(OTLP_ENDPOINT, raising=False)
    assert OTLP_ENDPOINT not in kind.serve_command(tiny, SPEC, "127.0.0.1", 18123).env
