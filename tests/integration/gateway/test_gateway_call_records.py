"""Call records through a real Envoy and the real recorder: who is recorded, what is kept, and who is never harmed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import httpx
import psutil
import pytest
from running_envoy import ALICE, ALICE_HEADERS, Proxy, Upstream, a_lease, a_state, until

from gateway.calls import CallRecord, calls_folder, last_calls
from gateway.port import CallRecords, Cursor, GatewayState, GroupRoute, Member, ServiceRoute, Token, Traffic
from gateway.recorder import keep_recorder
from gateway.tap import sampled
from rollout.nouns import Lease

ASK = {"n": 2, "prompt": "What is the capital?", "password": "hunter2"}


@pytest.fixture
def recorder(proxy: Proxy) -> Iterator[threading.Event]:
    """The recorder as the agent runs it; set the event to end it."""
    stop = threading.Event()
    thread = threading.Thread(target=keep_recorder, args=(proxy.settings, stop))
    thread.start()
    yield stop
    stop.set()
    thread.join()


def a_recorded(*upstreams: Upstream, lease: Lease | None = None, **wish: object) -> GatewayState:
    """``chat`` with call records of everything."""
    return a_state(*upstreams, lease=lease, traffic=Traffic(call_records=CallRecords(**wish)))  # type: ignore[arg-type]


def ask(proxy: Proxy, door: str = "chat", path: str = "v1/completions", **more: object) -> httpx.Response:
    """One call, with things in its head that must not be kept."""
    headers = {**ALICE_HEADERS, "cookie": "session=crumbs", "x-api-key": "key-in-a-header"}
    call = {"json": ASK, "headers": headers, "timeout": 10, **more}
    return httpx.post(f"{proxy.url}/api/predict/{door}/{path}", **call)  # type: ignore[arg-type]


def recorded(proxy: Proxy, service: str = "chat") -> list[CallRecord]:
    """All that was kept of a service so far."""
    return last_calls(calls_folder(proxy.settings), service, 100_000)


def recorders() -> list[psutil.Process]:
    """The running processes that record; one that has just ended has no command line any more."""
    running = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            running += [child] if "gateway.recorder" in child.cmdline() else []
    return running


def begin(proxy: Proxy) -> None:
    """Call until a call is recorded: the tap is then held."""
    until(lambda: ask(proxy).status_code == 200 and bool(recorded(proxy)), 20)


def record_for(proxy: Proxy, answer: httpx.Response, kind: str = "live") -> CallRecord:
    """The record of an answered call, once it is written."""
    return records_for(proxy, [answer], kind)[0]


def records_for(proxy: Proxy, answers: list[httpx.Response], kind: str = "live") -> list[CallRecord]:
    """The records of answered calls, once all are written."""
    ids, found = [a.headers["x-request-id"] for a in answers], dict[str, CallRecord]()

    def all_there() -> bool:
        found.update({r.request_id: r for r in recorded(proxy) if r.kind == kind})
        return all(i in found for i in ids)

    until(all_there)
    return [found[i] for i in ids]


def test_a_call_is_kept_with_both_bodies_and_no_secret(proxy: Proxy, v1: Upstream, recorder: threading.Event) -> None:
    """Bodies, who asked and who served; its id is that of its record; no token, cookie, key or query on the disk."""
    proxy.gateway.apply(a_recorded(v1))
    begin(proxy)
    answer = ask(proxy, path="v1/completions?key=in-the-query")
    kept = record_for(proxy, answer)
    assert (kept.door, kept.service, kept.client, kept.version, kept.status) == ("chat", "chat", "alice", 1, 200)
    assert kept.request.text is not None and json.loads(kept.request.text) == ASK
    assert kept.answer.text == answer.text and kept.path == "/v1/completions"
    assert kept.instance == "chat-v1-0"
    until(lambda: kept.request_id in {r.request_id for r in proxy.gateway.records(Cursor())[0]})
    for file in calls_folder(proxy.settings).iterdir():
        for secret in (ALICE.secret, "crumbs", "key-in-a-header", "in-the-query"):
            assert secret.encode() not in file.read_bytes()


def test_only_the_services_that_ask_for_it_are_recorded(
    proxy: Proxy, v1: Upstream, v2: Upstream, recorder: threading.Event
) -> None:
    """A service whose name begins like the recorded one's leaves nothing, and neither does a call without a token."""
    state = a_recorded(v1)
    other = ServiceRoute("chat2", (Token("alice", "token-of-alice-2"),), (v2.backend(),), 2)
    proxy.gateway.apply(replace(state, services=(*state.services, other)))
    begin(proxy)
    unseen = ask(proxy, "chat2", headers={"Authorization": "Bearer token-of-alice-2", "x-roundhouse-mirror": "chat@v1"})
    refused = ask(proxy, headers={})
    assert (unseen.status_code, refused.status_code) == (200, 401)
    record_for(proxy, ask(proxy))
    ids = {r.request_id for r in recorded(proxy)}
    assert unseen.headers["x-request-id"] not in ids and refused.headers.get("x-request-id") not in ids
    assert {f.name for f in calls_folder(proxy.settings).iterdir()} == {"chat.jsonl"}


