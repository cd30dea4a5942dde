"""Changes of a running gateway: confirmed, refused, ended, survived."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path

import httpx
import pytest
from running_envoy import ALICE, ALICE_HEADERS, Proxy, Upstream, a_lease, a_state, in_time, until

from gateway import files, saved
from gateway.admin import Admin
from gateway.port import Backend, Cursor, Endpoint, GatewayRefused, GatewayState
from gateway.push import Push
from gateway.records import rotate
from gateway.render import RDS, Layout, render
from rollout.errors import Refused, Unavailable
from rollout.nouns import Lease, Split


def served_by(proxy: Proxy) -> str | None:
    """The version that answers a request now."""
    answer = httpx.get(f"{proxy.url}/api/predict/chat/x", headers=ALICE_HEADERS)
    assert answer.status_code == 200
    return answer.headers["x-roundhouse-version"]


def test_a_lease_ends_with_nobody_alive(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """Requests that start before the lease's end go to the candidate, all later ones to stable; nothing is changed."""
    proxy.gateway.apply(a_state(v1, v2))
    with httpx.Client(base_url=f"{proxy.url}/api/predict/chat", headers=ALICE_HEADERS) as client:

        def granted(seconds: float) -> Lease:
            lease = a_lease(canary=1000, mirror=1000, seconds=seconds)
            proxy.gateway.apply(a_state(v1, v2, lease=lease))
            return lease

        def asked() -> str:
            return client.get("/x").raise_for_status().headers["x-request-id"]

        def asked_of_the_candidate() -> str:
            until(lambda: client.get("/x").headers["x-roundhouse-version"] == "2")
            return asked()

        lease, first = in_time(granted, asked_of_the_candidate)
        ids = [first]
        while time.time() * 1000 <= lease.until_ms:
            ids.append(asked())
        ids += [asked() for _ in range(10)]
    until(lambda: ids[-1] in {r.request_id for r in proxy.gateway.records(Cursor())[0]})
    records = [r for r in proxy.gateway.records(Cursor())[0] if r.request_id in ids]
    before = {r.version for r in records if r.kind == "live" and r.at * 1000 < lease.until_ms - 1}
    late = {r.request_id for r in records if r.kind == "live" and r.at * 1000 > lease.until_ms + 1}
    after = {(r.kind, r.version) for r in records if r.request_id in late}
    assert before == {2}
    assert after == {("live", 1)}
    assert proxy.gateway.read() == {"chat": Split("chat", 1, None)}


