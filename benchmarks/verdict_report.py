"""What the benchmark of the verdict found: figures and tables."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

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
from benchmarks.verdict_traffic import BUSY, HORIZON_MIN, IDENTICAL, QUIET, REGRESSIONS, TRAFFIC, WEIGHT

SETTINGS = Path(__file__).parent / "results" / "verdict-settings.json"


@dataclass(frozen=True)
class Results:
    """Ours, and each peer in three ways."""

    field: Field
    runs: int  # of each candidate in each traffic
    chosen_on: int  # and as many runs more, in all, on which the peers' settings were chosen; 0: earlier
    best: tuple[Best, ...]  # one setting for all traffic
    published: dict[str, Score]
    hindsight: dict[str, dict[str, dict[str, float]]]  # requests, by headline, traffic and peer
    columns_per_s: float
    samples_per_s: float

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


def results(chosen_on: Field | None, told_on: Field, runs: int, columns_per_s: float, samples_per_s: float) -> Results:
    """Try all settings on the runs; without runs to choose on, take the settings of the last full benchmark."""
    usual = {peer: published(told_on, peer) for peer in PEERS}
    if not chosen_on:
        return Results(told_on, runs, 0, earlier(), usual, {h: {} for h in HEADLINES}, columns_per_s, samples_per_s)
    hindsight = {
        headline: {case.name: with_hindsight(told_on, kind, case.name) for case in TRAFFIC}
        for headline, kind in HEADLINES.items()
    }
    best = tuple(search(chosen_on, told_on, peer) for peer in PEERS)
    return Results(told_on, runs, len(chosen_on.kind), best, usual, hindsight, columns_per_s, samples_per_s)


def earlier() -> tuple[Best, ...]:
    """What the last full benchmark found. Raises ValueError where the grid is another since."""
    found = json.loads(SETTINGS.read_text())
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


def figures(found: Results) -> dict[str, float]:
    """The named numbers."""
    numbers: dict[str, float] = {}
    for headline, kind in HEADLINES.items():
        rivals = [setting(found.field, b.for_headline(headline)) for b in found.rivals(headline)]
        numbers[f"fewer_requests_{headline}"] = _least(found.fewer(headline, s) for s in rivals)
        numbers[f"qualifying_{headline}"] = sum(headline in b.quickest for b in found.best)
        numbers[f"fewer_requests_{headline}_published"] = _least(
            found.fewer(headline, s) for s in found.published.values()
        )
        numbers[f"fewer_requests_{headline}_hindsight"] = _least(found.hindsight_ratios(headline).values())
        numbers[f"exposed_{headline}"] = _least(_mean(ratios(found.field, s, kind)) for s in rivals)
    ours = found.field.ours
    numbers |= {"wrong_rollbacks": ours.wrong(), "missed": ours.missed_all, "promoted": found.field.promoted}
    numbers |= {"promoted_regressions": found.field.promoted_bad}
    numbers |= {"samples_per_s": found.columns_per_s, "samples_per_s_converted": found.samples_per_s}
    numbers |= {"runs": len(found.field.kind)}
    return {name: 0.0 if math.isnan(value) else round(float(value), 4) for name, value in numbers.items()}


def _least(values: Iterable[float]) -> float:
    return min((v for v in values if v == v), default=math.nan)


def _mean(values: list[float]) -> float:
    return float(np.exp(np.mean(np.log(values))))


def headline(found: Results) -> str:
    """The line at the end."""
    n = figures(found)
    who = "the best peer that qualifies" if n["qualifying_p95"] else "the least wrong peer (none qualifies)"
    return (f"{n['fewer_requests_p95']:.1f}x fewer requests than {who} for p95 +25 %, "
            f"{n['fewer_requests_errors']:.1f}x for doubled errors; wrong {n['wrong_rollbacks']:.1%}, "
            f"missed {n['missed']:.0%}; {n['samples_per_s']:,.0f} samples/s a core")  # fmt: skip


def page(found: Results) -> str:
    """All tables, as markdown."""
    return "\n\n".join([_told(found), _judges(found), _columns(found), _traffic(found)]) + "\n"


def write(found: Results, where: Path) -> None:
    """Put ``verdict.md`` and ``verdict.json`` there."""
    where.mkdir(exist_ok=True)
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    )
    title = f"# The verdict, measured\n\nMade by `python benchmarks/verdict.py --write` ({machine}).\n\n"
    (where / "verdict.md").write_text(f"{title}{page(found)}\n{headline(found)}\n")
    SETTINGS.write_text(json.dumps([_plain(best) for best in found.best], indent=1) + "\n")
    (where / "verdict.json").write_text(json.dumps(figures(found), indent=1) + "\n")


def _told(found: Results) -> str:
    n, numbers = found.runs, figures(found)
    each = n * len(TRAFFIC)
    chosen = "Peers' settings are those that the last full benchmark chose."
    if found.chosen_on:
        chosen = (
            f"Peers' settings were chosen on {found.chosen_on} further runs, quickest first, and have to qualify on "
            "these as well."
        )
    lines = [
        f"{len(found.field.kind)} runs of {HORIZON_MIN} minutes: {n} of each of 5 candidates in each of "
        f"{len(TRAFFIC)} kinds of traffic, so {each} of each candidate, which has a tenth of the requests. One setting "
        "for all of it, which watches latency and errors. *wrong*: identical candidates rolled back; *missed*: "
        "regressions not rolled back within the run; requests (the candidate's) and minutes: medians of the right "
        "decisions. A setting qualifies where wrong and each of the four missed are at most ours + one standard error. "
        f"{chosen}",
    ]
    for best in found.best:
        many = f"{best.qualify:,} of {best.settings:,} settings qualify"
        lines.append(f"- {best.peer}: {many if best.qualify else f'**no setting of {best.settings:,} qualifies**'}.")
    lines.append(
        f"- Roundhouse promotes {numbers['promoted']:.0%} of the identical candidates within the two hours; the rest "
        f"is not yet decided. It promotes {numbers['promoted_regressions']:.1%} of the regressions; all else it misses"
        f" is not yet decided either. The judge takes {numbers['samples_per_s']:,.0f} requests/s a core as columns, "
        f"{numbers['samples_per_s_converted']:,.0f} from samples."
    )
    return "\n".join([lines[0], "", *lines[1:]])


def _judges(found: Results) -> str:
    head = ["one setting for all traffic", "wrong", *(f"missed {kind}" for kind in REGRESSIONS)]
    head += [f"{what} {kind}" for kind in HEADLINES.values() for what in ("requests", "minutes")]
    rows = [_judge("**Roundhouse**, standard", found.field.ours)]
    for best in found.best:
        quickest = {headline: setting(found.field, place) for headline, place in best.quickest.items()}
        rows += [_judge(f"{s.name} (quickest that qualifies, {h})", s) for h, s in quickest.items()]
        if not best.quickest:
            least = setting(found.field, best.least_wrong)
            rows.append(_judge(f"{least.name} (**does not qualify**, least wrong)", least))
    rows += [_judge(f"{s.name} (published)", s) for s in found.published.values()]
    return _table("Judges", head, rows)


def _judge(name: str, score: Score) -> list[str]:
    cells = [name, f"{score.wrong():.1%}", *(f"{score.missed(kind):.0%}" for kind in REGRESSIONS)]
    for kind in HEADLINES.values():
        cells += [_number(score.needs(kind)), _number(score.takes(kind))]
    return cells


def _columns(found: Results) -> str:
    rates = [f", {rate * WEIGHT:g}/min" for rate in (BUSY, QUIET)]
    head = [
        "a peer's requests over ours",
        "one setting for all traffic",
        *(f"the same{r}" for r in rates),
        "published settings",
        "tuned with hindsight",
    ]
    rows = []
    for headline, kind in HEADLINES.items():
        for best in found.best:
            score, usual = setting(found.field, best.for_headline(headline)), found.published[best.peer]
            does = "" if headline in best.quickest else ", **does not qualify**"
            spread = sorted(found.hindsight_ratios(headline, best.peer).values())
            rows.append([
                f"{kind}, {best.peer}",
                f"{_times(found.fewer(headline, score))} ({_rates(score, kind)}{does})",
                *(_times(found.fewer(headline, score, rate)) for rate in rates),
                f"{_times(found.fewer(headline, usual))} ({_rates(usual, kind)})",
                f"{_times(spread[0])} to {_times(spread[-1])} in {len(spread)} of {len(TRAFFIC)}" if spread else "none",
            ])  # fmt: skip
    told = (
        "*Tuned with hindsight*: a setting for each traffic and each regression, chosen on these very runs, that "
        "watches the worse metric alone and is wrong there no more often than ours + one standard error: what no user "
        "has, and the least that a peer can need."
    )
    return _table("Ratios", head, rows) + f"\n\n{told}"


def _rates(score: Score, kind: str) -> str:
    return f"wrong {score.wrong():.0%}, missed {score.missed(kind):.0%}"


def _traffic(found: Results) -> str:
    ours, hindsight = found.field.ours, {h: found.hindsight_ratios(h) for h in HEADLINES}
    head = ["Roundhouse, by traffic", "wrong", *(f"missed {kind}" for kind in REGRESSIONS)]
    head += [x for h, kind in HEADLINES.items() for x in (f"requests {kind}", f"best peer with hindsight, {h}")]
    rows = []
    for name in (case.name for case in TRAFFIC):
        row = [name, f"{ours.wrong(name):.0%}", *(f"{ours.missed(kind, name):.0%}" for kind in REGRESSIONS)]
        for headline, kind in HEADLINES.items():
            row += [_number(ours.needs(kind, name)), _times(hindsight[headline].get(name, math.nan))]
        rows.append(row)
    runs = int(ours.rows(IDENTICAL, TRAFFIC[0].name).sum())
    return _table(f"By traffic ({runs} runs a cell)", head, rows)


def _number(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:,.0f}"


def _times(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.2f}x"


def _table(title: str, head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join([f"## {title}", "", *(f"| {' | '.join(line)} |" for line in lines)])
