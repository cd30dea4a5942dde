"""Which settings of a peer are wrong no more often than ours, over all traffic at once, and what the best needs.

Ours is one of a few, chosen in the same way on the same runs: the one that is least wrong, or the shipped policy.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.verdict_grids import GROUPS, NEVER, PUBLISHED, Group, Minutes
from benchmarks.verdict_looks import Told
from benchmarks.verdict_traffic import IDENTICAL, KINDS, REGRESSIONS, TRAFFIC, Floats
from rollout.nouns import Outcome

HEADLINES = {"p95": "latency x1.25", "errors": "errors x2"}
PEERS = tuple(dict.fromkeys(group.peer for group in GROUPS))
_CHUNK = 20_000

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Play:
    """One run: what we told by setting, the candidate's requests until each minute, when each of theirs rolled back."""

    traffic: str
    kind: str
    told: dict[str, Told]
    until: Floats
    minutes: list[tuple[Minutes, Minutes]]  # of ``GROUPS``


class Field:
    """All runs together, seen from one of our settings."""

    def __init__(self, plays: Sequence[Play], mine: str) -> None:
        self.traffic = np.array([p.traffic for p in plays])
        self.kind = np.array([p.kind for p in plays])
        pad = NEVER + 1 - len(plays[0].until)
        self.until = np.array([np.append(p.until, [p.until[-1]] * pad) for p in plays])
        self.groups = [tuple(np.stack([p.minutes[g][k] for p in plays], 1) for k in (0, 1)) for g in range(len(GROUPS))]
        self._own = {name: self._of_ours(name, [p.told[name] for p in plays]) for name in plays[0].told}
        self._promotes = {n: np.array([p.told[n].outcome is Outcome.PROMOTE for p in plays]) for n in self._own}
        self.mine = mine

    @property
    def ours(self) -> Score:
        """What became of our setting."""
        return self._own[self.mine]

    @property
    def promoted(self) -> float:
        """The share of identical candidates that we promoted."""
        return float(self._promotes[self.mine][self.kind == IDENTICAL].mean())

    @property
    def promoted_bad(self) -> float:
        """The share of worse ones."""
        return float(self._promotes[self.mine][self.kind != IDENTICAL].mean())

    def seen_from(self, mine: str) -> Field:
        """The same runs beside another of our settings."""
        other = copy.copy(self)
        other.mine = mine
        return other

    def least_wrong(self) -> str:
        """Which of our settings has the least sum of wrong and missed, as a peer's least wrong is found."""
        return min(self._own, key=lambda name: self._own[name].wrong() + self._own[name].missed_all)

    def _of_ours(self, name: str, told: Sequence[Told]) -> Score:
        rolled = np.array([t.outcome is Outcome.ROLL_BACK for t in told])
        return self.score(name, rolled, np.array([t.requests for t in told]), np.array([t.minutes for t in told]))

    def score(self, name: str, rolled: Bools, requests: Floats, minutes: Floats) -> Score:
        """One judge's runs."""
        return Score(name, self, rolled, np.where(rolled, requests, self.until[:, -1]), minutes)

    def of(self, name: str, minutes: Minutes) -> Score:
        """A setting's, from when it rolled back."""
        return self.score(name, minutes != NEVER, self.until[np.arange(len(minutes)), minutes], minutes)


@dataclass(frozen=True)
class Score:
    """A judge on all runs; requests are all of the run's where it was not rolled back."""

    name: str
    field: Field
    rolled: Bools
    requests: Floats
    minutes: Floats

    def rows(self, kind: str, traffic: str | None = None) -> Bools:
        """The runs of that kind, in all traffic or in that whose name ends so."""
        return (self.field.kind == kind) & np.char.endswith(self.field.traffic, traffic or "")

    def wrong(self, traffic: str | None = None) -> float:
        """Share of identical candidates rolled back."""
        return float(self.rolled[self.rows(IDENTICAL, traffic)].mean())

    def missed(self, kind: str, traffic: str | None = None) -> float:
        """Share of candidates with that regression that are promoted, or not told within the run."""
        return 1 - float(self.rolled[self.rows(kind, traffic)].mean())

    @property
    def missed_all(self) -> float:
        """Of all regressions."""
        return float(np.mean([self.missed(kind) for kind in REGRESSIONS]))

    def needs(self, kind: str, traffic: str | None = None) -> float:
        """The median of the candidate's requests until the right decision; NaN where there is none."""
        return _median(self.requests[self.rows(kind, traffic) & self.rolled])

    def takes(self, kind: str) -> float:
        """The median of minutes until it."""
        return _median(self.minutes[self.rows(kind) & self.rolled])

    def exposed(self, kind: str, traffic: str) -> float:
        """The median of the candidate's requests, those of a missed regression all that the run has."""
        return _median(self.requests[self.rows(kind, traffic)])


