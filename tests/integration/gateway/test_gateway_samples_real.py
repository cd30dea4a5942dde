"""What the judge is fed with, from a real llama.cpp and small servers behind a real Envoy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from gateway_doors import a_group, a_service, at_ports, calling
from raw_servers import Answering, serving
from running_engine import RunningEngine, body, running_engine
from running_envoy import Proxy, Upstream, a_lease, until

from engines.hardware import read_hardware
from engines.llama_cpp import LlamaCpp
from engines.local_model import read_local_model
from engines.port import EngineSpec, LocalSettings
from gateway.port import Cursor, GatewayState, Record, Traffic
from gateway.samples import Arms, routed_of, samples_of, to_sample

SPEC = EngineSpec(quantization="Q4_0", slots=1, context=512)
STORY = "Once upon a time there was an engine in a round house, and each morning it went out to the same two hills. "


@pytest.fixture(scope="module")
def llama(sample_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    """The sample model, with the server in front of it that counts tokens."""
    folder = tmp_path_factory.mktemp("llama")
    kind = LlamaCpp(LocalSettings(str(folder)))
    plan = kind.plan(read_local_model(sample_gguf, "smollm"), SPEC, read_hardware("/tmp"))
    with running_engine(kind, kind.build(plan, lambda what, share: None), SPEC, folder / "log") as running:
        yield running


def port_of(base: str) -> int:
    return int(base.rpartition(":")[2])


def record_of(proxy: Proxy, request_id: str) -> Record:
    """The record of that request, once it is written."""
    found: list[Record] = []

    def there() -> bool:
        found[:] = [r for r in proxy.gateway.records(Cursor())[0] if r.request_id == request_id]
        return bool(found)

    until(there)
    return found[0]


def asked(proxy: Proxy, request: dict, path: str = "v1/completions") -> tuple[Record, httpx.Response]:
    """What one request leaves behind, and its answer."""
    with calling(proxy, "chat", timeout=60) as chat:
        answer = chat.client.post(path, json=request)
    assert answer.status_code == 200
    return record_of(proxy, answer.headers["x-request-id"]), answer


@pytest.mark.parametrize("usage", ["engine", "parsed"])
@pytest.mark.parametrize("stream", [False, True])
def test_cached_tokens_of_a_real_engine_are_recorded(
    proxy: Proxy, llama: RunningEngine, usage: str, stream: bool
) -> None:
    """A prompt that was there before is a hit, a new one a miss; our server says so, or llama.cpp's own answers do."""
    behind = llama.log.read_text().split("listening on http://127.0.0.1:")[-1].split()[0]
    port = port_of(llama.base) if usage == "engine" else int(behind)
    proxy.gateway.apply(state(port, usage))
    request = body(f"{usage} {stream} {STORY * 4}", stream=stream, stream_options={"include_usage": True})
    first, _ = asked(proxy, request)
    again, answer = asked(proxy, request)
    told = json.loads(answer.text) if not stream else json.loads(answer.text.split("data: ")[-2])
    assert (first.tokens_cached or 0) < 10 and to_sample(first).cached is False
    assert again.tokens_cached == told["timings"]["cache_n"] > (again.tokens_in or 0) / 2
    assert to_sample(again).cached is True
    assert (again.tokens_in, again.tokens_out, again.streamed) == (first.tokens_in, 8, stream)


def state(port: int, usage: str) -> GatewayState:
    """One service at that port, patient with a slow machine."""
    service = at_ports("chat", port, traffic=Traffic(usage=usage), response_timeout_s=60.0)  # type: ignore[arg-type]
    return GatewayState((service,))


@pytest.mark.parametrize("usage", ["engine", "parsed"])
def test_what_has_no_tokens_is_well(proxy: Proxy, llama: RunningEngine, usage: str) -> None:
    """Token ids, lists of models and health are neither empty nor malformed, although no token is counted."""
    proxy.gateway.apply(state(port_of(llama.base), usage))
    records = [asked(proxy, {"content": "a b c"}, "tokenize")[0]]
    with calling(proxy, "chat") as chat:
        for path in ("v1/models", "health"):
            records.append(record_of(proxy, chat.client.get(path).headers["x-request-id"]))
    assert [(r.status, r.tokens_out) for r in records] == [(200, None)] * 3
    assert [to_sample(r, counted=True).error for r in records] == ["", "", ""]


