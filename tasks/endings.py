"""How a release ends: promoted, rolled back, or turned back because it broke."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from configs.order import Order, champion_of
from configs.stack import load_stack
from model_registry.port import open_registry
from rollout.errors import RoundhouseError
from rollout.nouns import ModelVersion, Phase, Promote, Step, Version
from store.port import Release, open_store
from store.steer import confirm, turn
from tasks.ticket import Ticket


@task(cache_policy=NO_CACHE)
def promote(order: Order, ticket: Ticket, candidate: Version, reason: str) -> None:
    """The stable name turns to the candidate in one change; the old version stays warm for a while."""
    store = open_store(order.stack.store())
    turn(store, store.release(ticket.release), candidate.number, order.policy.keep_warm_s, reason)
    get_run_logger().info("promoted: %s", reason)


@task(cache_policy=NO_CACHE)
def roll_back(order: Order, ticket: Ticket, reason: str) -> None:
    """All traffic on stable in one confirmed change, and the candidate retired."""
    store = open_store(order.stack.store())
    store.finish_release(ticket.release, Phase.ROLLED_BACK, reason, time.time(), {})
    get_run_logger().warning("rolled back: %s", reason)
    if ticket.stable is not None:
        confirm(store, ticket.service, lambda o: o.lease is None, "all traffic on stable")


@task(cache_policy=NO_CACHE, retries=5, retry_delay_seconds=[1, 2, 5, 15, 30])
def write_back(order: Order, ticket: Ticket, model: ModelVersion, step: Step) -> None:
    """The registry learns what became of the version: its tags, and the champion alias after a promotion."""
    if not model.uri.startswith("models:/"):
        return
    registry, promoted = open_registry(order.stack.registry()), isinstance(step, Promote)
    outcome, reason = ("promoted" if promoted else "rolled back"), getattr(step, "reason", "")
    registry.tag(model.name, model.version, tags_of(outcome, reason, ticket.release))
    if promoted:
        registry.set_alias(model.name, champion_of(order.service.name), model.version)


@task(cache_policy=NO_CACHE)
def stand_by(order: Order, ticket: Ticket, candidate: Version) -> int:
    """Leave the version ready and without traffic; its number. The first version of a service becomes stable."""
    store = open_store(order.stack.store())
    if ticket.stable is None:
        turn(store, store.release(ticket.release), candidate.number, 0.0, "first version")
    else:
        told = f"version {candidate.number} stands by"
        store.finish_release(ticket.release, Phase.DEPLOYED, told, time.time(), {})
    return candidate.number


def tags_of(outcome: str, reason: str, release: str) -> dict[str, str]:
    """What a model version in the registry says of its release."""
    return {"roundhouse.verdict": outcome, "roundhouse.reason": reason[:4500], "roundhouse.release": release}


def end_broken_release(flow: Any, flow_run: Any, state: Any) -> None:
    """Hook for failed, cancelled and crashed release runs: turn traffic back. Prefect calls it by these names."""
    stack = load_stack()
    store = open_store(stack.store())
    for release in store.unsettled():
        if release.flow_run == str(flow_run.id) and release.phase.active:
            reason = f"the run ended as {state.name}: {(state.message or 'no message')[:500]}"
            store.finish_release(release.id, Phase.FAILED, reason, time.time(), {})
            with contextlib.suppress(RoundhouseError):  # traffic is back; the note in the registry is best effort
                _tag_failed(release, reason)


def _tag_failed(release: Release, reason: str) -> None:
    if release.model_uri.startswith("models:/"):
        registry = open_registry(load_stack().registry())
        model = registry.resolve(release.model_uri)
        registry.tag(model.name, model.version, tags_of("failed", reason, release.id))
