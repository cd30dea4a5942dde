"""What Prometheus says of a candidate, look by look."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from configs.order import Order
from gateway.prometheus import instant
from reports.vetoes_file import FILE, VetoFile
from rollout.command import revealed
from rollout.errors import NotFound, Refused, Unavailable
from rollout.nouns import Finding
from rollout.vetoes import Reading, Watch, filled, look
from tasks.serving import report_directory
from tasks.ticket import Ticket

log = logging.getLogger(__name__)

ASK_EVERY_S = 3.0  # Prometheus itself scrapes more seldom than a release looks
LONGEST_S = 1.0  # of one answer: the lease is renewed after the look that waits for it


def vetoes_of(
    order: Order, ticket: Ticket, candidate: int, environment: Mapping[str, str] = os.environ
) -> Callable[[float], tuple[Finding, ...]]:
    """What asks all vetoes of a release's policy in one stage, to be called at each look with the time (epoch seconds).

    It raises nothing: a Prometheus that does not answer is told in the findings. The findings of one asking stand
    until the next, at most ``ASK_EVERY_S`` later. What was answered is kept, so that it can be judged again.
    """
    policy = order.policy
    places = {
        "service": ticket.service,
        "candidate": str(candidate),
        "stable": str(ticket.stable or ""),
        "release": ticket.release,
    }
    watches = tuple(Watch(veto) for veto in policy.vetoes)
    asked_at, findings = -ASK_EVERY_S, tuple[Finding, ...]()
    file = VetoFile(report_directory(order, ticket) / FILE)
    if watches:
        _kept(lambda: file.begin([watch.veto.query for watch in watches]))

    def ask(now: float) -> tuple[Finding, ...]:
        nonlocal asked_at, watches, findings
        if watches and now - asked_at >= ASK_EVERY_S:
            queries = [filled(watch.veto.query, places) for watch in watches]
            with ThreadPoolExecutor(len(queries)) as pool:
                readings = tuple(pool.map(lambda query: _read(order.prometheus, query, environment), queries))
            looks = [look(watch, reading, now) for watch, reading in zip(watches, readings, strict=True)]
            _kept(lambda: file.append(now, readings))
            asked_at, watches, findings = now, tuple(w for w, _ in looks), tuple(f for _, f in looks)
        return findings

    return ask


def _kept(write: Callable[[], None]) -> None:
    """A record that cannot be written is no reason for a release to end; what judges it again tells what is missing."""
    try:
        write()
    except OSError as error:
        log.warning("what vetoes were answered could not be kept: %s", error)


def _read(address: str, query: str, environment: Mapping[str, str]) -> Reading:
    try:
        url = revealed({"prometheus": address}, environment)["prometheus"]
        return Reading(instant(url, query, LONGEST_S))
    except (Unavailable, Refused, NotFound) as error:
        return Reading({}, str(error))
