"""How a release ends: promoted, rolled back, or turned back because it broke."""

from __future__ import annotations

import logging
import time
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from configs.order import Order, champion_of
from configs.stack import Stack, load_stack
from model_registry.port import ModelRegistry, open_registry
from rollout.errors import Unavailable
from rollout.nouns import ModelVersion, Phase, Promote, Step, Version
from store.port import Release, Store, open_store
from store.steer import confirm, turn
from tasks.aftermath import lost, tags_of, tell_of_broken
from tasks.ticket import Ticket

log = logging.getLogger(__name__)

_MOST = 1000  # releases that began since a run's own
_RECENT = 100  # releases among which one may be that nobody told of


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


def end_broken_release(flow: Any, flow_run: Any, state: Any) -> None:
    """Hook for failed, cancelled and crashed release runs: turn traffic back, and tell what became of the release, also
    where a person or the agent ended it before. Prefect calls it by these names. It never raises."""
    reason = f"the run ended as {state.name}: {(state.message or 'no message')[:500]}"
    try:
        stack = load_stack()
        store = open_store(stack.store())
        release = ended_release(store, str(flow_run.id), reason)
        if release is not None:
            tell_of_broken(stack, store, open_registry(stack.registry()), release)
    except Exception:
        log.exception("flow run %s: its release could not be ended or told of", flow_run.id)


def tell_of_lost() -> None:
    """Tell of the releases that ended with their process and its worker, so that no hook was left to do it: whoever
    lives next does. What cannot be told now is told another time. It never raises."""
    try:
        stack = load_stack()
        store, registry = open_store(stack.store()), open_registry(stack.registry())
        for release in lost(stack.home, store.releases(limit=_RECENT), time.time()):
            _tell_late(stack, store, registry, release)
    except Unavailable as error:  # the next would wait for it as long
        log.warning("releases that ended without their process are not told of now: %s", error)
    except Exception:
        log.exception("releases that ended without their process were not looked for")


def _tell_late(stack: Stack, store: Store, registry: ModelRegistry, release: Release) -> None:
    try:
        tell_of_broken(stack, store, registry, release, late=True)
        log.warning("release %s ended without its process; now it is told of", release.id)
    except Unavailable:
        raise
    except Exception as error:  # one that cannot be told of holds up no other, and no release
        log.warning("release %s ended without its process, and is not told of: %s", release.id, error)


def ended_release(store: Store, flow_run: str, reason: str) -> Release | None:
    """The release of a run, which has ended now at the latest; None where the run did not get as far as having one."""
    known = (*store.unsettled(), *store.releases(limit=_MOST))
    release = next((r for r in known if r.flow_run == flow_run), None)
    if release is not None and release.phase.active:
        return store.finish_release(release.id, Phase.FAILED, reason, time.time(), {})
    return release
