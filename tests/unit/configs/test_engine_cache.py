"""Which engines a store needs: of versions that run, may get traffic, or are what a rollback returns to."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
from history import ENGINE, begun, promoted
from pydantic import ValidationError

from configs.engine_cache import in_use
from configs.stack import EngineRemoteFile, Stack
from engines.port import EngineSpec
from rollout.nouns import Lease, Phase
from store.port import ServiceState, Store, StoreSettings, VersionState, open_store


@pytest.fixture
def store() -> Store:
    store = open_store(StoreSettings("sqlite://"))
    store.put_service(ServiceState("chat"))
    return store


def _version(store: Store, digest: str, release: str, instances: int = 1) -> int:
    engine = asdict(replace(ENGINE, digest=digest))
    wanted = VersionState("chat", 0, "models:/m/1", engine, asdict(EngineSpec()), instances)
    return store.add_version(wanted, release).number


def _ended(store: Store, digest: str) -> int:
    """A version that stands by, with one instance."""
    release = begun(store)
    number = _version(store, digest, release.id)
    store.finish_release(release.id, Phase.DEPLOYED, "stands by", 1.0, {})
    return number


def test_an_empty_store_needs_none(store: Store) -> None:
    """Neither does a service without versions."""
    assert in_use(store) == {}


def test_the_version_in_service_and_the_one_before_are_needed(store: Store) -> None:
    """Also when the one before has no instances any more: a rollback starts it again."""
    for digest in ("one", "two", "three"):
        promoted(store, _ended(store, digest), retire_at=1.0)
    for number in (1, 2):
        store.scale("chat", number, 0)
    assert in_use(store) == {"three": "chat v3 is in service", "two": "chat v2 is what a rollback returns to"}


def test_a_candidate_is_needed_before_and_while_it_has_traffic(store: Store) -> None:
    """From the moment its version is declared; its lease is the stronger reason."""
    release = begun(store)
    number = _version(store, "new", release.id, instances=0)
    assert in_use(store) == {"new": "chat v1 is being released"}
    store.grant(Lease(number, 50, 0, 0, 10_000, release.id), "chat", 2.0)
    assert in_use(store) == {"new": "chat v1 is the candidate"}


def test_a_version_with_instances_is_needed_and_a_retired_one_is_not(store: Store) -> None:
    """Standing by is enough."""
    number = _ended(store, "beside")
    assert in_use(store) == {"beside": "chat v1 has instances"}
    store.retire("chat", number)
    assert in_use(store) == {}


def test_a_remote_is_a_folder_of_the_project_or_an_address() -> None:
    """A path counts from the project; addresses stay as they are."""
    stack = Stack(project=Path("/p"), home=Path("/h"))
    assert stack.remote() is None
    for given, url in (("shared", "/p/shared"), ("/mnt/e", "/mnt/e"), ("s3://bucket/e", "s3://bucket/e")):
        remote = stack.model_copy(update={"engine_remote": EngineRemoteFile(url=given)}).remote()
        assert remote is not None and remote.url == url


def test_an_address_with_a_password_is_refused() -> None:
    """It would be written into logs and records."""
    with pytest.raises(ValidationError, match="holds no password"):
        EngineRemoteFile(url="https://me:secret@storage/engines")
    assert EngineRemoteFile(url="ssh://me@storage/engines").url == "ssh://me@storage/engines"
