"""What a release knows and up to where it has read: handed from stage to stage, and saved at each look.

A stage whose task is started again after an error goes on with what was saved: no request is missing or counted twice.
"""

from __future__ import annotations

import json
import os
from collections import deque
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gateway.port import Cursor, Gateway, Record
from gateway.samples import Arms, routed_of, samples_of
from rollout import agreement
from rollout.agreement import Agreement
from rollout.decide import STUCK
from rollout.evidence import Evidence, evidence_of, fresh, plain, with_reference, with_routed, with_samples
from rollout.nouns import Ask, Sample, Samples
from rollout.policy import Policy

ROUTED_S = 120  # by then nearly all requests have ended
REFERENCE = 2000  # of stable's last requests from before the release: what both arms' latencies are ranked by


@dataclass(frozen=True)
class Trail:
    """Evidence, the records that it holds, and the requests that began too short a time ago to be judged."""

    evidence: Evidence
    cursor: Cursor = Cursor()
    young: Samples = Samples((), ())
    tokens: int = 0  # that the candidate put out in this stage
    outputs: Agreement | None = None
    paired_until: float = 0.0  # call records of copies are compared up to here
    stage_began: float = 0.0
    began: float = 0.0  # the first stage
    waited_s: float = 0.0  # for people's answers, in all stages
    routed: tuple[tuple[int, float, int, int], ...] = ()  # (second, share, to the candidate, to the other), still young


def first_trail(samples: tuple[Sample, ...], cursor: Cursor, policy: Policy, outputs: Agreement | None = None) -> Trail:
    """The trail at the beginning: where the records end now, and how stable answered before."""
    return Trail(with_reference(fresh(policy), samples), cursor, outputs=outputs)


def waived(trail: Trail, step: Ask) -> Trail:
    """The trail without what a person is asked to go on without: answers that nobody can prove to agree."""
    return replace(trail, outputs=None) if step.key == STUCK else trail


def look_back(gateway: Gateway, service: str, stable: int) -> tuple[tuple[Sample, ...], Cursor]:
    """Stable's last requests, and where the records end now."""
    arms, seen = Arms(service, stable, -1, False, 0.0), deque[Sample](maxlen=REFERENCE)
    cursor = Cursor()
    while True:
        records, after = gateway.records(cursor)
        if not records or after == cursor:
            return tuple(seen), after
        seen.extend(samples_of(records, arms).stable)
        cursor = after


def read_on(trail: Trail, gateway: Gateway, arms: Arms, now: float, settle_s: float) -> tuple[Trail, Samples]:
    """The trail with all that is new, and the samples that were judged: those that began ``settle_s`` ago or earlier.

    Whether the split is delivered is asked of requests that began ``ROUTED_S`` ago: a record is written when a request
    ends, so among young ones those of the slower version are still missing.
    """
    records, cursor = gateway.records(trail.cursor)
    new = samples_of(records, arms)
    ripe, young = _settled(trail.young, new, now - settle_s)
    due, rest = _due(trail.routed, records, arms, int(now - ROUTED_S))
    evidence = with_routed(trail.evidence, *due)
    tokens = trail.tokens + sum(s.tokens_out or 0 for s in new.candidate)
    seen = with_samples(evidence, ripe)
    return replace(trail, evidence=seen, cursor=cursor, young=young, tokens=tokens, routed=rest), ripe


Routed = tuple[tuple[int, float, int, int], ...]


Drawn = tuple[list[float], list[bool]]


def _due(before: Routed, records: list[Record], arms: Arms, until: int) -> tuple[Drawn, Routed]:
    """Shares and arms of the requests that are old enough, by the second; and counts of the others."""
    counts = {(second, weight): [hits, misses] for second, weight, hits, misses in before}
    for at, weight, hit in routed_of(records, arms):
        counts.setdefault((int(at), weight), [0, 0])[0 if hit else 1] += 1
    weights: list[float] = []
    hits: list[bool] = []
    for (second, weight), (more, less) in sorted(counts.items()):
        if second <= until:
            weights += [weight] * (more + less)
            hits += [True] * more + [False] * less
    rest = tuple((second, weight, *count) for (second, weight), count in sorted(counts.items()) if second > until)
    return (weights, hits), rest  # type: ignore[return-value]


def _settled(before: Samples, new: Samples, at: float) -> tuple[Samples, Samples]:
    """Those that began before, and those that did not."""
    stable, candidate = (*before.stable, *new.stable), (*before.candidate, *new.candidate)
    ripe = Samples(tuple(s for s in stable if s.at <= at), tuple(s for s in candidate if s.at <= at))
    return ripe, Samples(tuple(s for s in stable if s.at > at), tuple(s for s in candidate if s.at > at))


def save(trail: Trail, stage: int, path: Path) -> None:
    """Write the trail aside and rename it, so that there is always a whole one."""
    doc = {
        "stage": stage,
        "evidence": plain(trail.evidence),
        "cursor": asdict(trail.cursor),
        "young": [list(trail.young.stable), list(trail.young.candidate)],
        "tokens": trail.tokens,
        "outputs": None if trail.outputs is None else agreement.plain(trail.outputs),
        "paired_until": trail.paired_until,
        "stage_began": trail.stage_began,
        "began": trail.began,
        "waited_s": trail.waited_s,
        "routed": trail.routed,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".new")
    aside.write_text(json.dumps(doc))
    os.replace(aside, path)


def saved(path: Path, stage: int, otherwise: Trail) -> Trail:
    """What was saved in this stage; ``otherwise`` where nothing was."""
    if not path.exists():
        return otherwise
    doc: dict[str, Any] = json.loads(path.read_text())
    if doc["stage"] != stage:
        return otherwise
    stable, candidate = (tuple(Sample(*values) for values in arm) for arm in doc["young"])
    return Trail(
        evidence=evidence_of(doc["evidence"]),
        cursor=Cursor(**doc["cursor"]),
        young=Samples(stable, candidate),
        tokens=doc["tokens"],
        outputs=None if doc["outputs"] is None else agreement.agreement_of(doc["outputs"]),
        paired_until=doc["paired_until"],
        stage_began=doc["stage_began"],
        began=doc["began"],
        waited_s=doc["waited_s"],
        routed=tuple(tuple(counts) for counts in doc["routed"]),
    )
