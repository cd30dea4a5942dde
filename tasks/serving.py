"""Versions and their instances: declare them, wait for what the agent makes of it, try them alone."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from configs.order import Order
from engines.hardware import read_hardware
from gateway.tokens import TokenFile
from loadtest.port import LoadPlan, LoadReport, open_loadtest
from rollout.errors import NotFound, Unavailable
from rollout.nouns import Engine, ModelVersion, Version
from store.port import Store, VersionState, open_store
from store.steer import failure, wait_settled
from store.telling import warm_up_told
from tasks.room import check_room
from tasks.ticket import Ticket, as_plain, tell


@task(cache_policy=NO_CACHE)
def deploy(order: Order, model: ModelVersion, engine: Engine, ticket: Ticket) -> Version:
    """Declare a new version with its instances; the agent starts them."""
    store, hardware = open_store(order.stack.store()), read_hardware(order.stack.engines().directory)
    check_room(order, engine, ticket, store, hardware)
    TokenFile(order.stack.tokens).ensure(order.service.name)
    wanted = VersionState(
        service=order.service.name,
        number=0,
        model_uri=model.uri,
        engine=as_plain(engine),
        spec=as_plain(order.spec),
        instances=order.service.instances,
        warm_up_requests=order.policy.warm_up_requests,
        created_at=time.time(),
        engine_name=order.engine_name,
    )
    version = store.add_version(wanted, ticket.release)
    tell(store, ticket, "start")
    return Version(version.service, version.number, version.model_uri, engine.digest)


@task(cache_policy=NO_CACHE)
def deploy_baseline(order: Order, ticket: Ticket, candidate: Version) -> Version | None:
    """Declare a copy of the version in service, of the candidate's size, right after the candidate: both are then
    equally young, and warmed up alike. None where the policy asks for none, or nothing is in service."""
    if not order.policy.baseline or ticket.stable is None:
        return None
    store = open_store(order.stack.store())
    return declare_baseline(store, ticket, order.service.instances, order.policy.warm_up_requests, time.time())


def declare_baseline(store: Store, ticket: Ticket, instances: int, warm_up_requests: int, now: float) -> Version:
    """The same in a store that is open. Raises NotFound when the version in service is gone, and Conflict when the
    release has ended."""
    service = ticket.service
    present = next((v for v in store.versions(service) if v.number == ticket.stable), None)
    if present is None:
        raise NotFound(f"{service!r} has no version {ticket.stable} any more to make a baseline of")
    wanted = replace(
        present, number=0, instances=instances, warm_up_requests=warm_up_requests, created_at=now, retire_at=None
    )
    added = store.add_version(wanted, ticket.release, role="baseline")
    return Version(service, added.number, added.model_uri, str(added.engine.get("digest", "")))


@task(cache_policy=NO_CACHE, timeout_seconds=1800)
def warm_up_baseline(order: Order, ticket: Ticket, baseline: Version | None) -> Version | None:
    """Wait for a baseline as for a candidate. Raises Unavailable when it cannot serve: that says nothing of the
    candidate, which can then not be judged."""
    if baseline is None:
        return None
    ready = warm_up.fn(order, baseline, ticket)
    if why := failure(ready, order.service.instances):
        raise Unavailable(f"the baseline, a copy of version {ticket.stable}, cannot serve: {why}")
    return ready


@task(cache_policy=NO_CACHE, timeout_seconds=1800)
def warm_up(order: Order, version: Version, ticket: Ticket) -> Version:
    """Wait until every instance is loaded and warmed up, or one has died too often (see ``alone``)."""
    store = open_store(order.stack.store())
    tell(store, ticket, "warm up")
    ready = wait_settled(store, version.service, version.number, order.service.instances, timeout_s=900.0)
    for instance in store.instances(version.service):
        if instance.version == version.number:
            told = warm_up_told(instance.warm_up) or f"none: {instance.reason}"
            get_run_logger().info("%s is %s on port %d, warm-up %s", instance.id, instance.health, instance.port, told)
    return ready


@task(cache_policy=NO_CACHE, timeout_seconds=7200)
def stress(order: Order, version: Version, ticket: Ticket) -> LoadReport | None:
    """Load the candidate directly while it carries no user's request."""
    load = order.policy.stress
    if load is None or not version.ready:
        return None
    tell(open_store(order.stack.store()), ticket, "stress")
    target = version.ready[0]
    plan = LoadPlan(f"http://{target.host}:{target.port}", load.users, load.duration_s, load.max_tokens, load.api)
    directory = order.stack.home / "reports" / ticket.release / "stress"
    return open_loadtest(order.stack.loadtest()).run(plan, str(directory), lambda second: None)


def report_directory(order: Order, ticket: Ticket) -> Path:
    """Where a release's files are kept."""
    return order.stack.home / "reports" / ticket.release
