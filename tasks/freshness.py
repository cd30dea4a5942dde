"""Whether the engine in service is what a build would make now."""

from __future__ import annotations

from dataclasses import dataclass

from prefect import task
from prefect.cache_policies import NO_CACHE

from configs.engine_sources import plan_engine
from configs.stack import load_stack
from engines.port import spec_of
from model_registry.port import open_registry
from model_registry.sources import fetch_any
from rollout.errors import NotFound
from store.port import VersionState, open_store


@dataclass(frozen=True)
class Renewal:
    """A release that is due: which model, as which engine, and why."""

    model: str
    engine_name: str
    reason: str


@task(cache_policy=NO_CACHE, timeout_seconds=3600)
def renewal(service: str, model: str, champion: str) -> Renewal | None:
    """What should be released again; None when the version in service is the champion with an engine of today.

    A service that was turned back by hand is left alone: its version is not the one that the champion alias names.
    """
    stack = load_stack()
    serving = _in_service(service)
    try:
        named = open_registry(stack.registry()).resolve(f"models:/{model}@{champion}").uri
    except NotFound:
        return None
    if serving is None or serving.model_uri != named:
        return None
    files = fetch_any(named, stack.registry(), lambda what, share: None)
    wanted = plan_engine(stack, spec_of(serving.spec), files, lambda what, share: None).digest
    present = str(serving.engine["digest"])
    reason = f"engine {present[:12]} is in service, a build now makes {wanted[:12]}"
    return None if wanted == present else Renewal(named, serving.engine_name, reason)


def _in_service(service: str) -> VersionState | None:
    store = open_store(load_stack().store())
    stable = {s.name: s.stable for s in store.services()}.get(service)
    return next((v for v in store.versions(service) if v.number == stable), None)
