"""What a client sees at the gateway: real Envoy, real servers behind it."""

from __future__ import annotations

import dataclasses
import json
import time

import httpx
import pytest
from running_envoy import ALICE_HEADERS, Proxy, Upstream, a_lease, a_state

from gateway.port import GatewayState, ServiceRoute, Token
from gateway.refusals import last_refusals
from gateway.render import Layout

MIB = 1 << 20


@pytest.fixture
def chat(proxy: Proxy, v1: Upstream) -> str:
    """The address of a service with one version."""
    proxy.gateway.apply(a_state(v1))
    return f"{proxy.url}/api/predict/chat"


def test_a_service_is_reached_under_its_name(chat: str) -> None:
    """Path and query behind the service's name reach the engine; raw and Bearer tokens both open it."""
    for token in ("Bearer token-of-alice", "token-of-alice"):
        answer = httpx.get(f"{chat}/some/path?x=1", headers={"Authorization": token})
        assert answer.status_code == 200
        assert answer.json()["path"] == "/some/path?x=1"
    assert httpx.get(chat, headers=ALICE_HEADERS).json()["path"] == "/"


def test_the_engine_sees_the_client_and_never_the_token(chat: str) -> None:
    """Upstream gets the client's name, no token, no stamp; what a client claims under those names is replaced."""
    spoof = {**ALICE_HEADERS, "x-client-id": "root", "x-now-ms": "7", "x-roundhouse-mirror": "chat@v1"}
    seen = httpx.get(f"{chat}/x", headers=spoof).json()["headers"]
    assert seen["x-client-id"] == "chat/alice"
    assert "authorization" not in seen
    assert "x-now-ms" not in seen


def test_answers_bear_the_version_and_a_request_id(chat: str) -> None:
    """Each answer says which version served it and under which id it is recorded."""
    answer = httpx.get(f"{chat}/x", headers=ALICE_HEADERS)
    assert answer.headers["x-roundhouse-version"] == "1"
    assert answer.headers["x-request-id"] == answer.json()["headers"]["x-request-id"]


@pytest.mark.parametrize("token", [None, "wrong-token", "Bearer wrong-token", "Basic token-of-alice", "Bearer"])
def test_a_wrong_token_is_refused(chat: str, token: str | None) -> None:
    """No token or a wrong one: 401, as JSON with the request's id."""
    answer = httpx.get(f"{chat}/x", headers={"Authorization": token} if token else {})
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "authentication_error"
    assert answer.json()["error"]["request_id"] == answer.headers["x-request-id"]


def test_a_token_opens_its_own_service_only(proxy: Proxy, v1: Upstream) -> None:
    """Service A's token does not open service B: whose it is is known, and that is not enough."""
    other = ServiceRoute("other", (Token("bob", "token-of-bob"),), (), None)
    proxy.gateway.apply(GatewayState((*a_state(v1).services, other)))
    bob = {"Authorization": "Bearer token-of-bob"}
    assert httpx.get(f"{proxy.url}/api/predict/chat/x", headers=bob).status_code == 403
    refused = httpx.get(f"{proxy.url}/api/predict/other/x", headers=ALICE_HEADERS)
    assert (refused.status_code, refused.json()["error"]["type"]) == (403, "permission_error")


def test_a_revoked_token_closes_open_connections_too(proxy: Proxy, v1: Upstream) -> None:
    """A token taken away no longer works on a connection that was open before."""
    proxy.gateway.apply(a_state(v1))
    with httpx.Client(base_url=f"{proxy.url}/api/predict/chat", headers=ALICE_HEADERS) as client:
        assert client.get("/x").status_code == 200
        (service,) = a_state(v1).services
        proxy.gateway.apply(GatewayState((dataclasses.replace(service, tokens=(Token("eve", "token-of-eve"),)),)))
        assert client.get("/x").status_code == 401


def test_unknown_services_and_paths_are_404(chat: str, proxy: Proxy) -> None:
    """An unknown service or path is 404 as JSON, also one whose name only begins like a known one."""
    for path in ("/api/predict/nobody/x", "/api/predict/chatty", "/other", "/"):
        answer = httpx.get(proxy.url + path, headers=ALICE_HEADERS)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, 404)