def test_numbers_change_without_the_binary(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """Beginning, changing and ending a lease is no structural change; what is read back is what was asked."""
    gateway = proxy.gateway
    assert gateway.apply(a_state(v1, v2)).structural
    for canary, mirror in ((10, 0), (500, 1000), (1000, 1)):
        lease = a_lease(canary=canary, mirror=mirror)
        assert not gateway.apply(a_state(v1, v2, lease=lease)).structural
        assert gateway.read() == {"chat": Split("chat", 1, lease)}
    until(lambda: served_by(proxy) == "2")
    assert not gateway.apply(a_state(v1, v2)).structural
    until(lambda: served_by(proxy) == "1")


def test_promotion_is_one_change(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """Stable turns from one version to the other, and the old version's cluster goes when nothing needs it."""
    proxy.gateway.apply(a_state(v1, v2, lease=a_lease(canary=500)))
    proxy.gateway.apply(a_state(v2, v1))
    until(lambda: served_by(proxy) == "2")
    proxy.gateway.apply(a_state(v2))
    assert proxy.gateway.read() == {"chat": Split("chat", 2, None)}
    assert list(proxy.gateway.in_flight("chat", 1)) == []
    assert not (Layout.of(proxy.settings).xds / "eds-chat@v1.json").exists()


def test_a_confirmed_instance_takes_requests_at_once(proxy: Proxy, v1: Upstream) -> None:
    """When a change is confirmed that brings an instance back, each worker of Envoy knows that it is healthy."""
    gone = dataclasses.replace(a_state(v1).services[0], backends=(Backend(1, ()),))
    for _ in range(3):
        proxy.gateway.apply(GatewayState((gone,)))
        assert httpx.get(f"{proxy.url}/api/predict/chat/x", headers=ALICE_HEADERS).status_code == 503
        proxy.gateway.apply(a_state(v1))
        assert [served_by(proxy) for _ in range(5)] == ["1"] * 5


def test_our_rules_refuse_before_anything_changes(proxy: Proxy, v1: Upstream) -> None:
    """A state that breaks a rule is refused with the field, and the files stay as they are."""
    proxy.gateway.apply(a_state(v1))
    before = _files(proxy)
    with pytest.raises(Refused, match="candidate"):
        proxy.gateway.apply(a_state(v1, lease=a_lease(candidate=9)))
    assert _files(proxy) == before


def test_the_binary_refuses_before_anything_changes(proxy: Proxy, v1: Upstream) -> None:
    """What only Envoy knows to be wrong is refused with Envoy's reason, and the files stay as they are."""
    proxy.gateway.apply(a_state(v1))
    before = _files(proxy)
    scoped = Backend(2, (Endpoint("chat-v2-0", "fe80::1%nowhere", 18100),))
    (service,) = a_state(v1).services
    with pytest.raises(GatewayRefused, match="fe80::1%nowhere"):
        proxy.gateway.apply(GatewayState((dataclasses.replace(service, backends=(*service.backends, scoped)),)))
    assert _files(proxy) == before
    assert served_by(proxy) == "1"


def test_a_rejected_push_is_undone(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """A file that the running Envoy rejects is an error with its reason; the old files and routes are in force."""
    proxy.gateway.apply(a_state(v1))
    before = _files(proxy)
    layout = Layout.of(proxy.settings)
    broken = render(a_state(v1, v2, body_limit_bytes=7), proxy.settings, "broken")
    broken[RDS]["resources"][0]["virtual_hosts"][0]["routes"][1]["route"]["cluster"] = "nobody"
    push = Push(layout, [Admin(layout.admin)], timeout_s=30)
    with pytest.raises(GatewayRefused, match="unknown cluster 'nobody'"):
        push.make(broken)
    push.undo()
    assert _files(proxy) == before
    assert served_by(proxy) == "1"
    assert list(proxy.gateway.in_flight("chat", 2)) == []


def test_a_push_that_died_half_way_is_made_good(proxy: Proxy, v1: Upstream) -> None:
    """Files that a killed writer left, which Envoy rejected or never saw, are not taken for confirmed ones."""
    proxy.gateway.apply(a_state(v1))
    rds = Layout.of(proxy.settings).xds / RDS
    wanted = files.parsed(files.read(rds))
    rds.write_bytes(files.as_json({**wanted, "version_info": "never-seen"}))
    revision = proxy.gateway.apply(a_state(v1)).revision
    assert files.parsed(files.read(rds))["version_info"] == revision


@pytest.mark.parametrize("name", ["empty", "canary", "everything"])
def test_golden_states_are_valid_to_envoy(proxy: Proxy, name: str) -> None:
    """The binary accepts what the golden files hold."""
    golden = Path(__file__).parents[2] / "golden" / "gateway" / f"{name}.in.json"
    held = saved.from_json(files.parsed(golden.read_bytes()))
    assert held is not None
    assert proxy.gateway.apply(held.state).structural


def test_envoy_comes_back_alone(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """Killed and started again Envoy serves the last confirmed state, lease included, with no help of ours."""
    lease = a_lease(canary=1000)
    proxy.gateway.apply(a_state(v1, v2, lease=lease))
    proxy.kill()
    proxy.start()
    until(lambda: served_by(proxy) == "2")
    assert proxy.gateway.read() == {"chat": Split("chat", 1, lease)}
    assert not proxy.gateway.apply(a_state(v1, v2)).structural


def test_without_envoy_nothing_is_written(proxy: Proxy, v1: Upstream) -> None:
    """While Envoy is down a change is Unavailable, and Envoy comes back with the state before it."""
    proxy.gateway.apply(a_state(v1))
    before = _files(proxy)
    proxy.kill()
    with pytest.raises(Unavailable):
        proxy.gateway.apply(a_state())
    with pytest.raises(Unavailable):
        proxy.gateway.read()
    assert _files(proxy) == before


def test_two_writers_take_turns(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """Changes from several threads at once all succeed, and Envoy ends with the one that was confirmed last."""
    proxy.gateway.apply(a_state(v1, v2))
    threads = [threading.Thread(target=_many_leases, args=(proxy, v1, v2, canary)) for canary in (100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    confirmed = proxy.gateway.confirmed()
    assert confirmed is not None
    assert proxy.gateway.read()["chat"].lease == confirmed.services[0].lease


def test_a_draining_instance_finishes_its_streams(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """A draining instance gets no new request, and in_flight says when its last stream is done."""
    first, second = v1.backend().endpoints[0], dataclasses.replace(v2.backend().endpoints[0], instance="chat-v1-1")
    (service,) = a_state(v1, response_timeout_s=60).services
    proxy.gateway.apply(GatewayState((dataclasses.replace(service, backends=(Backend(1, (first,)),)),)))
    url = f"{proxy.url}/api/predict/chat"
    ask = {"stream": True, "n": 12, "gate": "draining"}
    with httpx.stream("POST", f"{url}/v1/completions", json=ask, headers=ALICE_HEADERS, timeout=60) as stream:
        drained = Backend(1, (dataclasses.replace(first, draining=True), second))
        proxy.gateway.apply(GatewayState((dataclasses.replace(service, backends=(drained,)),)))
        assert dict(proxy.gateway.in_flight("chat", 1)) == {"chat-v1-0": 1, "chat-v1-1": 0}
        assert {httpx.get(f"{url}/x", headers=ALICE_HEADERS).json()["name"] for _ in range(10)} == {"v2"}
        v1.open("draining", 12)
        events = [line for line in stream.iter_lines() if line]
        assert (len(events), events[-1]) == (13, "data: [DONE]")
    until(lambda: dict(proxy.gateway.in_flight("chat", 1)) == {"chat-v1-0": 0, "chat-v1-1": 0})


def test_records_are_read_on_over_a_rotation(proxy: Proxy, v1: Upstream) -> None:
    """Turning the log over loses no record and repeats none; old files are bounded in number."""
    proxy.gateway.apply(a_state(v1))
    ids, seen, cursor = [], [], Cursor()
    with httpx.Client(base_url=f"{proxy.url}/api/predict/chat", headers=ALICE_HEADERS) as client:
        for i in range(40):
            ids.append(client.get("/x").headers["x-request-id"])
            if i % 10 == 9:
                until(lambda: Layout.of(proxy.settings).records.stat().st_size > 0)
                assert rotate(proxy.settings, max_bytes=1, keep=2)
                records, cursor = proxy.gateway.records(cursor)
                seen += records
    until(lambda: _read_more(proxy, seen, cursor) >= 40)
    assert sorted(r.request_id for r in seen) == sorted(ids)
    assert len(list(Layout.of(proxy.settings).run.glob("records-*.log"))) == 2


def test_secrets_lie_in_private_files_only(proxy: Proxy, v1: Upstream) -> None:
    """Each file that holds a token is readable by its owner alone; no log holds one."""
    proxy.gateway.apply(a_state(v1))
    served_by(proxy)
    proxy.records(1)
    holding = [p for p in Layout.of(proxy.settings).root.rglob("*") if p.is_file() and ALICE.secret in p.read_text()]
    assert {p.name for p in holding} == {"ecds-auth.json"}
    assert {p.stat().st_mode & 0o777 for p in holding} == {0o600}


def _many_leases(proxy: Proxy, v1: Upstream, v2: Upstream, canary: int) -> None:
    gateway = proxy.gateway
    for i in range(10):
        gateway.apply(a_state(v1, v2, lease=a_lease(canary=canary + i)))


def _read_more(proxy: Proxy, seen: list, cursor: Cursor) -> int:
    return len(seen) + len(proxy.gateway.records(cursor)[0])


def _files(proxy: Proxy) -> dict[str, bytes | None]:
    return {path.name: files.read(path) for path in Layout.of(proxy.settings).xds.iterdir()}
