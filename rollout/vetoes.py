"""A veto: a Prometheus query that ends a release when its value is beyond a bound for long enough. Pure.

A look without data says neither good nor bad, and begins the time beyond the bound anew: an outage of Prometheus alone
neither promotes nor rolls back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from string import Template

from rollout.errors import Refused
from rollout.nouns import Finding, Outcome
from rollout.policy import Veto

PLACES = ("service", "candidate", "stable", "release")  #: what a query may hold, written ``$candidate``


@dataclass(frozen=True)
class Reading:
    """What one look at a query gave: the values of its series by their labels, or why there is none."""

    values: Mapping[str, float]
    missing: str = ""
    series: int = 0  # how many there were, where the values of some were not kept


@dataclass(frozen=True)
class Watch:
    """What is known of one veto between two looks. ``since``: beyond its bound at every look from then on."""

    veto: Veto
    since: float | None = None


def check_query(veto: Veto) -> None:
    """Raises Refused where a query cannot be filled in."""
    field = f"vetoes.{veto.name}.query"
    if not veto.query.strip():
        raise Refused(field, veto.query, "it is empty", "write a PromQL expression that gives a number")
    try:
        filled(veto.query, dict.fromkeys(PLACES, "1"))
    except KeyError as error:
        known = ", ".join(f"${place}" for place in PLACES)
        rule = f"${error.args[0]} is not known; there are {known}"
        raise Refused(field, veto.query, rule, "name one of them, or write $$ for a plain $") from None
    except ValueError:
        fix = "write $$ for a plain $, as at the end of a regular expression"
        raise Refused(field, veto.query, "a $ begins a name", fix) from None


def filled(query: str, places: Mapping[str, str]) -> str:
    """The query with its places filled in. Raises KeyError, ValueError where ``check_query`` would refuse it."""
    return Template(query).substitute(places)


def look(watch: Watch, reading: Reading, now: float) -> tuple[Watch, Finding]:
    """What a veto says after one more look, and what is known from then on. ``now`` in epoch seconds."""
    veto = watch.veto
    values = {labels: value for labels, value in reading.values.items() if not math.isnan(value)}  # 0/0 is no data
    if not values:
        why = reading.missing or "the query gives no value"
        return Watch(veto), _finding(veto, None, Outcome.UNDECIDED, f"no data, so it cannot be judged: {why}")
    labels, worst = _worst(veto, values)
    told = _told(labels, worst, max(len(values), reading.series))
    if not _beyond(veto, worst):
        return Watch(veto), _finding(veto, worst, Outcome.PROMOTE, f"{told}, not {_bound(veto)}: within")
    since = now if watch.since is None else watch.since
    if now - since < veto.for_s:
        said = f"{told}, {_bound(veto)} for {now - since:.0f} s; {veto.for_s:g} s end the release"
        return Watch(veto, since), _finding(veto, worst, Outcome.UNDECIDED, said)
    long = f" for {now - since:.0f} s" if veto.for_s else ""
    return Watch(veto, since), _finding(veto, worst, Outcome.ROLL_BACK, f"{told}, {_bound(veto)}{long}")


def _worst(veto: Veto, values: Mapping[str, float]) -> tuple[str, float]:
    """The series farthest to the bad side."""
    side = max if veto.above is not None else min
    return side(values.items(), key=lambda item: item[1])


def _beyond(veto: Veto, value: float) -> bool:
    if veto.above is not None:
        return value > veto.above
    return veto.below is not None and value < veto.below


def _bound(veto: Veto) -> str:
    return f"above {veto.above:g}" if veto.above is not None else f"below {veto.below:g}"


def _told(labels: str, value: float, series: int) -> str:
    among = f" at {labels or 'the worst'}, the worst of {series} series" if series > 1 else ""
    return f"{value:.4g}{among}"


def _finding(veto: Veto, value: float | None, outcome: Outcome, said: str) -> Finding:
    name = f"veto {veto.name}"
    return Finding(
        metric=name,
        outcome=outcome,
        stable=None,
        candidate=value,
        low=None,
        high=None,
        margin=veto.above if veto.above is not None else veto.below or 0.0,
        n_stable=0,
        n_candidate=0,
        sentence=f"{name}: {said}",
        kind="rate",
    )