def answered(proxy: Proxy, content: bytes, kind: bytes) -> str:
    """How a sample counts whose engine answers so."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n"
    with serving(Answering(head % (kind, len(content)) + content)) as port:
        proxy.gateway.apply(state(port, "parsed"))
        return to_sample(asked(proxy, {})[0]).error


@pytest.mark.parametrize(
    ("content", "kind", "error"),
    [
        (b'{"usage": {"prompt_tokens": 5, "completion_tokens": 6}}', b"application/json", ""),
        (b'{"data": [0.1]}', b"application/json", ""),
        (b"[[0.1], [0.2]]", b"application/json; charset=utf-8", ""),
        (b'{"usage": {"prompt_tokens": 5, "comp', b"application/json", "malformed"),
        (b"out of memory", b"application/json", "malformed"),
        (b"", b"application/json", "empty"),
        (b"ok", b"text/plain", ""),
        (b"data: [DONE]\n\n", b"text/event-stream", ""),  # not every engine counts in its streams
        (b'data: {"usage": {"prompt_tokens": 5, "completion_tokens": 0}}\n\n', b"text/event-stream", "empty"),
    ],
)
def test_answers_that_are_none_are_told_from_those_without_tokens(
    proxy: Proxy, content: bytes, kind: bytes, error: str
) -> None:
    """The proxy says whether what calls itself JSON is JSON; a stream of no token is an empty answer."""
    assert answered(proxy, content, kind) == error


def test_a_copy_bears_the_id_of_the_request_that_was_copied(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """Both samples have the same id and the same length of the prompt, so the two answers can be compared."""
    service = a_service("chat", v1, v2, lease=a_lease(mirror=1000))
    proxy.gateway.apply(GatewayState((service,)))
    with calling(proxy, "chat") as chat:
        for n in range(1, 6):
            assert chat.client.post("v1/completions", json={"n": n}).status_code == 200
    found = samples_of(proxy.records(10), Arms("chat", 1, 2, True, 0.0))
    live, copies = ({s.request_id: s for s in arm} for arm in (found.stable, found.candidate))
    assert len(live) == 5 and live.keys() == copies.keys()
    assert {i: s.bytes_in for i, s in live.items()} == {i: s.bytes_in for i, s in copies.items()}
    assert {i: s.tokens_out for i, s in live.items()} == {i: s.tokens_out for i, s in copies.items()}
    assert {s.weight for s in found.candidate} == {0.5} and {s.instance for s in found.candidate} == {"chat-v2-0"}


def test_a_member_s_requests_weigh_what_its_lease_gave_through_a_group_too(
    proxy: Proxy, v1: Upstream, v2: Upstream, mortal: Callable[[int], Upstream]
) -> None:
    """The share in force is in each record, whichever door was called."""
    service = a_service("chat", v1, v2, lease=a_lease(canary=300))
    other = a_service("other", mortal(3))
    proxy.gateway.apply(GatewayState((service, other), (a_group("prod", {"chat": 1, "other": 1}),)))
    with calling(proxy, "prod") as prod:
        for _ in range(60):
            assert prod.client.post("v1/completions", json={}).status_code == 200
    records = proxy.records(60)
    assert {r.canary_permille for r in records if r.service == "other"} == {0}
    arms = Arms("chat", 1, 2, False, 0.0)
    found = samples_of(records, arms)
    assert {s.weight for s in (*found.stable, *found.candidate)} == {0.3}
    routed = routed_of(records, arms)
    assert len(routed) == sum(r.service == "chat" for r in records)
    assert sum(hit for *_, hit in routed) == len(found.candidate)


def test_beside_a_baseline_each_of_both_is_as_likely(
    proxy: Proxy, v1: Upstream, v2: Upstream, mortal: Callable[[int], Upstream]
) -> None:
    """What stable answered is not compared; of the rest the candidate gets one half, as the weights say."""
    lease = replace(a_lease(canary=400), baseline=3)
    proxy.gateway.apply(GatewayState((a_service("chat", v1, v2, mortal(3), lease=lease),)))
    with calling(proxy, "chat") as chat:
        for _ in range(100):
            assert chat.client.post("v1/completions", json={}).status_code == 200
    arms = Arms("chat", stable=3, candidate=2, mirrored=False, since=0.0, baseline=True)
    records = proxy.records(100)
    found, routed = samples_of(records, arms), routed_of(records, arms)
    assert {s.weight for s in (*found.stable, *found.candidate)} == {0.5} == {share for _, share, _ in routed}
    assert len(routed) == len(found.stable) + len(found.candidate) < 100
    assert min(len(found.stable), len(found.candidate)) > 15  # of 40 each; five standard deviations