def test_a_service_without_stable_is_503(proxy: Proxy) -> None:
    """Before its first version is promoted a service answers 503 and says so."""
    proxy.gateway.apply(a_state())
    answer = httpx.get(f"{proxy.url}/api/predict/chat/x", headers=ALICE_HEADERS)
    assert answer.status_code == 503
    assert "no version" in answer.json()["error"]["message"]


def test_the_gateway_has_an_open_health_path(proxy: Proxy) -> None:
    """Anyone may ask whether the gateway lives."""
    assert httpx.get(f"{proxy.url}/gateway/health").text == "ok"


def test_bodies_up_to_the_limit_pass_and_larger_ones_are_413(chat: str) -> None:
    """1 MiB passes whole; one byte more is 413, with or without a length announced."""
    fits = httpx.post(f"{chat}/x", content=b"x" * MIB, headers=ALICE_HEADERS)
    assert (fits.status_code, fits.json()["bytes"]) == (200, MIB)
    assert httpx.post(f"{chat}/x", content=b"x" * (MIB + 1), headers=ALICE_HEADERS).status_code == 413
    chunked = httpx.post(f"{chat}/x", content=iter([b"x" * MIB, b"x"]), headers=ALICE_HEADERS)
    assert (chunked.status_code, chunked.json()["error"]["type"]) == (413, "request_too_large")


def test_a_service_has_a_limit_of_its_own(proxy: Proxy, v1: Upstream) -> None:
    """The limit on bodies is the service's: larger or smaller than the usual one."""
    proxy.gateway.apply(a_state(v1, body_limit_bytes=3 * MIB))
    url = f"{proxy.url}/api/predict/chat/x"
    assert httpx.post(url, content=b"x" * (3 * MIB), headers=ALICE_HEADERS).status_code == 200
    assert httpx.post(url, content=b"x" * (3 * MIB + 1), headers=ALICE_HEADERS).status_code == 413


def test_large_answers_pass(chat: str) -> None:
    """A JSON answer may be much larger than a request may be."""
    answer = httpx.get(f"{chat}/large?n={5 * MIB}", headers=ALICE_HEADERS)
    assert len(answer.json()["filler"]) == 5 * MIB


def test_silence_before_the_answer_is_504(chat: str, proxy: Proxy, v1: Upstream) -> None:
    """No first byte within the response timeout: 504."""
    proxy.gateway.apply(a_state(v1, response_timeout_s=0.5))
    answer = httpx.get(f"{chat}/slow?s=30", headers=ALICE_HEADERS, timeout=30)
    assert (answer.status_code, answer.json()["error"]["type"]) == (504, "timeout_error")


