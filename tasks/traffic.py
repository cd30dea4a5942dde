"""Moving traffic and watching it: one task a stage, so that a look costs no orchestration."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from configs.order import Order
from gateway.port import Cursor, Gateway, open_gateway
from gateway.samples import Arms, samples_of
from rollout.decide import decide
from rollout.judge import judge
from rollout.nouns import Hold, Lease, Sample, Samples, Shift, Step, Verdict, Version
from rollout.policy import stages
from store.port import Store, open_store
from store.steer import confirm, grant
from tasks.incidents import check_parent, incident, pids
from tasks.ticket import Ticket, tell

RENEW_S = 2.0


@dataclass(frozen=True)
class Look:
    """One look at a stage: when, how many samples, and the findings' numbers."""

    at: float
    stage: str
    canary_permille: int
    mirror_permille: int
    numbers: dict[str, float]


@dataclass(frozen=True)
class Stretch:
    """What a stage showed: its verdict, how long it took, each look, and the samples it was judged on."""

    stage: str
    verdict: Verdict
    seconds: float
    looks: tuple[Look, ...]
    samples: Samples


@task(cache_policy=NO_CACHE, task_run_name="shift-to-{step.canary_permille}-permille")
def shift(order: Order, ticket: Ticket, candidate: Version, step: Shift) -> Lease:
    """Grant the candidate its share under a lease, and wait until the gateway has confirmed it."""
    store = open_store(order.stack.store())
    lease = grant(store, ticket.service, ticket.release, candidate.number, step, order.policy.lease_s, time.time())
    share = f"{step.canary_permille / 10:g} % on version {candidate.number}"
    confirm(store, ticket.service, lambda o: o.lease == lease, share)
    return lease


@task(cache_policy=NO_CACHE, task_run_name="watch-stage-{stage}")
def watch(order: Order, ticket: Ticket, candidate: Version, step: Shift, stage: int) -> Stretch:
    """Look, judge and renew the lease until the stage is decided."""
    store, gateway = open_store(order.stack.store()), open_gateway(order.stack.gateway())
    name = stages(order.policy)[stage].name
    tell(store, ticket, name)
    stretch = watch_stage(order, ticket, candidate.number, step, stage, store, gateway)
    get_run_logger().info(
        "%s: %s after %.1f s: %s", name, stretch.verdict.outcome, stretch.seconds, stretch.verdict.reason
    )
    return stretch


@dataclass
class _Window:
    """The samples of a stage, read as they come; records of others are not kept."""

    gateway: Gateway
    cursor: Cursor
    arms: Arms
    stable: list[Sample] = field(default_factory=list)
    candidate: list[Sample] = field(default_factory=list)

    def read(self) -> Samples:
        fresh, self.cursor = self.gateway.records(self.cursor)
        new = samples_of(fresh, self.arms)
        self.stable.extend(new.stable)
        self.candidate.extend(new.candidate)
        return Samples(tuple(self.stable), tuple(self.candidate))


def watch_stage(
    order: Order,
    ticket: Ticket,
    candidate: int,
    step: Shift,
    stage: int,
    store: Store,
    gateway: Gateway,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> Stretch:
    """The loop of one stage. The lease is renewed only after a fresh look at the evidence, never by itself."""
    policy, plan, began, renewed = order.policy, stages(order.policy)[stage], clock(), 0.0
    arms = Arms(ticket.service, ticket.stable or 0, candidate, step.canary_permille == 0, began)
    window, looks = _Window(gateway, end_of_records(gateway), arms), []
    before = pids(store.instances(ticket.service))
    while True:
        samples = window.read()
        accident = incident(before, store.instances(ticket.service), ticket.stable, candidate, clock())
        verdict = accident or judge(samples, policy, plan.share)
        looks.append(Look(clock(), plan.name, step.canary_permille, step.mirror_permille, numbers_of(verdict)))
        if not isinstance(decide(policy, stage, verdict, clock() - began), Hold):
            return Stretch(plan.name, verdict, clock() - began, tuple(looks), samples)
        check_parent(ticket.parent)
        if clock() - renewed >= RENEW_S:
            renewed = clock()
            grant(store, ticket.service, ticket.release, candidate, step, policy.lease_s, renewed)
        sleep(policy.look_s)


def end_of_records(gateway: Gateway) -> Cursor:
    """Where the records end now."""
    cursor = Cursor()
    while True:
        records, after = gateway.records(cursor)
        if not records or after == cursor:
            return after
        cursor = after


def next_step(order: Order, stage: int, stretch: Stretch) -> Step:
    """What follows from a stage."""
    return decide(order.policy, stage, stretch.verdict, stretch.seconds)


def numbers_of(verdict: Verdict) -> dict[str, float]:
    """The findings as flat numbers, for step metrics."""
    numbers: dict[str, float] = {}
    for finding in verdict.findings:
        key = finding.metric.lower()
        values = {"stable": finding.stable, "candidate": finding.candidate, "low": finding.low, "high": finding.high}
        numbers.update({f"{key}_{name}": float(value) for name, value in values.items() if value is not None})
        numbers[f"{key}_n"] = float(finding.n_candidate)
    return numbers
