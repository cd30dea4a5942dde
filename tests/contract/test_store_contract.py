"""Every store keeps these promises: one in memory, one in a file."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from history import begun, deployed, promoted

from rollout.errors import Conflict, NotFound, Refused
from rollout.nouns import Health, Lease, Mirror, Phase
from store.port import (
    BY_HAND,
    Event,
    Group,
    GroupMember,
    InForce,
    InstanceState,
    Observed,
    Release,
    ServiceState,
    StoreSettings,
    VersionState,
    open_store,
)


@pytest.fixture(params=["sqlite://", "file"])
def store(request, tmp_path):
    """An empty store of each kind."""
    return open_store(StoreSettings(request.param if request.param != "file" else f"sqlite:///{tmp_path / 's.db'}"))


def version(service="chat", instances=1):
    return VersionState(service, 0, "models:/m/1", {"digest": "d"}, {"kind": "llama_cpp"}, instances)


def release(name="r1", service="chat"):
    return Release(name, service, "models:/m/1", Phase.PENDING)


def lease(holder="r1", candidate=2):
    return Lease(candidate, 50, 100, 1_795_348_406_272, 1_795_348_417_272, holder)


def test_versions_are_numbered_per_service(store):
    """1, 2, 3 within each service."""
    assert [deployed(store, s) for s in ("chat", "chat", "other", "chat")] == [1, 2, 1, 3]


def test_desired_writes_grow_the_revision_and_observed_ones_do_not(store):
    """So that the agent wakes up for wishes, not for its own notes."""
    before = store.revision()
    store.put_service(ServiceState("chat"))
    after = store.revision()
    store.put_observed(Observed("chat", 1, lease(), "7", 1.0))
    store.put_instance(InstanceState("chat-v1-0", "chat", 1, 0, "127.0.0.1", 18100))
    assert before < after == store.revision()


def test_values_come_back_as_they_went_in(store):
    """Instances, observations, leases and events survive the way through SQL."""
    instance = InstanceState(
        "chat-v1-0", "chat", 1, 0, "127.0.0.1", 18100, Health.READY, 7, 2, 3.0, 4.0, "x", {"n": 1.0}
    )
    instance = replace(instance, placement={"cores": [0, 3], "gpus": ["GPU-a"]})
    store.put_instance(instance)
    store.put_observed(Observed("chat", 1, lease(), "7", 1.0))
    store.note(Event(1.0, "chat", "traffic", "stable is 1", "r1", {"a": 1}))
    assert store.instances("chat") == [instance]
    assert store.observed("chat").lease == lease()
    assert store.events("chat")[0].data == {"a": 1}


def test_only_a_running_release_may_move_traffic(store):
    """One that has ended, is unknown, or is another service's may not; and nobody may lease what is stable."""
    store.put_service(ServiceState("chat", stable=1))
    with pytest.raises(Conflict):
        store.grant(lease(), "chat", 1.0)
    store.begin_release(release(), 1.0, 60)
    store.grant(lease(), "chat", 2.0)
    assert store.leases() == {"chat": lease()}
    with pytest.raises(Conflict, match="stable already"):
        store.grant(lease(candidate=1), "chat", 2.0)
    store.finish_release("r1", Phase.ROLLED_BACK, "slow", 3.0, {})
    assert store.leases() == {}
    with pytest.raises(Conflict, match="rolled back: slow"):
        store.grant(lease(), "chat", 4.0)
    with pytest.raises(Conflict):
        store.promote("r1", 2, 9.0, "good", 4.0)
    assert store.service("chat").stable == 1


def test_a_release_moves_only_its_own_candidate(store):
    """Its lease names the version that it declared, or none is written."""
    store.put_service(ServiceState("chat"))
    release = begun(store)
    number = store.add_version(version(), release.id).number
    with pytest.raises(Conflict, match="not the candidate"):
        store.grant(lease(release.id, number + 1), "chat", 1.0)
    store.grant(lease(release.id, number), "chat", 1.0)


