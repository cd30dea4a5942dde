"""A release under way: its row in the store, and what carries it from task to task."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from configs.desired import service_state
from configs.order import Order
from rollout.errors import Unavailable
from rollout.nouns import Phase
from store.port import Release, Store, open_store
from store.steer import STALE_S

BEAT_S = 10.0


@dataclass(frozen=True)
class Ticket:
    """The release's id, its service, the version in service when it began (None: none yet), and who started it."""

    release: str
    service: str
    stable: int | None
    parent: int  # the process that can cancel this one
    began: float = 0.0


@task(cache_policy=NO_CACHE, task_run_name="begin-{order.service.name}")
def begin(order: Order) -> Ticket:
    """Take the service for this release. Raises Conflict while another release of it is under way."""
    store, file = open_store(order.stack.store()), order.service
    state = service_state(file)
    wanted = Release(
        id=f"{file.name}-{uuid.uuid4().hex[:8]}",
        service=file.name,
        model_uri=order.model,
        phase=Phase.PENDING,
        flow_run=str(flow_run.id or ""),
        stage="fetch",
    )
    release = store.begin_release(wanted, time.time(), STALE_S)
    threading.Thread(target=keep_alive, args=(store, release.id), name="release-beat", daemon=True).start()
    store.put_service(state, by=release.id)
    return Ticket(release.id, file.name, release.stable_before, os.getppid(), time.time())


def keep_alive(store: Store, release_id: str, sleep: Callable[[float], None] = time.sleep) -> None:
    """Say that this process lives until the release has ended, however long a build takes. It renews no lease."""
    lives = True
    while lives:
        with contextlib.suppress(Unavailable):  # a database that does not answer now may answer the next time
            lives = store.beat(release_id, time.time())
        sleep(BEAT_S)


def tell(store: Store, ticket: Ticket, stage: str) -> None:
    """Say where the release stands, and that it lives. Raises Conflict when somebody ended it."""
    store.update_release(ticket.release, stage=stage, beat_at=time.time())


def as_plain(value: object) -> dict[str, object]:
    """A dataclass as the JSON-ready mapping that the store keeps."""
    return asdict(value)  # type: ignore[call-overload]
