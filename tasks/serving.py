"""Versions and their instances: declare them, wait for what the agent makes of it, try them alone."""

from __future__ import annotations

import time
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from configs.order import Order
from engines.hardware import read_hardware
from gateway.tokens import TokenFile
from loadtest.port import LoadPlan, LoadReport, open_loadtest
from rollout.judge import judge_alone
from rollout.nouns import Engine, ModelVersion, Outcome, Sample, Verdict, Version
from store.port import VersionState, open_store
from store.steer import failure, wait_settled
from store.telling import warm_up_told
from tasks.room import check_room
from tasks.ticket import Ticket, as_plain, tell

MOST_FAILED = 0.05  # of a stress test, however wide the margin against stable is


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


def alone(order: Order, candidate: Version, report: LoadReport | None) -> Verdict:
    """What the candidate shows by itself: its instances must live, answer, and fail no more than the margin."""
    if why := failure(candidate, order.service.instances):
        return Verdict(Outcome.ROLL_BACK, why)
    if report is None:
        return Verdict(Outcome.PROMOTE, "no stress test was asked for")
    samples = tuple(Sample(0.0, 0, False, i < report.failed, None, None, None) for i in range(report.requests))
    verdict = judge_alone(samples, min(order.policy.errors.allow, MOST_FAILED), least=1)
    if verdict.outcome is Outcome.UNDECIDED:
        return Verdict(Outcome.ROLL_BACK, "the stress test got no answer at all")
    return Verdict(verdict.outcome, f"stress test: {verdict.reason}")


def report_directory(order: Order, ticket: Ticket) -> Path:
    """Where a release's files are kept."""
    return order.stack.home / "reports" / ticket.release
