"""What releases leave in a store, in one call each, for tests that begin where a release has ended."""

from __future__ import annotations

from dataclasses import asdict
from itertools import count

from engines.port import EngineSpec
from gateway.port import Record
from rollout.nouns import Engine, Phase
from store.port import Release, Store, VersionState

_ids = count(1)
ENGINE = Engine("llama_cpp", "d" * 64, "/e", "m", 1, 0.0, False)
GOOD = Record(
    at=10.0,
    request_id="r",
    kind="live",
    door="chat",
    service="chat",
    route="leased",
    arm=1,
    version=1,
    instance="chat-v1-0",
    client="c",
    status=200,
    flags="-",
    attempts=1,
    ttft_s=0.1,
    total_s=0.4,
    bytes_in=1,
    bytes_out=1,
    tokens_in=4,
    tokens_out=16,
)


def begun(store: Store, service: str = "chat", now: float = 1.0, **fields: object) -> Release:
    """A release that runs."""
    wanted = Release(f"past-{next(_ids)}", service, "models:/m/1", Phase.PENDING, **fields)
    return store.begin_release(wanted, now, 60.0)


def deployed(store: Store, service: str = "chat", instances: int = 1, now: float = 1.0) -> int:
    """A version that stands by; its number."""
    release = begun(store, service, now)
    wanted = VersionState(service, 0, "models:/m/1", asdict(ENGINE), asdict(EngineSpec()), instances)
    number = store.add_version(wanted, release.id).number
    store.finish_release(release.id, Phase.DEPLOYED, "stands by", now, {})
    return number


def promoted(store: Store, number: int, service: str = "chat", now: float = 1.0, retire_at: float = 1e12) -> int:
    """That version in service; its number."""
    store.promote(begun(store, service, now).id, number, retire_at, "good", now)
    return number
