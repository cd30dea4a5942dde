"""Release: take a model version from the registry to live traffic, or turn it back, on evidence."""

from __future__ import annotations

from prefect import flow

from configs.order import order as make_order
from configs.parameters import Engine, Model, Rollout, Service
from rollout.decide import first_step
from rollout.levels import output_needs
from rollout.nouns import Ask, Promote, Shift
from tasks.approvals import approval
from tasks.artifacts import build, fetch
from tasks.endings import end_broken_release, promote, roll_back, tell_of_lost, write_back
from tasks.outputs import compare_outputs
from tasks.reporting import note, report
from tasks.room import make_room
from tasks.serving import deploy, deploy_baseline, stress, warm_up, warm_up_baseline
from tasks.telemetry import gpus_of, use_by_phase
from tasks.ticket import begin
from tasks.timing import Stopwatch
from tasks.traffic import recall, shift, watch
from tasks.trail import waived
from tasks.trying import alone

HOOKS = {
    "on_failure": [end_broken_release],
    "on_cancellation": [end_broken_release],
    "on_crashed": [end_broken_release],
}


@flow(name="release", flow_run_name="release-{service}", **HOOKS)
def release(service: Service, model: Model = "", engine: Engine = "", rollout: Rollout = "") -> dict:
    """Release a model version into a service.

    Args:
        service: a file of configs/services
        model: models:/NAME/VERSION, models:/NAME@ALIAS or dvc:PATH@REV; empty: the service's candidate alias
        engine: a file of configs/engines; empty: the service's
        rollout: a file of configs/rollouts; empty: the service's
    """
    watch_time, order = Stopwatch(), make_order(service, model, engine, rollout)
    ticket = watch_time("begin", begin)(order)
    note(order, ticket)
    tell_of_lost()
    files = watch_time("fetch", fetch)(order)
    order = watch_time("plan", make_room)(order, files, ticket)
    note(order, ticket, files)
    built = watch_time("build", build)(order, files, ticket)
    declared = watch_time("deploy", deploy)(order, files, built, ticket)
    copy = watch_time("deploy", deploy_baseline)(order, ticket, declared)
    candidate = watch_time("warm up", warm_up)(order, declared, ticket)
    baseline = watch_time("warm up", warm_up_baseline)(order, ticket, copy)
    gpus = gpus_of(order, candidate)
    needs, prompts = output_needs(order.policy), order.policy.evaluation
    outputs = watch_time("compare outputs", compare_outputs)(order, candidate, ticket, needs, prompts)
    load = watch_time("stress", stress)(order, candidate, ticket)
    order, trail = watch_time("recall", recall)(order, ticket, outputs)
    note(order, ticket, files)
    verdict, stretches = alone(order, candidate, load, outputs), []
    step = first_step(order.policy, ticket.stable, verdict)
    if isinstance(step, Ask):
        trail, step = waived(trail, step), watch_time("approval", approval)(order, ticket, step)
    while isinstance(step, Shift):
        watch_time("shift", shift)(order, ticket, candidate, step, baseline)
        stretch = watch_time("evidence", watch)(order, ticket, candidate, step, len(stretches), trail, baseline)
        step, verdict, trail = stretch.step, stretch.verdict, stretch.trail
        stretches.append(stretch)
    if isinstance(step, Promote):
        watch_time("promote", promote)(order, ticket, candidate, step.reason)
    else:
        watch_time("roll back", roll_back)(order, ticket, step.reason)
    watch_time("write back", write_back)(order, ticket, files, step)
    use = use_by_phase(order, gpus, watch_time.spans(), load, stretches)
    return report(order, ticket, files, load, stretches, verdict, watch_time.seconds(), use)