def test_streams_may_be_longer_than_the_timeout(chat: str, proxy: Proxy, v1: Upstream) -> None:
    """A stream whose gaps stay under the timeout runs to its end, event by event, although it lasts longer."""
    proxy.gateway.apply(a_state(v1, response_timeout_s=3))
    ask = {"stream": True, "n": 7, "gate": "longer"}
    with httpx.stream("POST", f"{chat}/v1/completions", json=ask, headers=ALICE_HEADERS, timeout=30) as answer:
        events = (line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: "))
        for token in range(7):
            time.sleep(0.5)  # 3.5 s in all
            v1.open("longer")  # the next event is sent only when the one before has come
            assert json.loads(next(events))["token"] == token
        assert list(events) == ["[DONE]"]


def test_silence_inside_a_stream_cuts_it(chat: str, proxy: Proxy, v1: Upstream) -> None:
    """A gap longer than the timeout ends the stream, and the record says so."""
    proxy.gateway.apply(a_state(v1, response_timeout_s=2))  # the answer's head has to come within it
    ask = {"stream": True, "n": 3, "gap": 30}
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(f"{chat}/v1/completions", json=ask, headers=ALICE_HEADERS, timeout=30)
    (record,) = proxy.records(1)
    assert record.status == 200
    assert record.flags != "-"


def test_a_request_leaves_a_record(chat: str, proxy: Proxy) -> None:
    """One record per request: who, what, which instance, how long, how many tokens, streamed or not."""
    httpx.post(f"{chat}/v1/completions", json={"n": 7}, headers=ALICE_HEADERS)
    httpx.post(f"{chat}/v1/completions", json={"n": 2, "stream": True, "gap": 0.05}, headers=ALICE_HEADERS)
    plain, streamed = proxy.records(2)
    assert (plain.kind, plain.service, plain.version, plain.instance) == ("live", "chat", 1, "chat-v1-0")
    assert (plain.door, plain.route, plain.client, plain.status, plain.attempts) == ("chat", "stable", "alice", 200, 1)
    assert (plain.tokens_in, plain.tokens_out, plain.streamed) == (5, 7, False)
    assert (streamed.tokens_in, streamed.tokens_out, streamed.streamed) == (None, 2, True)
    assert 0 < (streamed.ttft_s or 0) < (streamed.total_s or 0)


def test_failures_leave_records_too(chat: str, proxy: Proxy) -> None:
    """A refused request is recorded with its status, without an instance, and with more detail for people."""
    httpx.get(f"{chat}/x?secret=1", headers={"user-agent": "probe"})
    (record,) = proxy.records(1)
    assert (record.status, record.instance, record.client, record.attempts) == (401, None, None, 0)
    (refusal,) = last_refusals(Layout.of(proxy.settings).errors, 5)
    assert (refusal.request_id, refusal.door, refusal.status) == (record.request_id, "chat", 401)
    assert (refusal.path, refusal.agent, refusal.details) == ("/x", "probe", "missing_api_key")


def test_hostile_requests_are_stopped_at_the_edge(chat: str) -> None:
    """Underscored headers and oversized heads do not reach an engine; a path cannot climb out of its service."""
    assert httpx.get(f"{chat}/x", headers={**ALICE_HEADERS, "x_client_id": "root"}).status_code == 400
    assert httpx.get(f"{chat}/x", headers={**ALICE_HEADERS, "x-long": "x" * 20_000}).status_code == 431
    climbing = httpx.Request("GET", chat, headers=ALICE_HEADERS, extensions={"target": b"/api/predict/chat/../nobody"})
    with httpx.Client() as client:
        assert client.send(climbing).status_code == 404


def test_the_openai_client_works_unchanged(chat: str) -> None:
    """The openai package reads the gateway's errors as its own kinds."""
    import openai

    client = openai.OpenAI(base_url=f"{chat}/v1", api_key="wrong-token", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        client.completions.create(model="m", prompt="p")


def test_a_split_is_observed(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """Shares are per mille of requests: 300 of 1000 give about 30 %."""
    proxy.gateway.apply(a_state(v1, v2, lease=a_lease(canary=300)))
    with httpx.Client(base_url=f"{proxy.url}/api/predict/chat", headers=ALICE_HEADERS) as client:
        versions = [client.get("/x").headers["x-roundhouse-version"] for _ in range(600)]
    assert 120 < versions.count("2") < 240  # five standard deviations


def test_mirrored_copies_leave_records_of_their_own(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """With canary 0 and mirror 1000 each request is answered by stable and copied to the candidate, in pairs."""
    proxy.gateway.apply(a_state(v1, v2, lease=a_lease(mirror=1000)))
    with httpx.Client(base_url=f"{proxy.url}/api/predict/chat", headers=ALICE_HEADERS) as client:
        for _ in range(10):
            assert client.post("/v1/completions", json={"n": 4}).headers["x-roundhouse-version"] == "1"
    records = proxy.records(20)
    live, copies = ({r.request_id: r for r in records if r.kind == kind} for kind in ("live", "mirror"))
    assert live.keys() == copies.keys()
    assert {(r.version, r.client, r.tokens_out) for r in copies.values()} == {(2, None, 4)}
    assert {r.version for r in live.values()} == {1}


def test_a_dead_mirror_costs_the_client_nothing(proxy: Proxy, v1: Upstream, mortal) -> None:
    """Copies to a dead candidate fail in their own records only."""
    candidate = mortal(2)
    proxy.gateway.apply(a_state(v1, candidate, lease=a_lease(mirror=1000)))
    candidate.kill()
    url = f"{proxy.url}/api/predict/chat/x"
    answers = [httpx.get(url, headers=ALICE_HEADERS) for _ in range(10)]
    assert {(a.status_code, a.json()["name"]) for a in answers} == {(200, "v1")}
    failed = [r for r in proxy.records(20) if r.kind == "mirror"]
    assert {(r.status, r.arm) for r in failed} == {(503, 2)}
