"""Token counts as raw bytes on the wire: a header of whole answers, a trailer of streams, and nothing else changed."""

import http.client
import json
import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from running_engine import RunningEngine, body, running_engine

from engines.llama_cpp import LlamaCpp
from engines.port import EngineSpec, Faults
from rollout.nouns import Engine

SPEC = EngineSpec(quantization="Q4_0", slots=1, context=512)
CHAT = {"messages": [{"role": "user", "content": "Hello you"}], "max_tokens": 5, "temperature": 0}
REQUESTS = [("/v1/chat/completions", CHAT), ("/v1/completions", body()), ("/completion", body())]


@pytest.fixture(scope="module")
def server(kind: LlamaCpp, sample: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    with running_engine(kind, sample, SPEC, tmp_path_factory.mktemp("log") / "log") as running:
        yield running


def _raw(
    base: str, path: str, request: dict[str, Any], version: str = "1.1", method: str = "POST"
) -> tuple[str, bytes]:
    """The head and the rest of an answer, byte for byte, on a connection that the server closes."""
    content = json.dumps(request).encode() if method == "POST" else b""
    host, _, port = base.removeprefix("http://").partition(":")
    head = f"{method} {path} HTTP/{version}\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {len(content)}\r\n"
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + content)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head_bytes, _, rest = answer.partition(b"\r\n\r\n")
    return head_bytes.decode().lower() + "\r\n", rest


def _parts(rest: bytes) -> tuple[bytes, bytes]:
    """Body and trailers of a chunked answer (RFC 9112, 7.1)."""
    content = b""
    while True:
        size, _, rest = rest.partition(b"\r\n")
        if int(size, 16) == 0:
            return content, rest
        content, rest = content + rest[: int(size, 16)], rest[int(size, 16) + 2 :]


def _lasting(answer: bytes) -> bytes:
    """Without what differs from run to run: ids, the clock, and how much of the prompt was cached."""
    return re.sub(rb'"(id|created|cache_n|prompt_n|\w+_ms|\w+_second|cached_tokens)":[^,}]+', rb"\1", answer)


@pytest.mark.parametrize(("path", "request_"), REQUESTS)
def test_a_whole_answer_tells_its_tokens_in_a_header(server: RunningEngine, path: str, request_: dict) -> None:
    """As many as the body says, the cached part of the prompt included, also over HTTP/1.0."""
    for version in ("1.0", "1.1", "1.1"):
        head, rest = _raw(server.base, path, request_, version)
        told = json.loads(rest)
        usage = told.get("usage") or {
            "prompt_tokens": told["tokens_evaluated"],
            "completion_tokens": told["tokens_predicted"],
        }
        found = re.search(r"\r\nx-usage: (\d+),(\d+),(\d+)\r\n", head)
        assert found and tuple(map(int, found.groups()[:2])) == (usage["prompt_tokens"], usage["completion_tokens"])
        assert int(found[3]) == told["timings"]["cache_n"]


@pytest.mark.parametrize(("path", "request_"), REQUESTS)
def test_a_stream_tells_its_tokens_in_a_trailer(server: RunningEngine, path: str, request_: dict) -> None:
    """The trailer is announced, has the whole answer's counts, and the body is llama.cpp's own, byte for byte."""
    _raw(server.base, path, request_)  # what is cached is then the same for the two that follow
    whole = re.search(r"x-usage: \d+,\d+,\d+\r\n", _raw(server.base, path, request_)[0])
    streamed = {**request_, "stream": True}
    head, rest = _raw(server.base, path, streamed)
    content, trailers = _parts(rest)
    assert "\r\ntrailer: x-usage\r\n" in head and "\r\nx-usage:" not in head
    assert whole and trailers.decode() == whole[0] + "\r\n"
    behind = re.findall(r"listening on (http://127\.0\.0\.1:\d+)", server.log.read_text())[-1]
    assert b"data: " in content
    assert _lasting(content) == _lasting(_parts(_raw(behind, path, streamed)[1])[0])


@pytest.mark.parametrize(
    ("path", "request_"), [*REQUESTS, ("/v1/messages", CHAT), ("/v1/responses", {"input": "Hello you"})]
)
def test_every_kind_of_stream_ends_with_its_counts(server: RunningEngine, path: str, request_: dict) -> None:
    """So a stream without them did not end as it should; Anthropic's API tells only what came out at its end."""
    bound = {"max_output_tokens": 5} if path == "/v1/responses" else {"max_tokens": 5}
    _, rest = _raw(server.base, path, {**request_, **bound, "stream": True})
    pattern = r"x-usage: ,5\r\n" if path == "/v1/messages" else r"x-usage: \d+,5,\d+\r\n"
    assert re.fullmatch(pattern + r"\r\n", _parts(rest)[1].decode())


def test_http_1_0_and_head_get_no_trailer(server: RunningEngine) -> None:
    """Where there are no chunks there is no trailer: the body ends with the connection, or there is none."""
    head, rest = _raw(server.base, "/v1/completions", body(stream=True), "1.0")
    assert rest.endswith(b"data: [DONE]\n\n") and b"x-usage" not in head.encode() + rest
    head, rest = _raw(server.base, "/v1/models", {}, method="HEAD")
    assert head.startswith("http/1.1 200") and rest == b""


def test_a_refused_request_tells_nothing(server: RunningEngine) -> None:
    """An error has no counts."""
    head = _raw(server.base, "/v1/completions", body("word " * 2000))[0]
    assert head.startswith("http/1.1 400") and "x-usage" not in head


def test_a_connection_goes_on_after_a_trailer(server: RunningEngine) -> None:
    """A second request on the same connection is answered."""
    connection = http.client.HTTPConnection(server.base.removeprefix("http://"), timeout=60)
    for _ in range(3):
        connection.request(
            "POST", "/v1/completions", json.dumps(body(stream=True)), {"Content-Type": "application/json"}
        )
        sock, answer = connection.sock, connection.getresponse()
        assert answer.read().endswith(b"data: [DONE]\n\n")
        assert connection.sock is sock
    connection.close()


def test_a_cut_stream_tells_nothing(kind: LlamaCpp, tiny: Engine, tmp_path: Path) -> None:
    """A stream that was cut has neither a last chunk nor a trailer."""
    spec = replace(SPEC, faults=Faults(cut_rate=1.0))
    with running_engine(kind, tiny, spec, tmp_path / "log") as running:
        head, rest = _raw(running.base, "/v1/completions", body(stream=True, max_tokens=50, ignore_eos=True))
        assert "trailer: x-usage" in head and b"data: " in rest
        assert b"x-usage" not in rest and not rest.endswith(b"0\r\n\r\n")
