"""Moving traffic and watching it: one task a stage, so that a look costs no orchestration."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from configs.order import Order
from gateway.port import Gateway, open_gateway
from gateway.samples import Arms, counted_by_engines
from reports.samples_file import BEFORE, FILE, SampleFile
from rollout.agreement_finding import finding
from rollout.decide import Times, decide, part_of_agreement, part_of_proof
from rollout.errors import Refused, Unavailable
from rollout.evidence import next_stage
from rollout.forecast import forecast
from rollout.judge import judge
from rollout.levels import output_needs
from rollout.nouns import Ask, Finding, Hold, Lease, Outcome, RollBack, Samples, Shift, Step, Verdict, Version
from rollout.policy import judged_weight, stages
from rollout.schedule import planned
from rollout.traffic_model import traffic_of
from store.port import Store, open_store
from store.steer import confirm, grant
from tasks.approvals import answer_to, told
from tasks.incidents import check_parent, incident, pids
from tasks.looks import Look, LookFile
from tasks.outputs import Compared, put_outputs, with_mirrored
from tasks.serving import report_directory
from tasks.ticket import Ticket, tell
from tasks.trail import Trail, first_trail, look_back, read_on, save, saved
from tasks.vetoes import vetoes_of

RENEW_S = 2.0
PAIR_S = 5.0  # between two comparisons of copies' answers
RETRIES, WITHIN_S = 3, 60.0  # of a stage that could not read or write something; it goes on where it was
AGAIN_S = 0.5


@dataclass(frozen=True)
class Stretch:
    """What a stage showed: its verdict, what follows from it, how long it took, and all that is known."""

    stage: str
    verdict: Verdict
    step: Step
    seconds: float
    trail: Trail


@task(cache_policy=NO_CACHE)
def recall(order: Order, ticket: Ticket, outputs: Compared | None) -> tuple[Order, Trail]:
    """How stable answered before the release, where the records end now, and with it the steps that are computed."""
    before, cursor = look_back(open_gateway(order.stack.gateway()), ticket.service, ticket.stable or 0)
    SampleFile(report_directory(order, ticket) / FILE).append(BEFORE, before)
    trail = first_trail(before, cursor, order.policy, outputs.agreement if outputs else None)
    if order.policy.auto is None or ticket.stable is None:
        return order, trail
    try:
        policy = planned(order.policy, traffic_of(before))
    except Refused as error:
        policy = planned(order.policy, None)
        get_run_logger().warning("the usual steps are taken, for no schedule could be computed: %s", error)
    get_run_logger().info("steps: %s", ", ".join(f"{step / 10:g} %" for step in policy.steps))
    return replace(order, policy=policy), trail


@task(cache_policy=NO_CACHE, task_run_name="shift-to-{step.canary_permille}-permille")
def shift(order: Order, ticket: Ticket, candidate: Version, step: Shift, baseline: Version | None = None) -> Lease:
    """Grant the candidate its share under a lease, and wait until the gateway has confirmed it."""
    store = open_store(order.stack.store())
    lease = _grant(store, order, ticket, candidate.number, step, baseline, time.time())
    share = f"{step.canary_permille / 10:g} % on version {candidate.number}"
    confirm(store, ticket.service, lambda o: o.lease == lease, share)
    return lease


@task(cache_policy=NO_CACHE, task_run_name="watch-stage-{stage}")
def watch(
    order: Order,
    ticket: Ticket,
    candidate: Version,
    step: Shift,
    stage: int,
    trail: Trail,
    baseline: Version | None = None,
) -> Stretch:
    """Look, judge and renew the lease until the stage is decided. A part that does not answer now may do so the next
    time; raises Unavailable or OSError when it fails more than ``RETRIES`` times within ``WITHIN_S``."""
    name, directory, log = stages(order.policy)[stage].name, report_directory(order, ticket), get_run_logger()
    scene = Scene(
        order=order,
        ticket=ticket,
        candidate=candidate,
        step=step,
        stage=stage,
        baseline=baseline,
        store=open_store(order.stack.store()),
        gateway=open_gateway(order.stack.gateway()),
        looks=LookFile(directory / "looks.jsonl"),
        vetoes=vetoes_of(order, ticket, candidate.number),
    )
    tell(scene.store, ticket, name)

    def go_on() -> Stretch:
        kept = saved(directory / "evidence.json", stage, trail)
        return watch_stage(replace(scene, save=_keeper(directory, name, stage)), kept)

    stretch = persisting(go_on, lambda error: log.warning("%s goes on after: %s", name, error))
    log.info("%s: %s after %.1f s: %s", name, stretch.verdict.outcome, stretch.seconds, stretch.verdict.reason)
    return stretch


def persisting(
    go_on: Callable[[], Stretch],
    warn: Callable[[Exception], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Stretch:
    """What ``go_on`` gives, called again where something could not be read or written; not for ever within a minute."""
    failed = deque[float](maxlen=RETRIES)
    while True:
        try:
            return go_on()
        except (Unavailable, OSError) as error:
            if len(failed) == RETRIES and clock() - failed[0] < WITHIN_S:
                raise
            failed.append(clock())
            warn(error)
            sleep(AGAIN_S)


def _keeper(directory: Path, name: str, stage: int) -> Callable[[Trail, Samples], None]:
    """Saves the trail, and the requests that it holds; killed in between, these are missing and not there twice."""
    kept = SampleFile(directory / FILE)

    def keep(trail: Trail, judged: Samples) -> None:
        save(trail, stage, directory / "evidence.json")
        kept.append(name, (*judged.stable, *judged.candidate))

    return keep


@dataclass(frozen=True)
class Scene:
    """All that the loop of one stage looks at and acts on."""

    order: Order
    ticket: Ticket
    candidate: Version
    step: Shift
    stage: int
    store: Store
    gateway: Gateway
    looks: LookFile
    baseline: Version | None = None
    save: Callable[[Trail, Samples], None] = lambda trail, judged: None
    vetoes: Callable[[float], tuple[Finding, ...]] = lambda now: ()
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep

    def arms(self, began: float) -> Arms:
        """Whose requests are compared: copies with stable's own answers, live ones with the baseline where one is."""
        mirrored, stable = self.step.canary_permille == 0, self.ticket.stable or 0
        compared = self.baseline.number if self.baseline and not mirrored else stable
        return Arms(
            service=self.ticket.service,
            stable=compared,
            candidate=self.candidate.number,
            mirrored=mirrored,
            since=began,
            baseline=compared != stable,
            sticky=self.order.service.sticky is not None or _in_sticky_group(self.store, self.ticket.service),
            counted=counted_by_engines(self.gateway.confirmed(), self.ticket.service),
        )