def test_nothing_is_declared_for_a_release_that_was_ended(store):
    """Ended while it was building: no version, so no instance that nobody would ever stop."""
    release = begun(store)
    store.finish_release(release.id, Phase.ROLLED_BACK, "by hand", 1.0, {})
    with pytest.raises(Conflict):
        store.add_version(version(), release.id)
    assert store.versions() == []


def test_ending_a_release_retires_its_candidate(store):
    """In the same transaction, whoever ends it and why, also when it fell silent; a promoted one is kept."""
    store.put_service(ServiceState("chat"))
    for end in (Phase.ROLLED_BACK, Phase.FAILED):
        release = begun(store, now=10.0)
        number = store.add_version(version(), release.id).number
        store.finish_release(release.id, end, "x", 10.0, {})
        assert store.versions("chat")[number - 1].instances == 0
    silent = begun(store, now=20.0)
    store.add_version(version(), silent.id)
    begun(store, now=200.0)
    assert [v.instances for v in store.versions("chat")] == [0, 0, 0]
    assert store.release(silent.id).phase is Phase.FAILED


def test_the_stable_version_at_the_beginning_is_noted_in_the_same_transaction(store):
    """So that a release never compares with what was stable a moment ago."""
    store.put_service(ServiceState("chat", stable=7))
    assert begun(store).stable_before == 7
    assert begun(store, "other").stable_before is None


def test_one_release_per_service_until_it_ends_or_falls_silent(store):
    """A second one is refused by name; a silent one is declared failed and makes way."""
    store.begin_release(release("r1"), 100.0, 60)
    with pytest.raises(Conflict, match="r1"):
        store.begin_release(release("r2"), 120.0, 60)
    store.begin_release(release("other", "another"), 120.0, 60)
    store.begin_release(release("r3"), 200.0, 60)
    assert store.release("r1").phase is Phase.FAILED
    with pytest.raises(Conflict):
        store.update_release("r1", stage="mirror")


