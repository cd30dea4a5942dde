"""Room for the candidate, planned before anything is built: beside stable, smaller, or on what stable lends."""

from __future__ import annotations

import time
from dataclasses import replace

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from configs.engine_sources import plan_engine
from configs.order import Order
from configs.room import Room, Wanted, room_for
from engines.hardware import read_hardware
from rollout.errors import Refused, Unavailable
from rollout.nouns import ModelVersion
from store.port import Store, open_store
from tasks.ticket import Ticket, tell

MADE_S = 300.0  # for the instances that make room to finish their requests and end


@task(cache_policy=NO_CACHE, timeout_seconds=1800)
def make_room(order: Order, model: ModelVersion, ticket: Ticket) -> Order:
    """The order as it can be carried out on this machine. Raises Refused, with the numbers, where it cannot."""
    store, log = open_store(order.stack.store()), get_run_logger()
    tell(store, ticket, "plan")
    hardware = read_hardware(order.stack.engines().directory)
    plan = plan_engine(order.stack, order.spec, model, lambda what, share: None)
    wanted = Wanted(ticket.service, order.spec, plan.needs, order.service.instances)
    room = room_for(wanted, ticket.stable, store.versions(), store.instances(), hardware)
    log.info("%s: %s", room.plan.way, room.plan.sentence)
    if room.plan.way == "stop-start":
        rule = f"{room.plan.sentence}; a release never takes the only version out of service"
        fix = "choose smaller weights, fewer instances or a shorter context, or add a device"
        raise Refused("memory", room.plan.way, rule, fix)
    for number in room.retire:
        store.retire(ticket.service, number)
    if room.plan.stop or room.retire:
        store.update_release(ticket.release, borrowed=room.plan.stop)
        wait_until_made(store, ticket, room)
    return replace(order, spec=replace(order.spec, **room.plan.settings))


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
