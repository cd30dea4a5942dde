"""What ends a stage besides the judge: an instance that died in the middle of it, or a release that nobody can stop."""

from __future__ import annotations

import os

from rollout.errors import RoundhouseError
from rollout.nouns import Health, Outcome, Verdict
from store.port import InstanceState

Pids = dict[str, int | None]
BACK_S = 1.5  # ready for so long, an instance has passed the gateway's own health check too


class Orphaned(RoundhouseError):
    """The worker that started this run is gone: nobody could cancel it any more, so it ends itself."""


def pids(instances: list[InstanceState]) -> Pids:
    """Which process each ready instance is."""
    return {i.id: i.pid for i in instances if i.health is Health.READY}


def incident(
    before: Pids,
    instances: list[InstanceState],
    stable: int | None,
    candidate: int,
    now: float,
    baseline: int | None = None,
) -> Verdict | None:
    """A verdict when an instance died since ``before``; None when all is well, or stable is not back yet.

    While stable has no instance the candidate keeps serving; once stable is back, the comparison is void. So it is when
    a ``baseline`` that the candidate is compared with has lost an instance or has none: others answer its requests.
    """
    changed = [i for i in instances if i.id in before and (i.health is not Health.READY or i.pid != before[i.id])]
    for instance in changed:
        if instance.version == candidate:
            why = instance.reason or "it was started anew"
            return Verdict(Outcome.ROLL_BACK, f"the candidate's instance {instance.id} died while it served: {why}")
    if not any(i.version == stable and i.health is Health.READY and now - i.since >= BACK_S for i in instances):
        return None
    lost = [i.id for i in changed if i.version in (stable, baseline)]
    if baseline is not None and not any(i.version == baseline and i.health is Health.READY for i in instances):
        lost = lost or [f"of version {baseline}"]
    if not lost:
        return None
    whose = "stable's" if baseline is None else "stable's or its copy's"
    return Verdict(
        Outcome.ROLL_BACK, f"{whose} instance {', '.join(lost)} died during the stage: the comparison is void"
    )


def check_parent(parent: int) -> None:
    """Raises Orphaned when the process that started this one is gone."""
    if os.getppid() != parent:
        _let_go_of_output()
        raise Orphaned("the worker of this run is gone; the release ends and all traffic is on stable")


def _let_go_of_output() -> None:
    """Our output went to the parent; a broken pipe ends the process at the next log line (rich's on_broken_pipe)."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