def _median(values: Floats) -> float:
    return float(np.median(values)) if len(values) else math.nan


def bound(score: Score, kind: str, traffic: str | None = None) -> float:
    """The rate of wrong decisions and one binomial standard error (of (k + 1/2) / (n + 1), which is never 0)."""
    wrong = score.wrong(traffic) if kind == IDENTICAL else score.missed(kind, traffic)
    n = int(score.rows(kind, traffic).sum())
    smooth = (wrong * n + 0.5) / (n + 1)
    return wrong + math.sqrt(smooth * (1 - smooth) / n)


Place = tuple[int, ...]  # group, minutes of the analysis, and the numbers of the settings for latency and errors


@dataclass(frozen=True)
class Best:
    """A peer: how many of its settings qualify, the quickest of them per headline, and the one least wrong."""

    peer: str
    settings: int
    qualify: int
    quickest: dict[str, Place]  # by headline; empty where none qualifies
    least_wrong: Place

    def for_headline(self, headline: str) -> Place:
        """The quickest that qualifies, or else the one least wrong."""
        return self.quickest.get(headline, self.least_wrong)


def search(chosen_on: Field, told_on: Field, peer: str) -> Best:
    """Try every setting of a peer on the first runs; those that qualify have to on the second as well."""
    bounds, again = _bounds(chosen_on), _bounds(told_on)
    settings = qualify = 0
    least = (math.inf, (0, 0, 0, 0))
    quick: dict[str, tuple[float, Place]] = {}
    for place, wrong, missed in _rates(chosen_on, peer):
        settings += wrong.size
        total = wrong + sum(missed.values()) / len(missed)
        at = np.unravel_index(int(total.argmin()), total.shape)
        least = min(least, (float(total[at]), (*place, *map(int, at))))
        rows = np.argwhere((wrong <= bounds[IDENTICAL]) & np.all([missed[k] <= bounds[k] for k in REGRESSIONS], axis=0))
        for first in range(0, len(rows), _CHUNK):
            some = rows[first : first + _CHUNK]
            some = some[_holds(told_on, place, some, again)]
            qualify += len(some)
            for headline, kind in HEADLINES.items() if len(some) else ():
                needs = _needs(chosen_on, chosen_on.kind == kind, _joint(chosen_on, place, some))
                k = int(needs.argmin())
                one = (float(needs[k]), (*place, *map(int, some[k])))
                quick[headline] = min(quick.get(headline, one), one)
    return Best(peer, settings, qualify, {h: place for h, (_, place) in quick.items()}, least[1])


def _bounds(field: Field) -> dict[str, float]:
    return {kind: bound(field.ours, kind) for kind in KINDS}


def _holds(field: Field, place: Place, rows: NDArray[np.int64], bounds: dict[str, float]) -> Bools:
    rolled = _joint(field, place, rows) != NEVER
    shares = {kind: rolled[:, field.kind == kind].mean(1) for kind in KINDS}
    missed = [1 - shares[kind] <= bounds[kind] for kind in REGRESSIONS]
    return np.asarray((shares[IDENTICAL] <= bounds[IDENTICAL]) & np.all(missed, axis=0))


def _rates(field: Field, peer: str) -> Iterator[tuple[Place, Floats, dict[str, Floats]]]:
    """Wrong and missed of every pair of settings (latency, errors)."""
    for g, group in enumerate(GROUPS):
        for life in group.lives if group.peer == peer else ():
            early = [minutes <= life for minutes in field.groups[g]]
            share = {kind: _either(*(e[:, field.kind == kind] for e in early)) for kind in KINDS}
            yield (g, life), share[IDENTICAL], {kind: 1 - share[kind] for kind in REGRESSIONS}


