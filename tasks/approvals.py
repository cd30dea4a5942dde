"""A person's word: asked for, waited for, and followed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

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
    tell(store, ticket, "approval")
    asked = store.ask(ticket.release, step.question, step.key).asked
    get_run_logger().info("`roundhouse release approve %s --question %d`? %s", ticket.release, asked, step.question)
    while isinstance(answered := answer_to(store, ticket.release, step), Hold):
        check_parent(ticket.parent)
        tell(store, ticket, "approval")
        time.sleep(LOOK_S)
    return answered


def answer_to(store: Store, release: str, step: Ask) -> Step:
    """What follows from a person's answer; Hold while there is none."""
    answer = store.release(release).answer
    if answer is None or answer["key"] != step.key:
        return Hold(f"a person decides: {step.question}")
    if not answer["yes"]:
        return RollBack(told(answer))
    return Promote(f"{told(answer)}; {step.then.reason}") if isinstance(step.then, Promote) else step.then


def told(answer: Mapping[str, Any]) -> str:
    """Who said what, and why."""
    return f"{answer['who']} said {'yes' if answer['yes'] else 'no'}: {answer['reason']}".removesuffix(": ")
