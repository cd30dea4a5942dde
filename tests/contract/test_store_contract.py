"""Every store keeps these promises: one in memory, one in a file."""

from __future__ import annotations

import threading

import pytest

from rollout.errors import Conflict, NotFound
from rollout.nouns import Health, Lease, Phase
from store.port import Event, InstanceState, Observed, Release, ServiceState, StoreSettings, VersionState, open_store


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
    assert [store.add_version(version(s)).number for s in ("chat", "chat", "other", "chat")] == [1, 2, 1, 3]


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
    store.put_instance(instance)
    store.put_observed(Observed("chat", 1, lease(), "7", 1.0))
    store.note(Event(1.0, "chat", "traffic", "stable is 1", "r1", {"a": 1}))
    assert store.instances("chat") == [instance]
    assert store.observed("chat").lease == lease()
    assert store.events("chat")[0].data == {"a": 1}


def test_only_a_running_release_may_hold_a_lease(store):
    """A release that has ended, is unknown, or is another service's may not move traffic."""
    store.put_service(ServiceState("chat", stable=1))
    with pytest.raises(Conflict):
        store.grant(lease(), "chat", 1.0)
    store.begin_release(release(), 1.0, 60)
    store.grant(lease(), "chat", 2.0)
    assert store.leases() == {"chat": lease()}
    store.finish_release("r1", Phase.ROLLED_BACK, "slow", 3.0, {})
    assert store.leases() == {}
    with pytest.raises(Conflict, match="rolled back: slow"):
        store.grant(lease(), "chat", 4.0)
    with pytest.raises(Conflict):
        store.set_stable("chat", 2, "r1")


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


def test_promotion_ends_the_lease_and_keeps_the_version(store):
    """The stable name turns and the lease is gone in the same transaction; the promoted one is not retired."""
    store.put_service(ServiceState("chat", stable=1))
    store.add_version(version())
    store.scale("chat", 1, 1, retire_at=50.0)
    store.begin_release(release(), 1.0, 60)
    store.grant(lease(), "chat", 1.0)
    store.set_stable("chat", 1, "r1")
    assert store.service("chat").stable == 1 and store.leases() == {}
    assert store.versions("chat")[0].retire_at is None


def test_promotion_retires_the_version_before_at_the_time_given(store):
    """In the same transaction, so that no crash can leave it running for ever."""
    store.put_service(ServiceState("chat", stable=1))
    store.add_version(version())
    store.add_version(version())
    store.set_stable("chat", 2, None, retire_at=99.0)
    assert [v.retire_at for v in store.versions("chat")] == [99.0, None]


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


def test_dropping_a_service_ends_what_hangs_on_it(store):
    """Versions and lease are gone, its release has failed, its name is unknown."""
    store.put_service(ServiceState("chat"))
    store.add_version(version())
    store.begin_release(release(), 1.0, 60)
    store.drop_service("chat", 2.0)
    assert store.versions("chat") == [] and store.release("r1").phase is Phase.FAILED
    with pytest.raises(NotFound, match="chat"):
        store.service("chat")


def test_a_file_is_opened_by_many_at_once(tmp_path):
    """The first opening makes the tables once, whoever comes first."""
    url, errors = f"sqlite:///{tmp_path / 'many.db'}", []

    def use():
        try:
            open_store(StoreSettings(url)).add_version(version())
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=use) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [v.number for v in open_store(StoreSettings(url)).versions()] == [1, 2, 3, 4, 5]
