"""A baseline: declared like stable and as large as the candidate, and only where there is room for both."""

from __future__ import annotations

from dataclasses import replace

import pytest
from history import begun, deployed, promoted

from rollout.errors import Conflict, NotFound
from rollout.nouns import Phase
from store.port import Release, ServiceState, Store, StoreSettings, open_store
from tasks.serving import declare_baseline
from tasks.ticket import Ticket


@pytest.fixture
def store() -> Store:
    """Version 1 in service with three instances."""
    store = open_store(StoreSettings("sqlite://"))
    store.put_service(ServiceState("chat"))
    promoted(store, deployed(store, instances=3))
    return store


def ticket_of(release: Release) -> Ticket:
    """What its run carries."""
    return Ticket(release.id, "chat", release.stable_before, 0)


def test_a_baseline_is_a_copy_of_the_version_in_service(store: Store) -> None:
    """Same model, engine and spec; as many instances as the candidate, warmed up alike, and no retirement."""
    release = begun(store)
    declared = declare_baseline(store, ticket_of(release), 2, 5, 77.0)
    stable, beside = store.versions("chat")
    assert (declared.number, store.release(release.id).baseline, store.release(release.id).candidate) == (2, 2, None)
    mine = {"number": 2, "instances": 2, "warm_up_requests": 5, "created_at": 77.0, "retire_at": None}
    assert beside == replace(stable, **mine)


def test_nothing_is_declared_for_a_release_that_was_ended(store: Store) -> None:
    """Nor where the version in service is gone."""
    release = begun(store)
    with pytest.raises(NotFound):
        declare_baseline(store, replace(ticket_of(release), stable=9), 1, 1, 77.0)
    store.finish_release(release.id, Phase.FAILED, "ended", 5.0, {})
    with pytest.raises(Conflict):
        declare_baseline(store, ticket_of(release), 1, 1, 77.0)
    assert [v.number for v in store.versions("chat")] == [1]
