"""Which of the engines kept on this machine must stay, and the bound on what they take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from configs.stack import Stack
from engines.shelf import IDLE_S as IDLE_S
from engines.shelf import Fate, choose, collect, entries
from rollout.errors import NotFound
from rollout.nouns import Health, Lease
from store.port import ServiceState, Store, VersionState, open_store
from store.steer import earlier_version


def in_use(store: Store) -> dict[str, str]:
    """Digests of the engines that run, hold a lease, or are what a rollback returns to, each with why."""
    leases = store.leases()
    found: dict[str, str] = {}
    for service in store.services():
        versions = {version.number: version for version in store.versions(service.name)}
        for number, why in _needed(store, service, versions, leases.get(service.name)):
            if number in versions:
                found.setdefault(str(versions[number].engine.get("digest", "")), f"{service.name} v{number} {why}")
    return {digest: why for digest, why in found.items() if digest}


def tidy(stack: Stack, tell: Callable[[str], None], spare: Mapping[str, str]) -> list[Fate]:
    """Remove the engines used longest ago until the rest is within ``engine_cache_gb``. ``spare``: digests that stay
    besides, with why."""
    bound = int(stack.engine_cache_gb * 1e9)
    root = Path(stack.engines().directory)
    if sum(entry.own_bytes for entry in entries(root)) <= bound:
        return []
    fates = collect(root, {**in_use(open_store(stack.store())), **spare}, bound)
    for fate in fates:
        if fate.goes:
            tell(f"engine {fate.entry.name} removed, {fate.entry.own_bytes / 1e6:.0f} MB: {fate.why}")
    return fates


def would_go(stack: Stack, bound_bytes: int, now: float, idle_s: float) -> list[Fate]:
    """What ``shelf.collect`` would do, without doing it."""
    return choose(entries(Path(stack.engines().directory)), in_use(open_store(stack.store())), bound_bytes, now, idle_s)


def _needed(
    store: Store, service: ServiceState, versions: Mapping[int, VersionState], lease: Lease | None
) -> Iterator[tuple[int, str]]:
    """Numbers of versions whose engines must stay, the strongest reason of each first."""
    if service.stable is not None:
        yield service.stable, "is in service"
    if lease is not None:
        yield lease.candidate, "is the candidate"
        if lease.baseline is not None:
            yield lease.baseline, "is the baseline"
    for release in store.releases(service.name):
        if release.phase.active and release.candidate is not None:
            yield release.candidate, "is being released"
        if release.phase.active and release.baseline is not None:
            yield release.baseline, "is the baseline"
    for version in versions.values():
        if version.instances:
            yield version.number, "has instances"
    for instance in store.instances(service.name):
        if instance.health is not Health.STOPPED:
            yield instance.version, "has instances"
    try:
        yield earlier_version(store, service.name, 0).number, "is what a rollback returns to"
    except NotFound:
        return
