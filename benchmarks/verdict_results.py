"""What the benchmark of the verdict found, as figures, and the settings that it chose."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.verdict_choice import (
    HEADLINES,
    PEERS,
    Best,
    Field,
    Score,
    name_of,
    published,
    ratios,
    search,
    setting,
    with_hindsight,
)
from benchmarks.verdict_ours import OURS, STANDARD
from benchmarks.verdict_traffic import TRAFFIC

SETTINGS = Path(__file__).parent / "results" / "verdict-settings.json"


@dataclass(frozen=True)
class Results:
    """One of our settings, and each peer in three ways."""

    field: Field
    best: tuple[Best, ...]  # one setting for all traffic
    published: dict[str, Score]
    hindsight: dict[str, dict[str, dict[str, float]]]  # requests, by headline, traffic and peer

    def rivals(self, headline: str) -> list[Best]:
        """The peers that are compared: those that qualify, or else all."""
        return [b for b in self.best if headline in b.quickest] or list(self.best)

    def fewer(self, headline: str, score: Score, traffic: str | None = None) -> float:
        """A judge's requests over ours, in all traffic or in that whose name ends so."""
        kind = HEADLINES[headline]
        return score.needs(kind, traffic) / self.field.ours.needs(kind, traffic)

    def hindsight_ratios(self, headline: str, peer: str = "") -> dict[str, float]:
        """By traffic: the requests of the best peer, or of that one, over ours; without those that nobody finds."""
        found = {}
        for traffic, needs in self.hindsight[headline].items():
            rivals = [n for name, n in needs.items() if peer in ("", name)]
            mine = self.field.ours.needs(HEADLINES[headline], traffic)
            if rivals and mine == mine:
                found[traffic] = min(rivals) / mine
        return found


@dataclass(frozen=True)
class Speeds:
    """Requests a second that one core judges, as columns and from samples."""

    columns: float
    samples: float


@dataclass(frozen=True)
class Found:
    """All that was found: beside the setting that was chosen for us, and beside the shipped one."""

    chosen: Results
    standard: Results
    runs: int  # of each candidate in each traffic
    chosen_on: int  # and so many runs more, in all, on which settings were chosen; 0: earlier
    speeds: Speeds


def results(chosen_on: Field | None, told_on: Field, runs: int, speeds: Speeds) -> Found:
    """Try all settings on the runs; without runs to choose on, take the settings of the last full benchmark."""
    pair = [_results(chosen_on, told_on.seen_from(mine)) for mine in (told_on.mine, STANDARD)]
    return Found(pair[0], pair[1], runs, 0 if chosen_on is None else len(chosen_on.kind), speeds)


def _results(chosen_on: Field | None, told_on: Field) -> Results:
    usual = {peer: published(told_on, peer) for peer in PEERS}
    if chosen_on is None:
        return Results(told_on, _earlier(told_on.mine), usual, {h: {} for h in HEADLINES})
    hindsight = {
        headline: {case.name: with_hindsight(told_on, kind, case.name) for case in TRAFFIC}
        for headline, kind in HEADLINES.items()
    }
    best = tuple(search(chosen_on.seen_from(told_on.mine), told_on, peer) for peer in PEERS)
    return Results(told_on, best, usual, hindsight)


def chosen_last() -> str:
    """Our setting that the last full benchmark chose. Raises ValueError where it is none of ours since."""
    name = json.loads(SETTINGS.read_text())["chosen"]
    if name not in OURS:
        raise ValueError(f"{SETTINGS.name}: {name!r} is no setting of ours any more; run the benchmark with --write")
    return str(name)


def _earlier(mine: str) -> tuple[Best, ...]:
    """What the last full benchmark found beside it. Raises ValueError where the grid is another since."""
    found = json.loads(SETTINGS.read_text())["beside"][mine]
    for name, place in ((n, p) for each in found for n, p in each["names"].items()):
        if name_of(tuple(place)) != name:
            raise ValueError(f"{SETTINGS.name}: {name!r} is not in the grid any more; run the benchmark with --write")
    return tuple(
        Best(
            each["peer"],
            each["settings"],
            each["qualify"],
            {headline: tuple(each["names"][name]) for headline, name in each["quickest"].items()},
            tuple(each["names"][each["least_wrong"]]),
        )
        for each in found
    )


def settings_found(found: Found) -> dict[str, Any]:
    """All settings that were chosen, as ``--quick`` reads them."""
    beside = {r.field.mine: [_plain(best) for best in r.best] for r in (found.chosen, found.standard)}
    return {"chosen": found.chosen.field.mine, "beside": beside}


def _plain(best: Best) -> dict[str, object]:
    places = [*best.quickest.values(), best.least_wrong]
    return {
        "peer": best.peer,
        "settings": best.settings,
        "qualify": best.qualify,
        "quickest": {headline: name_of(place) for headline, place in best.quickest.items()},
        "least_wrong": name_of(best.least_wrong),
        "names": {name_of(place): list(place) for place in places},
    }


def figures(found: Found) -> dict[str, float]:
    """The named numbers."""
    numbers = _beside(found.chosen) | {f"{name}_standard": value for name, value in _beside(found.standard).items()}
    numbers |= {"samples_per_s": found.speeds.columns, "samples_per_s_converted": found.speeds.samples}
    numbers |= {"runs": len(found.chosen.field.kind)}
    return {name: 0.0 if math.isnan(value) else round(float(value), 4) for name, value in numbers.items()}


def _beside(found: Results) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for headline, kind in HEADLINES.items():
        rivals = [setting(found.field, b.for_headline(headline)) for b in found.rivals(headline)]
        usual = found.published.values()
        numbers[f"fewer_requests_{headline}"] = _least(found.fewer(headline, s) for s in rivals)
        numbers[f"qualifying_{headline}"] = sum(headline in b.quickest for b in found.best)
        numbers[f"fewer_requests_{headline}_published"] = _least(found.fewer(headline, s) for s in usual)
        numbers[f"fewer_requests_{headline}_hindsight"] = _least(found.hindsight_ratios(headline).values())
        numbers[f"exposed_{headline}"] = _least(_mean(ratios(found.field, s, kind)) for s in rivals)
    ours = found.field.ours
    numbers |= {"wrong_rollbacks": ours.wrong(), "missed": ours.missed_all, "promoted": found.field.promoted}
    return numbers | {"promoted_regressions": found.field.promoted_bad}


def _least(values: Iterable[float]) -> float:
    return min((v for v in values if v == v), default=math.nan)


def _mean(values: list[float]) -> float:
    return float(np.exp(np.mean(np.log(values))))
