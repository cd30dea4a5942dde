"""Room for the candidate, planned before anything is built: beside stable, smaller, or on what stable lends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from configs.engine_sources import plan_engine
from configs.order import Order
from configs.room import Room, Wanted, baseline_of, promise, promised, room_for
from engines.hardware import Hardware, read_hardware
from engines.port import Needs
from rollout.errors import Refused, Unavailable
from rollout.nouns import Engine, ModelVersion
from store.port import Store, open_store
from store.steer import STALE_S, loans
from tasks.ticket import Ticket, tell

MADE_S = 300.0  # for the instances that make room to finish their requests and end


@task(cache_policy=NO_CACHE, timeout_seconds=1800)
def make_room(order: Order, model: ModelVersion, ticket: Ticket) -> Order:
    """The order as it can be carried out on this machine. Raises Refused, with the numbers, where it cannot."""
    store, hardware = open_store(order.stack.store()), read_hardware(order.stack.engines().directory)
    return room_made(order, model, ticket, store, hardware, get_run_logger().info)


def room_made(
    order: Order, model: ModelVersion, ticket: Ticket, store: Store, hardware: Hardware, say: Callable[[str], None]
) -> Order:
    """The same on a machine that was read before. The room is noted with the release before it is looked for, so that
    of two releases at least one sees the other's. Raises Refused, Unavailable."""
    tell(store, ticket, "plan")
    plan = plan_engine(order.stack, order.spec, model, lambda what, share: None, hardware)
    wanted = Wanted(ticket.service, order.spec, plan.needs, order.service.instances)
    baseline = _baseline(order, ticket, store)
    store.update_release(ticket.release, promised=promise(wanted, baseline))
    room = _look(wanted, ticket, store, hardware, baseline)
    say(f"{room.plan.way}: {room.plan.sentence}")
    if room.plan.way == "stop-start":
        rule = f"{room.plan.sentence}; a release never takes the only version out of service"
        fix = "choose smaller weights, fewer instances or a shorter context, or add a device"
        raise Refused("memory", room.plan.way, rule, fix)
    spec = replace(order.spec, **room.plan.settings)
    kept = promise(replace(wanted, spec=spec), baseline)
    store.update_release(ticket.release, promised=kept, borrowed=room.plan.stop)
    for number in room.retire:
        store.retire(ticket.service, number)
    if room.plan.stop or room.retire:
        wait_until_made(store, ticket, room)
    return replace(order, spec=spec)


def check_room(order: Order, engine: Engine, ticket: Ticket, store: Store, hardware: Hardware) -> None:
    """A second look after the build, before the candidate is declared: the room that was made for it is still there.

    What is missing may be as little as memory that comes and goes: a smaller cache would do, and is no reason to stop.
    Raises Unavailable, with what there is now.
    """
    if not engine.needs:
        return
    wanted = Wanted(ticket.service, order.spec, Needs(**engine.needs), order.service.instances)
    try:
        plan = _look(wanted, ticket, store, hardware, _baseline(order, ticket, store)).plan
    except Refused as refused:
        raise Unavailable(f"the room for the candidate is gone: {refused}") from refused
    if plan.way not in ("side by side", "shrink"):
        raise Unavailable(f"the room for the candidate is gone, now it would be {plan.way}: {plan.sentence}")


def _baseline(order: Order, ticket: Ticket, store: Store) -> Wanted | None:
    """A copy of stable of the candidate's size, where the policy compares with one."""
    if not order.policy.baseline:
        return None
    return baseline_of(ticket.service, ticket.stable, order.service.instances, store.versions(ticket.service))


def _look(wanted: Wanted, ticket: Ticket, store: Store, hardware: Hardware, baseline: Wanted | None) -> Room:
    """What is lent to a release does not run and is not counted; what is promised to another is."""
    releases = store.unsettled()
    lent, others = loans(releases), promised(releases, ticket.release, time.time() - STALE_S)
    versions = [
        replace(v, instances=max(0, v.instances - lent.get((v.service, v.number), 0))) for v in store.versions()
    ]
    return room_for(wanted, ticket.stable, versions, store.instances(), hardware, others, baseline)


def wait_until_made(store: Store, ticket: Ticket, room: Room, within_s: float = MADE_S) -> None:
    """Until the instances that make room have ended. Raises Unavailable when they do not."""
    until = time.monotonic() + within_s
    while leaving := _leaving(store, ticket, room):
        if time.monotonic() > until:
            raise Unavailable(f"{', '.join(leaving)} did not end within {within_s:g} s to make room")
        time.sleep(0.2)
        tell(store, ticket, "plan")


def _leaving(store: Store, ticket: Ticket, room: Room) -> list[str]:
    instances = store.instances(ticket.service)
    lent = sorted((i for i in instances if i.version == ticket.stable), key=lambda i: i.ordinal)
    kept = next((v.instances for v in store.versions(ticket.service) if v.number == ticket.stable), 0) - room.plan.stop
    gone = [i for i in instances if i.version in room.retire]
    return [i.id for i in (*gone, *(i for i in lent if i.ordinal >= kept))]
