"""What the records prove of splits, groups and mirrors."""

from __future__ import annotations

import random

import pytest

from gateway.copies import Copies, Way
from gateway.observed import Observer
from gateway.port import GatewayState, GroupRoute, Member, Record, ServiceRoute, Sticky, Traffic
from rollout.nouns import Lease, Mirror

NOW = 1_000_000.0


def live(i, arm=1, **fields):
    plain = dict(
        at=NOW + i / 100,
        request_id=f"r{i}",
        kind="live",
        door="chat",
        service="chat",
        route="leased",
        arm=arm,
        version=arm,
        instance=f"chat-v{arm}-0",
        client="c",
        status=200,
        flags="-",
        attempts=1,
        ttft_s=0.1,
        total_s=0.2,
        bytes_in=1,
        bytes_out=1,
        tokens_in=1,
        tokens_out=1,
        canary_permille=100,
    )
    return Record(**{**plain, **fields})


def copy(i, version=2, late_s=0.1, **fields):
    return live(i, version, kind="mirror", total_s=0.2 + late_s, **{"canary_permille": 0, **fields})


def state(canary=100, mirror=0, sticky=None, mirrors=(), groups=(), release="r1"):
    lease = Lease(2, canary, mirror, 0, 2**60, release, mirrors=mirrors)
    chat = ServiceRoute("chat", (), stable=1, lease=lease, traffic=Traffic(sticky=sticky))
    return GatewayState((chat, ServiceRoute("other", (), stable=7)), groups)


def observer(asked, copies=None):
    watching = Observer(copies)
    watching.ask(asked, {"chat": NOW - 10}, NOW - 10)
    return watching


def split(delivered, n, asked=100):
    rng = random.Random(4)
    return [live(i, 2 if rng.random() < delivered else 1, canary_permille=asked) for i in range(n)]


def test_a_split_as_asked_is_told_with_its_numbers():
    """Asked, observed, interval and count, in permille for scripts and in a sentence for people."""
    watching = observer(state())
    watching.see(split(0.1, 1000))
    seen = watching.seen(NOW).shares[0]
    assert (seen.door, seen.arm, seen.asked, seen.requests, seen.alarm) == ("chat", "v2", 100, 1000, False)
    assert seen.low < 100 < seen.high and seen.low < seen.observed < seen.high
    assert seen.text == f"asked 10 %, observed {seen.seen / 10:.3g} % of 1,000 requests: as asked"


def test_a_split_not_as_asked_raises_an_alarm():
    """10 % asked and none delivered."""
    watching = observer(state())
    watching.see(split(0.0, 200))
    seen = watching.seen(NOW)
    assert [s.alarm for s in seen.shares] == [True]
    assert "NOT as asked" in seen.alarms[0].text


def test_each_request_counts_with_the_share_that_was_in_force():
    """5 % then 50 %: each half as asked is no alarm, though the whole is neither."""
    watching = observer(state(canary=500))
    watching.see(split(0.05, 600, asked=50) + split(0.5, 600, asked=500))
    seen = watching.seen(NOW).shares[0]
    assert not seen.alarm
    assert seen.asked == 275 and "asked 50 % (27.5 % on average)" in seen.text


def test_sessions_that_stick_are_shown_without_alarm():
    """One session may be many requests, so they prove nothing; the sentence says so."""
    watching = observer(state(sticky=Sticky("token")))
    watching.see(split(0.0, 500))
    seen = watching.seen(NOW).shares[0]
    assert (seen.alarm, seen.judged) == (False, False)
    assert "sessions stick" in seen.text


def test_pins_and_earlier_requests_do_not_count():
    """Only what the split chose under this lease; pins are counted apart."""
    watching = observer(state())
    pinned = [live(i, 2, route="pinned", canary_permille=0) for i in range(50)]
    before = [live(i, 2, at=NOW - 9.5) for i in range(50)]
    watching.see([*before, *pinned])
    seen = watching.seen(NOW)
    assert seen.shares[0].requests == 0 and "no request yet" in seen.shares[0].text
    assert seen.recent == {"chat": {"v2": 50, "v2 pinned": 50}}


def test_a_new_lease_is_judged_anew():
    """The alarm belongs to its lease; a renewal of the same keeps it."""
    watching = observer(state())
    watching.see(split(0.0, 200))
    watching.ask(state(canary=200), {}, NOW)
    assert watching.seen(NOW).alarms
    watching.ask(state(release="r2"), {}, NOW)
    assert not watching.seen(NOW).alarms


@pytest.mark.parametrize(("delivered", "alarm"), [(0.25, False), (0.5, True)])
def test_members_of_a_group_get_their_weights(delivered, alarm):
    """Weights 1 and 3: a quarter is as asked, half is not; a member without weight is not judged."""
    members = (Member("chat", 1), Member("other", 3), Member("third", None))
    watching = observer(state(groups=(GroupRoute("prod", (), members),)))
    rng = random.Random(2)
    calls = (("chat", 1) if rng.random() < delivered else ("other", 7) for _ in range(800))
    watching.see(live(i, v, door="prod", route="group", service=s, at=NOW + i) for i, (s, v) in enumerate(calls))
    seen = watching.seen(NOW)
    assert [(m.arm, m.asked, m.alarm) for m in seen.members] == [("chat", 250, alarm), ("other", 750, alarm)]
    assert seen.shares[0].requests == 0