def test_answers_to_copies_are_kept_too(proxy: Proxy, v1: Upstream, v2: Upstream, recorder: threading.Event) -> None:
    """What nobody else sees: the candidate's answer to a copy, under the live request's id."""
    proxy.gateway.apply(a_recorded(v1, v2, lease=a_lease(mirror=1000)))
    begin(proxy)
    answer = ask(proxy)
    live, copy = record_for(proxy, answer), record_for(proxy, answer, "mirror")
    assert (live.version, copy.version) == (1, 2) and live.request == copy.request
    assert '"name": "v2"' in (copy.answer.text or "") and copy.client == ""


def test_a_call_of_a_group_is_kept_by_the_member_that_served_it(
    proxy: Proxy, v1: Upstream, recorder: threading.Event
) -> None:
    """The door is the group; the file is the member's."""
    state = a_recorded(v1)
    group = GroupRoute("prod", (Token("bob", "token-of-bob"),), (Member("chat", 100),))
    proxy.gateway.apply(replace(state, groups=(group,)))
    begin(proxy)
    kept = record_for(proxy, ask(proxy, "prod", headers={"Authorization": "Bearer token-of-bob"}))
    assert (kept.door, kept.service, kept.client, kept.version) == ("prod", "chat", "bob", 1)


def test_rules_hold_for_documents_and_streams(proxy: Proxy, v1: Upstream, recorder: threading.Event) -> None:
    """Fields in requests and in each event of a stream; what is no document is left out."""
    proxy.gateway.apply(a_recorded(v1, redact=("password", "token", "/capital/")))
    begin(proxy)
    stream = record_for(proxy, ask(proxy, json={**ASK, "stream": True}))
    plain = record_for(proxy, ask(proxy, path="echo", json=None, content="password=hunter2"))
    assert plain.request.text is None and "fields" in plain.request.left_out
    assert "hunter2" not in (stream.request.text or "") and "What is the ***?" in (stream.request.text or "")
    events = [e for e in (stream.answer.text or "").split("\n\n") if e]
    assert len(events) == 3 and '"token": "***"' in events[0] and events[2] == "data: [DONE]"


def test_the_bound_on_bodies_holds(proxy: Proxy, v1: Upstream, recorder: threading.Event) -> None:
    """What is longer is cut and marked, the length is told; bytes that are no text survive."""
    proxy.gateway.apply(a_recorded(v1, max_body_bytes=100))
    begin(proxy)
    kept = record_for(proxy, ask(proxy, json=None, content="x" * 5000, path="echo"))
    assert (len(kept.request.text or ""), kept.request.cut, kept.request.bytes) == (100, True, 5000)
    assert record_for(proxy, ask(proxy, json=None, content=b"\xff\xfe", path="echo")).request.base64


def test_the_share_chooses_by_the_id(proxy: Proxy, v1: Upstream, recorder: threading.Event) -> None:
    """At 40 percent just those are kept whose id says so, the same ones in Envoy and in the recorder."""
    proxy.gateway.apply(a_recorded(v1, percent=40.0))
    begin(proxy)
    ids = [ask(proxy).headers["x-request-id"] for _ in range(60)]
    chosen = {i for i in ids if sampled(i, 40.0)}
    until(lambda: chosen <= {r.request_id for r in recorded(proxy)})
    assert 0 < len(chosen) < 60 and {r.request_id for r in recorded(proxy)} & set(ids) == chosen


def test_no_request_notices_that_the_recorder_dies(proxy: Proxy, v1: Upstream, recorder: threading.Event) -> None:
    """Killed amid load it comes back by itself and records again; all requests are answered."""
    proxy.gateway.apply(a_recorded(v1))
    begin(proxy)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, proxy) for _ in range(200)]
        children = recorders()
        for child in children:
            child.kill()
        assert len(children) == 1 and {a.result().status_code for a in asked} == {200}
    before = {r.request_id for r in recorded(proxy)}
    until(lambda: ask(proxy).status_code == 200 and bool({r.request_id for r in recorded(proxy)} - before), 20)


def test_the_recorder_outlives_a_restart_of_envoy(proxy: Proxy, v1: Upstream, recorder: threading.Event) -> None:
    """It holds the tap of the new one without being told."""
    proxy.gateway.apply(a_recorded(v1))
    begin(proxy)
    proxy.kill()
    proxy.start()
    before = {r.request_id for r in recorded(proxy)}
    until(lambda: ask(proxy).status_code == 200 and bool({r.request_id for r in recorded(proxy)} - before), 20)


def test_switched_off_it_stops_at_once(proxy: Proxy, v1: Upstream, recorder: threading.Event) -> None:
    """A state without the wish: nothing more is kept, and the recorder's process goes."""
    proxy.gateway.apply(a_recorded(v1))
    begin(proxy)
    proxy.gateway.apply(a_state(v1))
    until(lambda: not recorders())
    before = len(recorded(proxy))
    assert ask(proxy).status_code == 200 and len(recorded(proxy)) == before