def _in_sticky_group(store: Store, service: str) -> bool:
    """Whether some of its requests come by sessions that stay, through a group's door."""
    return any(group.sticky and any(m.service == service for m in group.members) for group in store.groups())


def watch_stage(scene: Scene, trail: Trail) -> Stretch:
    """The loop of one stage. The lease is renewed only after a fresh look at the evidence, never by itself."""
    policy, plan = scene.order.policy, stages(scene.order.policy)[scene.stage]
    renewed, asked = 0.0, _asked_in(scene, plan.name)
    is_again = trail.evidence.stage == scene.stage and trail.stage_began > 0
    trail = trail if is_again else _entered(trail, scene.stage, scene.clock())
    began, last_at = trail.stage_began, scene.clock()
    arms, before = scene.arms(0.0), pids(scene.store.instances(scene.ticket.service))
    while True:
        now = scene.clock()
        trail, judged = read_on(trail, scene.gateway, arms, now, policy.settle_s)
        scene.save(trail, judged)
        present = scene.store.instances(scene.ticket.service)
        compared = arms.stable if arms.baseline else None
        accident = incident(before, present, scene.ticket.stable, scene.candidate.number, now, compared)
        part = part_of_proof(policy, scene.stage)
        trail = _with_outputs(scene, trail, began, now)
        verdict = accident or judge(trail.evidence, policy, part, _others(scene, trail, now))
        times = _times(scene, trail, began, now)
        outlook = _outlook(scene, trail, verdict, times)
        look = Look(now, plan.name, scene.step.canary_permille, scene.step.mirror_permille)
        scene.looks.write(look, verdict, times.stage_s, outlook)
        step = decide(policy, scene.stage, verdict, times)
        trail = replace(trail, waited_s=trail.waited_s + (now - last_at if asked else 0.0))
        last_at = now
        step, asked = _people_willing(scene, step, asked)
        if not isinstance(step, Hold):
            return Stretch(plan.name, verdict, step, scene.clock() - began, trail)
        check_parent(scene.ticket.parent)
        if scene.clock() - renewed >= RENEW_S:
            renewed = scene.clock()
            _grant(scene.store, scene.order, scene.ticket, scene.candidate.number, scene.step, scene.baseline, renewed)
        scene.sleep(policy.look_s)