def test_two_releases_at_once_begin_one(store):
    """Whatever the interleaving, one of them gets the service."""
    outcomes = []

    def begin(name):
        try:
            outcomes.append(store.begin_release(release(name), 1.0, 60).id)
        except Conflict:
            outcomes.append("refused")

    threads = [threading.Thread(target=begin, args=(f"r{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 6 and outcomes.count("refused") == 5


def test_what_is_held_by_hand_is_taken_over_by_hand_as_it_is(store):
    """The lease goes on under its new holder, the earlier one has ended and may move nothing; a release waits."""
    promoted(store, deployed(store))
    deployed(store)
    first = begun(store, stage=BY_HAND)
    store.grant(lease(first.id), "chat", 2.0)
    second = begun(store, stage=BY_HAND, now=3.0)
    assert store.leases() == {"chat": lease(second.id)}
    assert second.id in store.release(first.id).reason and not store.release(first.id).phase.active
    with pytest.raises(Conflict, match="may not move"):
        store.grant(lease(first.id), "chat", 4.0)
    with pytest.raises(Conflict, match=second.id):
        begun(store, now=5.0)
    store.finish_release(second.id, Phase.DEPLOYED, "x", 6.0, {})
    assert store.leases() == {} and store.versions("chat")[1].instances == 1


def test_promotion_is_one_transaction(store):
    """The name turns, the lease ends, the old version gets its time, the new one has none, the release has ended."""
    store.put_service(ServiceState("chat"))
    promoted(store, deployed(store))
    release = begun(store)
    candidate = store.add_version(version(), release.id).number
    store.grant(lease(release.id, candidate), "chat", 1.0)
    store.promote(release.id, candidate, 99.0, "good", 2.0)
    assert store.service("chat").stable == candidate and store.leases() == {}
    assert [v.retire_at for v in store.versions("chat")] == [99.0, None]
    assert store.release(release.id).phase is Phase.PROMOTED


def test_a_promotion_that_the_gateway_did_not_take_is_undone(store):
    """The version before is stable again and stays; the candidate goes; the release has failed."""
    store.put_service(ServiceState("chat"))
    promoted(store, deployed(store))
    release = begun(store)
    candidate = store.add_version(version(), release.id).number
    store.promote(release.id, candidate, 99.0, "good", 2.0)
    store.undo_promotion(release.id, "refused", 3.0)
    assert store.service("chat").stable == 1
    assert [(v.instances, v.retire_at) for v in store.versions("chat")] == [(1, None), (0, None)]
    assert store.release(release.id).phase is Phase.FAILED


def test_what_serves_is_never_retired(store):
    """Not the stable version, not one that holds a lease, not one before its time."""
    store.put_service(ServiceState("chat"))
    promoted(store, deployed(store))
    release = begun(store)
    candidate = store.add_version(version(), release.id).number
    store.grant(lease(release.id, candidate), "chat", 1.0)
    assert not store.retire("chat", 1) and not store.retire("chat", candidate)
    store.promote(release.id, candidate, 50.0, "good", 2.0)
    assert not store.retire("chat", 1, due_by=49.0) and store.retire("chat", 1, due_by=50.0)
    assert not store.retire("chat", 1)


def test_new_settings_of_a_service_do_not_move_its_stable_version(store):
    """Who is stable is turned by one verb only."""
    store.put_service(ServiceState("chat", stable=1))
    store.put_service(ServiceState("chat", stable=None, response_timeout_s=9.0))
    assert store.service("chat") == ServiceState("chat", 1, 9.0)


def test_a_release_beats_until_it_ends(store):
    """A beat says that the process lives; after the end it is told so."""
    store.begin_release(release(), 1.0, 60)
    assert store.beat("r1", 50.0)
    with pytest.raises(Conflict):
        store.begin_release(release("r2"), 100.0, 60)
    store.finish_release("r1", Phase.FAILED, "x", 101.0, {})
    assert not store.beat("r1", 102.0)


def test_a_delivery_is_first_once(store):
    """Webhooks are repeated by their sender; a forgotten one counts as new."""
    assert store.first_delivery("d1", 1.0) and not store.first_delivery("d1", 2.0)
    store.forget_delivery("d1")
    assert store.first_delivery("d1", 3.0)


def test_what_is_unsettled_is_told_however_old_it_is(store):
    """What runs, and what borrowed as long as an instance of its candidate is there; nothing else."""
    held = begun(store, "old", candidate=3, borrowed=1)
    store.finish_release(held.id, Phase.PROMOTED, "good", 1.0, {})
    store.put_instance(InstanceState("old-v3-0", "old", 3, 0, "127.0.0.1", 18100, Health.DRAINING))
    runs = begun(store, "busy")
    for n in range(60):
        ended = begun(store, "other", 2.0 + n, candidate=3, borrowed=1)
        store.finish_release(ended.id, Phase.FAILED, "x", 2.0 + n, {})
    assert {r.id for r in store.unsettled()} == {held.id, runs.id}
    assert next(r for r in store.unsettled() if r.id == held.id) == store.release(held.id)
    store.drop_instance("old-v3-0")
    assert [r.id for r in store.unsettled()] == [runs.id]


def test_dropping_a_service_ends_what_hangs_on_it(store):
    """Versions and lease are gone, its release has failed, its name is unknown; its numbers are not used again."""
    store.put_service(ServiceState("chat"))
    assert deployed(store) == 1
    store.begin_release(release(), 1.0, 60)
    store.drop_service("chat", 2.0)
    assert store.versions("chat") == [] and store.release("r1").phase is Phase.FAILED
    with pytest.raises(NotFound, match="chat"):
        store.service("chat")
    assert deployed(store) == 2


def test_a_lease_keeps_its_baseline_and_mirrors(store):
    """On its way through grant, leases and observed; times and shares too."""
    store.put_service(ServiceState("chat", stable=1))
    store.begin_release(release(), 1.0, 60)
    whole = replace(lease(), baseline=3, mirrors=(Mirror("other", None, 100), Mirror("chat", 4, 1)))
    store.grant(whole, "chat", 2.0)
    store.put_observed(Observed("chat", 1, whole, "7", 1.0))
    assert store.leases() == {"chat": whole} and store.observed("chat").lease == whole


def test_a_baseline_is_a_version_of_its_own(store):
    """Neither the candidate nor the stable version; what it is part of is not retired."""
    store.put_service(ServiceState("chat"))
    promoted(store, deployed(store))
    baseline = deployed(store)
    held = begun(store)
    candidate = store.add_version(version(), held.id).number
    for wrong in (1, candidate):
        with pytest.raises(Conflict, match="baseline"):
            store.grant(replace(lease(held.id, candidate), baseline=wrong), "chat", 2.0)
    assert store.leases() == {}
    store.grant(replace(lease(held.id, candidate), baseline=baseline), "chat", 2.0)
    assert not store.retire("chat", baseline)


def test_settings_of_a_service_come_back_and_a_change_is_noted(store):
    """How it is called and bounded; the same again is no change, and neither is a new service."""
    calm = ServiceState("chat", traffic={"limits": {"in_flight": 8}})
    store.put_service(calm, now=1.0)
    store.put_service(calm, now=2.0)
    assert store.service("chat") == calm and store.changes() == []
    store.put_service(replace(calm, traffic={"balance": "random"}), by="r7", now=3.0)
    (change,) = store.changes("chat")
    assert (change.at, change.kind, change.by) == (3.0, "limits", "r7")
    assert change.what == "traffic (limits, balance)"  # not their values: a key set is long
    assert change.before["traffic"] == calm.traffic and change.after["traffic"] == {"balance": "random"}


def members(*names, weight=None):
    return tuple(GroupMember(name, weight) for name in names)


def test_a_group_has_known_members_and_a_name_of_its_own(store):
    """Refused otherwise, and nothing is written; a service may not take a group's name either."""
    store.put_service(ServiceState("chat"))
    with pytest.raises(NotFound, match="nosuch"):
        store.put_group(Group("prod", members("chat", "nosuch")))
    for wrong in (Group("chat", members("chat")), Group("Prod", ()), Group("prod", members("chat", "chat"))):
        with pytest.raises(Refused):
            store.put_group(wrong)
    with pytest.raises(Refused, match="1001"):
        store.put_group(Group("prod", members("chat", weight=1001), "custom"))
    assert store.groups() == []
    good = Group("prod", members("chat"), sticky={"by": "token", "name": ""})
    store.put_group(good)
    assert store.groups() == [good] and store.group("prod") == good
    with pytest.raises(Refused, match="groups"):
        store.put_service(ServiceState("prod"))
    with pytest.raises(Refused, match="groups"):
        store.begin_release(release("r1", "prod"), 1.0, 60)
    assert store.releases() == []


def test_a_weight_is_set_for_a_member_of_a_custom_group(store):
    """Also to none, which leaves its direct calls; unknown members, and automatic weights, are refused."""
    store.put_service(ServiceState("chat"))
    store.put_service(ServiceState("other"))
    store.put_group(Group("prod", members("chat", "other")))
    with pytest.raises(Refused, match="ready instances"):
        store.set_weight("prod", "chat", 5)
    store.put_group(Group("prod", members("chat", "other", weight=1), "custom"))
    assert store.set_weight("prod", "chat", 30) == store.group("prod")
    assert [m.weight for m in store.group("prod").members] == [30, 1]
    assert [m.weight for m in store.set_weight("prod", "chat", None).members] == [None, 1]
    for group, service in (("prod", "nosuch"), ("nosuch", "chat")):
        with pytest.raises(NotFound, match="nosuch"):
            store.set_weight(group, service, 1)


def test_a_dropped_service_leaves_its_groups(store):
    """The group goes on with the others; a dropped group is unknown."""
    store.put_service(ServiceState("chat"))
    store.put_service(ServiceState("other"))
    store.put_group(Group("prod", members("chat", "other")))
    store.drop_service("chat", 2.0)
    assert store.group("prod").members == members("other")
    store.drop_group("prod")
    with pytest.raises(NotFound, match="prod"):
        store.drop_group("prod")


def test_an_instance_is_drained_by_hand_until_told_otherwise(store):
    """Known ones only; the mark goes with the instance; desired, so the revision grows."""
    with pytest.raises(NotFound, match="chat-v1-0"):
        store.drain("chat-v1-0")
    for name in ("chat-v1-0", "chat-v1-1"):
        store.put_instance(InstanceState(name, "chat", 1, 0, "127.0.0.1", 18100))
        store.drain(name)
    before = store.revision()
    assert store.drained() == {"chat-v1-0", "chat-v1-1"}
    store.undrain("chat-v1-0", now=5.0)
    store.undrain("chat-v1-0", now=6.0)
    assert store.drained() == {"chat-v1-1"} and store.revision() > before
    assert [(c.kind, c.after["draining"]) for c in store.changes("chat")] == [
        ("drain", False),
        ("drain", True),
        ("drain", True),
    ]
    store.drop_instance("chat-v1-1")
    assert store.drained() == frozenset()


def test_the_history_tells_who_got_the_traffic(store):
    """A share, no word on its renewals, the promotion with what it ended, then the way back; newest first."""
    store.put_service(ServiceState("chat"))
    promoted(store, deployed(store), now=1.0)
    held = begun(store)
    candidate = store.add_version(version(), held.id).number
    first = lease(held.id, candidate)
    store.grant(first, "chat", 2.0)
    store.grant(replace(first, until_ms=first.until_ms + 2000), "chat", 4.0)
    store.grant(replace(first, canary_permille=500), "chat", 6.0)
    store.promote(held.id, candidate, 99.0, "good", 8.0)
    promoted(store, 1, now=9.0)
    history = store.changes("chat")
    assert [(c.kind, c.at) for c in history] == [
        ("rollback", 9.0),
        ("promote", 8.0),
        ("lease", 6.0),
        ("lease", 2.0),
        ("promote", 1.0),
    ]
    _, promotion, step, start, _ = history
    assert promotion.before["lease"]["canary_permille"] == 500 and promotion.before["stable"] == 1
    assert promotion.after == {"stable": candidate, "lease": None} and promotion.by == held.id
    assert step.before == start.after and start.before == {"stable": 1, "lease": None}
    assert [c.kind for c in store.changes("chat", limit=2)] == ["rollback", "promote"]


def test_the_end_of_a_share_is_in_the_history(store):
    """Ended by hand it is a lease's end, by a failure a roll back; a release without a share leaves nothing."""
    store.put_service(ServiceState("chat", stable=1))
    for end, kind in ((Phase.DEPLOYED, "lease"), (Phase.ROLLED_BACK, "rollback")):
        held = begun(store)
        store.grant(lease(held.id), "chat", 2.0)
        store.finish_release(held.id, end, "slow", 3.0, {})
        change = store.changes()[0]
        assert change.kind == kind and "slow" in change.what and change.after == {"stable": 1, "lease": None}
    known = len(store.changes())
    store.finish_release(begun(store).id, Phase.FAILED, "x", 4.0, {})
    assert len(store.changes()) == known


def test_weights_before_and_after_are_kept(store):
    """So that a change can be undone; the same group again leaves nothing."""
    store.put_service(ServiceState("chat"))
    custom = Group("prod", members("chat", weight=1), "custom")
    store.put_group(custom, now=1.0)
    store.put_group(custom, now=2.0)
    store.set_weight("prod", "chat", 7, by="alice", now=3.0)
    store.drop_group("prod", now=4.0)
    dropped, changed, made = store.changes("prod")
    assert made.before is None and dropped.after is None and changed.by == "alice"
    assert changed.before["members"] == [{"service": "chat", "weight": 1}]
    assert changed.after["members"] == [{"service": "chat", "weight": 7}]


def test_how_far_the_gateway_has_come_is_kept(store):
    """One value, replaced."""
    assert store.in_force() is None
    store.put_in_force(InForce(3, 1, 1.0))
    store.put_in_force(InForce(4, 1_795_348_406_272_000, 2.0, "Envoy says no"))
    assert store.in_force() == InForce(4, 1_795_348_406_272_000, 2.0, "Envoy says no")


def test_a_file_is_opened_by_many_at_once(tmp_path):
    """The first opening makes the tables once, whoever comes first."""
    url, errors = f"sqlite:///{tmp_path / 'many.db'}", []

    def use():
        try:
            open_store(StoreSettings(url)).note(Event(1.0, "chat", "x", "y"))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=use) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(open_store(StoreSettings(url)).events()) == 5


def with_baseline(store):
    """A service with version 1 in service, and a running release with candidate 2 and baseline 3."""
    store.put_service(ServiceState("chat"))
    promoted(store, deployed(store))
    begun_one = begun(store)
    assert store.add_version(version(), begun_one.id).number == 2
    assert store.add_version(version(), begun_one.id, role="baseline").number == 3
    return begun_one.id


def instances_of(store):
    return {v.number: v.instances for v in store.versions("chat")}


def test_a_release_has_a_candidate_and_may_have_a_baseline(store):
    """Each is a version of its own, and its lease may name both, or the candidate alone."""
    name = with_baseline(store)
    kept = store.release(name)
    assert (kept.candidate, kept.baseline, kept.stable_before) == (2, 3, 1)
    for beside in (None, 3):
        store.grant(replace(lease(name), baseline=beside), "chat", 3.0)
        assert store.leases()["chat"].baseline == beside


def test_a_lease_names_no_other_baseline_than_the_release_s_own(store):
    """Another version of the service would be compared with in its place."""
    name = with_baseline(store)
    other = store.add_version(version(), name, role="candidate").number
    store.update_release(name, candidate=2)
    with pytest.raises(Conflict, match="not version 4"):
        store.grant(replace(lease(name), baseline=other), "chat", 3.0)


@pytest.mark.parametrize(("phase", "candidates"), [(Phase.ROLLED_BACK, 0), (Phase.FAILED, 0), (Phase.DEPLOYED, 1)])
def test_a_baseline_ends_with_its_release(store, phase, candidates):
    """However that one ends; also where it held a share at that moment."""
    name = with_baseline(store)
    store.grant(replace(lease(name), baseline=3), "chat", 3.0)
    store.finish_release(name, phase, "done", 4.0, {})
    assert instances_of(store) == {1: 1, 2: candidates, 3: 0}


def test_a_baseline_ends_with_a_promotion_too(store):
    """The version before is kept warm, the copy of it is not."""
    name = with_baseline(store)
    store.grant(replace(lease(name), baseline=3), "chat", 3.0)
    store.promote(name, 2, 99.0, "good", 4.0)
    assert instances_of(store) == {1: 1, 2: 1, 3: 0}


def test_a_baseline_ends_with_a_release_that_fell_silent_or_lost_its_service(store):
    """The next one ends it; so does the end of the service."""
    with_baseline(store)
    begun(store, now=500.0)
    assert instances_of(store) == {1: 1, 2: 0, 3: 0}
    with_baseline_again = store.releases("chat")[0].id
    assert store.add_version(version(), with_baseline_again, role="baseline").number == 4
    store.drop_service("chat", 501.0)
    assert store.versions("chat") == []


def test_a_held_baseline_is_not_retired_and_its_number_never_used_again(store):
    """While it holds a share nobody takes it out; after the service was dropped its number is still known."""
    name = with_baseline(store)
    store.grant(replace(lease(name), baseline=3), "chat", 3.0)
    assert not store.retire("chat", 3)
    store.drop_service("chat", 4.0)
    store.put_service(ServiceState("chat"))
    assert deployed(store, now=5.0) == 4


def test_room_is_lent_until_the_baseline_is_gone_too(store):
    """A release that borrowed is unsettled while instances of its candidate or its baseline are there."""
    name = with_baseline(store)
    store.update_release(name, borrowed=1)
    for number in (2, 3):
        store.put_instance(InstanceState(f"chat-v{number}-0", "chat", number, 0, "127.0.0.1", 18100 + number))
    store.finish_release(name, Phase.ROLLED_BACK, "bad", 4.0, {})
    for instance, unsettled in (("chat-v2-0", [name]), ("chat-v3-0", [])):
        store.drop_instance(instance)
        assert [r.id for r in store.unsettled()] == unsettled


def test_a_person_is_asked_and_answers(store):
    """Who said what to which question stays with the release and in its events; then nothing is asked any more."""
    name = begun(store).id
    store.ask(name, "Promote?", "last: approval")
    asked = store.release(name)
    assert (asked.waiting, asked.waiting_key, asked.asked, asked.answer) == ("Promote?", "last: approval", 1, None)
    told = store.answer(name, True, "alice", "looks right", 1, now=7.0)
    answer = {"number": 1, "key": "last: approval", "question": "Promote?"}
    answer |= {"yes": True, "who": "alice", "reason": "looks right", "at": 7.0}
    assert (told.waiting, told.waiting_key, told.answer) == ("", "", answer)
    assert [(e.kind, e.release) for e in store.events("chat")] == [("answer", name), ("question", name)]
    with pytest.raises(Conflict, match="asks nothing"):
        store.answer(name, False, "bob", "", 1)


def test_asking_again_forgets_no_answer_and_another_question_does(store):
    """A task that was started again asks the same with other numbers; a later stage asks something else."""
    name = begun(store).id
    store.ask(name, "Go on after 40?", "one: idle")
    assert store.ask(name, "Go on after 41?", "one: idle").waiting == "Go on after 40?"
    store.answer(name, True, "alice", "", 1)
    assert store.ask(name, "Go on after 42?", "one: idle").answer["yes"] is True
    asked = store.ask(name, "Promote?", "two: approval")
    assert (asked.waiting, asked.asked, asked.answer) == ("Promote?", 2, None)
    with pytest.raises(Conflict, match=r"question 2: Promote\?"):
        store.answer(name, True, "alice", "", 1)
    assert len(store.events("chat")) == 3


def test_a_question_that_has_passed_is_withdrawn(store):
    """Nobody answers it any more; what somebody said just before is told, once. The next question is another one."""
    name = begun(store).id
    assert store.withdraw(name) is None
    store.ask(name, "Nobody calls. Go on?", "one: idle")
    assert store.withdraw(name) is None
    with pytest.raises(Conflict, match="asks nothing"):
        store.answer(name, True, "alice", "", 1)
    store.ask(name, "Nobody calls. Go on?", "one: idle")
    store.answer(name, False, "alice", "", 2)
    assert store.withdraw(name)["yes"] is False
    assert store.withdraw(name) is None
    assert [e.kind for e in store.events("chat")] == ["answer", "question", "withdrawn", "question"]


def test_nobody_is_asked_by_a_release_that_has_ended(store):
    """Its question ends with it, and an answer comes too late."""
    name = begun(store).id
    store.ask(name, "Promote?", "last: approval")
    store.finish_release(name, Phase.ROLLED_BACK, "slow", 4.0, {})
    assert store.release(name).waiting == ""
    late_answers = (lambda: store.ask(name, "Promote?", "last: approval"), lambda: store.answer(name, True, "a", "", 1))
    for late in (*late_answers, lambda: store.withdraw(name)):
        with pytest.raises(Conflict, match="has ended"):
            late()
    with pytest.raises(NotFound):
        store.answer("nobody", True, "alice", "", 1)
