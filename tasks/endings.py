"""How a release ends: promoted, rolled back, or turned back because it broke."""

from __future__ import annotations

import time
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from configs.order import Order
from configs.stack import load_stack
from model_registry.port import open_registry
from rollout.nouns import ModelVersion, Phase, Version
from store.port import open_store
from store.steer import confirm, turn, turn_back
from tasks.ticket import Ticket


@task(cache_policy=NO_CACHE)
def promote(order: Order, ticket: Ticket, model: ModelVersion, candidate: Version, reason: str) -> str:
    """The stable name turns to the candidate in one change; the alias moves; the old version stays warm for a while."""
    store = open_store(order.stack.store())
    turn(store, ticket.service, ticket.stable, candidate.number, ticket.release, order.policy.keep_warm_s)
    store.finish_release(ticket.release, Phase.PROMOTED, reason, time.time(), {})
    mark(
        order,
        model,
        {"roundhouse.verdict": "promoted", "roundhouse.reason": reason, "roundhouse.release": ticket.release},
    )
    if model.uri.startswith("models:/"):
        open_registry(order.stack.registry()).set_alias(model.name, order.service.champion, model.version)
    get_run_logger().info("promoted: %s", reason)
    return reason


@task(cache_policy=NO_CACHE)
def roll_back(order: Order, ticket: Ticket, model: ModelVersion, reason: str) -> str:
    """All traffic on stable in one confirmed change; the reason goes to the registry."""
    store = open_store(order.stack.store())
    turn_back(store, store.release(ticket.release), Phase.ROLLED_BACK, reason, {})
    if ticket.stable is not None:
        confirm(store, ticket.service, lambda o: o.lease is None, "all traffic on stable")
    mark(
        order,
        model,
        {"roundhouse.verdict": "rolled back", "roundhouse.reason": reason, "roundhouse.release": ticket.release},
    )
    get_run_logger().warning("rolled back: %s", reason)
    return reason


@task(cache_policy=NO_CACHE)
def stand_by(order: Order, ticket: Ticket, candidate: Version) -> int:
    """Leave the version ready and without traffic; its number. The first version of a service becomes stable."""
    store = open_store(order.stack.store())
    if ticket.stable is None:
        turn(store, ticket.service, None, candidate.number, ticket.release, 0.0)
    store.finish_release(ticket.release, Phase.DEPLOYED, f"version {candidate.number} stands by", time.time(), {})
    return candidate.number


def mark(order: Order, model: ModelVersion, tags: dict[str, str]) -> None:
    """Write on the model version what became of it, where the registry has versions to write on."""
    if model.uri.startswith("models:/"):
        open_registry(order.stack.registry()).tag(model.name, model.version, {k: v[:4500] for k, v in tags.items()})


def end_broken_release(flow: Any, flow_run: Any, state: Any) -> None:
    """Hook for failed, cancelled and crashed release runs: turn traffic back. Prefect calls it by these names."""
    store = open_store(load_stack().store())
    for release in store.releases():
        if release.flow_run == str(flow_run.id) and release.phase in (Phase.PENDING, Phase.RUNNING):
            reason = f"the run ended as {state.name}: {(state.message or 'no message')[:500]}"
            turn_back(store, release, Phase.FAILED, reason, {})