def _entered(trail: Trail, stage: int, now: float) -> Trail:
    evidence = next_stage(trail.evidence, stage)
    return replace(trail, evidence=evidence, tokens=0, stage_began=now, began=trail.began or now)


def _times(scene: Scene, trail: Trail, began: float, now: float) -> Times:
    last = max(trail.evidence.last_at, began)
    hang_s = scene.order.service.response_timeout_s + scene.order.policy.settle_s
    return Times(now - began, now - trail.began - trail.waited_s, now - last, hang_s)


def _asked_in(scene: Scene, stage: str) -> str:
    """The key of what this stage asks, or was told, before its task was started again."""
    release = scene.store.release(scene.ticket.release)
    keys = (release.waiting_key, (release.answer or {}).get("key", ""))
    return next((key for key in keys if key.startswith(f"{stage}: ")), "")


def _people_willing(scene: Scene, step: Step, asked: str) -> tuple[Step, str]:
    """The step that follows, and the key of what is asked now; until a person answers all stays as it is.

    What was to be decided may pass by itself and is asked no more; but who said no to it meanwhile is heard.
    """
    store, release = scene.store, scene.ticket.release
    key = step.key if isinstance(step, Ask) else ""
    if asked and asked != key:
        said = store.withdraw(release)
        if said and not said["yes"]:
            return step if isinstance(step, RollBack) else RollBack(told(said)), ""
    if not isinstance(step, Ask):
        return step, ""
    if key != asked:
        store.ask(release, step.question, key)
    return answer_to(store, release, step), key


def _with_outputs(scene: Scene, trail: Trail, began: float, now: float) -> Trail:
    """With users' requests that both answered, where call records hold them; now and then, for it reads files."""
    last, until = max(trail.paired_until, began), now - scene.order.policy.settle_s
    if trail.outputs is None or scene.step.canary_permille or until - last < PAIR_S:
        return trail
    versions = (scene.ticket.stable or 0, scene.candidate.number)
    needs = output_needs(scene.order.policy)
    before = Compared(trail.outputs, finding(trail.outputs, needs))
    compared = with_mirrored(scene.order, before, versions, (last, until), needs)
    put_outputs(report_directory(scene.order, scene.ticket), compared)
    return replace(trail, outputs=compared.agreement, paired_until=until)


def _others(scene: Scene, trail: Trail, now: float) -> tuple[Finding, ...]:
    """What is judged beside requests: compared outputs, and vetoes."""
    policy, vetoes = scene.order.policy, scene.vetoes(now)
    if trail.outputs is None:
        return vetoes
    return (finding(trail.outputs, output_needs(policy, part_of_agreement(policy, scene.stage))), *vetoes)


def _outlook(scene: Scene, trail: Trail, verdict: Verdict, times: Times) -> str:
    """How long it will take at this traffic, while undecided."""
    if verdict.outcome is not Outcome.UNDECIDED or not times.stage_s:
        return ""
    seen, copies = trail.evidence, scene.step.canary_permille == 0
    weight = 0.0 if copies else judged_weight(scene.step.canary_permille, scene.baseline is not None)
    requests = seen.n_candidate if copies else seen.n_candidate + seen.n_stable
    left = scene.order.policy.step_timeout_s - times.stage_s
    return forecast(seen, verdict, scene.order.policy, requests / times.stage_s, weight, max(left, 0.0)).sentence


def _grant(
    store: Store, order: Order, ticket: Ticket, candidate: int, step: Shift, baseline: Version | None, now: float
) -> Lease:
    arm = baseline.number if baseline and step.canary_permille else None
    return grant(store, ticket.service, ticket.release, candidate, step, order.policy.lease_s, now, arm)