def _either(a: Bools, b: Bools) -> Floats:
    """The share of runs in which one of the two happens, of each pair."""
    x, y = a.astype(np.float32), b.astype(np.float32)
    both = x @ y.T
    return np.round(x.sum(1)[:, None] + y.sum(1)[None] - both).astype(float) / a.shape[1]


def _joint(field: Field, place: Place, rows: NDArray[np.int64]) -> Minutes:
    slow, bad = field.groups[place[0]]
    minutes = np.minimum(slow[rows[:, 0]], bad[rows[:, 1]])
    return np.where(minutes <= place[1], minutes, NEVER).astype(np.uint8)


def _needs(field: Field, runs: Bools, minutes: Minutes) -> Floats:
    """The median requests of the right decisions, per row; infinite without any."""
    mine = minutes[:, runs]
    requests = np.where(mine == NEVER, np.inf, field.until[runs][np.arange(mine.shape[1]), mine])
    requests.sort(axis=1)
    right = np.maximum((mine != NEVER).sum(1), 1)
    rows = np.arange(len(mine))
    return (requests[rows, (right - 1) // 2] + requests[rows, right // 2]) / 2


def setting(field: Field, place: Place) -> Score:
    """What became of one setting."""
    return field.of(name_of(place), _joint(field, place, np.array([place[2:]]))[0])


def name_of(place: Place) -> str:
    """A setting in words."""
    return told(GROUPS[place[0]], place[2], place[3], place[1])


def told(group: Group, slow: int, bad: int, life: int) -> str:
    """The same by group, numbers and minutes."""
    one, two = group.latency[slow], group.errors[bad]
    if group.peer == "Kayenta":
        (interval, back), ways = group.common, [f"{m} {how} {size:g}" for m, how, size in (one, two)]
        return f"Kayenta each {interval} min, points {back or 'all'}, {ways[0]}, {ways[1]}, {life} min"
    if group.peer == "Flagger":
        metric, window, latency, errors, threshold, steps = one
        limits = f"{metric} {latency:g}x, errors {errors:g}x"
        return f"Flagger each {window} min, {limits}, threshold {threshold}, {steps} steps"
    ways = [f"{m} {times:g}{form}, each {w} min, failureLimit {limit}" for m, w, form, times, limit in (one, two)]
    return f"Argo {ways[0]}; {ways[1]}; {life} min"


def published(field: Field, peer: str) -> Score:
    """With the settings of its documentation."""
    common, latency, errors, life = PUBLISHED[peer]
    g = next(k for k, group in enumerate(GROUPS) if group.peer == peer and group.common == common)
    return setting(field, (g, life, GROUPS[g].latency.index(latency), GROUPS[g].errors.index(errors)))


def with_hindsight(field: Field, kind: str, traffic: str) -> dict[str, float]:
    """The old way: each peer watches the metric that is worse, its setting chosen for this traffic, on these runs.

    The least requests of those that are wrong no more often than ours here; a peer without any is left out.
    """
    good, bad = field.ours.rows(IDENTICAL, traffic), field.ours.rows(kind, traffic)
    most = bound(field.ours, IDENTICAL, traffic), bound(field.ours, kind, traffic)
    found: dict[str, float] = {}
    for group, (slow, other) in zip(GROUPS, field.groups, strict=True):
        every = other if kind.startswith("errors") and len(other) > 1 else slow
        for life in group.lives:
            minutes = np.where(every <= life, every, NEVER).astype(np.uint8)
            able = ((minutes[:, good] != NEVER).mean(1) <= most[0]) & ((minutes[:, bad] == NEVER).mean(1) <= most[1])
            if able.any():
                least = float(_needs(field, bad, minutes[able]).min())
                found[group.peer] = min(found.get(group.peer, math.inf), least)
    return {peer: needs for peer, needs in found.items() if needs < math.inf}


def ratios(field: Field, score: Score, kind: str) -> list[float]:
    """Its exposed requests over ours, traffic by traffic."""
    return [score.exposed(kind, case.name) / field.ours.exposed(kind, case.name) for case in TRAFFIC]