def copied(n, chance=0.1, arrives=1.0, first="live", **fields):
    """Live requests of which some are copied; the copies' records come before or after."""
    rng, records = random.Random(7), []
    for i in range(n):
        request = live(i, canary_permille=0, mirror_permille=int(chance * 1000), **fields)
        came = [copy(i)] if rng.random() < chance and rng.random() < arrives else []
        records += [request, *came] if first == "live" else [*came, request]
    return [*records, live(10**6, mirror_permille=0, canary_permille=0)]  # time goes on


@pytest.mark.parametrize("first", ["live", "copy"])
def test_copies_that_arrive_are_counted_in_either_order(first):
    """A copy's record may come before or after that of the request it is of."""
    watching = observer(state(0, 100))
    watching.see(copied(2000, first=first))
    (seen,) = watching.seen(NOW).copies
    assert (seen.source, seen.target, seen.requests, seen.expected) == ("chat", "chat v2", 2000, 200.0)
    assert not seen.alarm and 150 < seen.arrived < 250
    assert seen.text == f"200 copies of 2,000 requests expected, {seen.arrived} arrived: as asked"


@pytest.mark.parametrize("arrives", [0.0, 0.3])
def test_copies_that_do_not_arrive_raise_an_alarm(arrives):
    """None, or too few."""
    watching = observer(state(0, 100))
    watching.see(copied(1000, arrives=arrives))
    (seen,) = watching.seen(NOW).copies
    assert seen.alarm and "do NOT arrive" in seen.text


def test_copies_dropped_by_the_bound_are_explained():
    """The proxy counted them as dropped: no fault, and the sentence says what it was. A restart counts from 0."""
    watching = observer(state(0, 500))
    for totals in ({"chat": 40}, {"chat": 340, "other": 9}, {"chat": 120, "other": 9}):
        watching.dropped(totals)
    watching.see(copied(900, chance=0.5, arrives=0.1))
    (seen,) = watching.seen(NOW).copies
    assert (seen.dropped, seen.alarm) == (420, False)
    assert "420 dropped" in seen.text and "no fault" in seen.text


def test_a_copy_may_take_longer_than_its_request():
    """It is waited for, and judged neither way before it is overdue."""
    watching = observer(state(0, 1000), Copies(wait_s=10.0))
    watching.see([live(i, mirror_permille=1000) for i in range(100)])
    (seen,) = watching.seen(NOW).copies
    assert (seen.requests, seen.waiting, seen.alarm) == (0, 100, False)
    assert "100 requests wait" in seen.text
    watching.see([copy(i, late_s=8.0) for i in range(100)])
    (seen,) = watching.seen(NOW).copies
    assert (seen.requests, seen.arrived, seen.waiting) == (100, 100, 0)


def test_requests_that_are_never_copied_do_not_count():
    """Refused before the router, left by the client, WebSocket or gRPC."""
    watching = observer(state(0, 1000))
    odd = ({"attempts": 0}, {"flags": "DC"}, {"status": 101}, {"grpc_status": 0}, {"total_s": 500.0})
    watching.see(live(i, mirror_permille=1000, **fields) for i, fields in enumerate(odd))
    watching.see([live(10**6, mirror_permille=0)])
    assert watching.seen(NOW).copies == ()


def test_each_further_target_is_proven_by_itself():
    """Copies for another service's stable version, and none for the candidate."""
    watching = observer(state(0, 0, mirrors=(Mirror("other", None, 1000), Mirror("chat", 3, 1000))))
    watching.see([live(i, mirror_permille=0) for i in range(60)])
    watching.see([copy(i, 7, service="other", door="other") for i in range(60)])
    watching.see([live(10**6, attempts=0)])
    other, third = watching.seen(NOW).copies
    assert (other.target, other.arrived, other.alarm) == ("other v7", 60, False)
    assert (third.target, third.arrived, third.alarm) == ("chat v3", 0, True)


def test_memory_is_bounded_and_the_answer_stays_right():
    """More requests than there is room for: some are followed, by their id, and the share of copies is right."""
    copies = Copies(room=200)
    watching = observer(state(0, 500), copies)
    rng = random.Random(3)
    for start in range(0, 8000, 100):
        batch = [live(i, mirror_permille=500, request_id=f"r{i}") for i in range(start, start + 100)]
        watching.see(batch)
        watching.see([copy(i, request_id=f"r{i}") for i in range(start, start + 100) if rng.random() < 0.5])
    assert copies.waiting(Way("chat", "chat", 2)) <= 200
    (seen,) = watching.seen(NOW).copies
    assert not seen.alarm and 0 < seen.requests < 8000
    assert seen.arrived == pytest.approx(seen.expected, rel=0.25)
