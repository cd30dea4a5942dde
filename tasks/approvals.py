"""A person's word: asked for, waited for, and followed."""

from __future__ import annotations

import time

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from configs.order import Order
from rollout.nouns import Ask, Hold, Promote, RollBack, Step
from store.port import Store, open_store
from tasks.incidents import check_parent
from tasks.ticket import Ticket, tell

LOOK_S = 1.0


@task(cache_policy=NO_CACHE)
def approval(order: Order, ticket: Ticket, step: Ask) -> Step:
    """Wait for a person while the candidate carries no request. Raises Conflict when somebody ends the release."""
    store = open_store(order.stack.store())
    get_run_logger().info("`roundhouse release approve %s` or `reject`: %s", ticket.release, step.question)
    tell(store, ticket, "approval")
    store.ask(ticket.release, step.question)
    while isinstance(answered := answer_to(store, ticket.release, step), Hold):
        check_parent(ticket.parent)
        tell(store, ticket, "approval")
        time.sleep(LOOK_S)
    return answered


def answer_to(store: Store, release: str, step: Ask) -> Step:
    """What follows from a person's answer; Hold while there is none."""
    answer = store.release(release).answer
    if answer is None:
        return Hold(f"a person decides: {step.question}")
    told = f"{answer['who']} said {'yes' if answer['yes'] else 'no'}: {answer['reason']}".removesuffix(": ")
    if not answer["yes"]:
        return RollBack(told)
    return Promote(f"{told}; {step.then.reason}") if isinstance(step.then, Promote) else step.then
