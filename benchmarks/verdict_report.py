"""What the benchmark of the verdict found, as tables."""

from __future__ import annotations

import json
import math
import os
import platform
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.verdict_choice import HEADLINES, Score, setting
from benchmarks.verdict_ours import OURS
from benchmarks.verdict_results import SETTINGS, Found, Results, figures, settings_found
from benchmarks.verdict_traffic import BUSY, HORIZON_MIN, IDENTICAL, QUIET, REGRESSIONS, TRAFFIC, WEIGHT


def headline(found: Found) -> str:
    """The line at the end."""
    n = figures(found)
    who = "the best peer that qualifies" if n["qualifying_p95"] else "the least wrong peer (none qualifies)"
    return (f"{n['fewer_requests_p95']:.1f}x fewer requests than {who} for p95 +25 %, "
            f"{n['fewer_requests_errors']:.1f}x for doubled errors; wrong {n['wrong_rollbacks']:.1%}, "
            f"missed {n['missed']:.0%}; as shipped {n['fewer_requests_p95_standard']:.1f}x, "
            f"{n['fewer_requests_errors_standard']:.1f}x, {n['wrong_rollbacks_standard']:.1%}, "
            f"{n['missed_standard']:.0%}; {n['samples_per_s']:,.0f} samples/s a core")  # fmt: skip


def page(found: Found) -> str:
    """All tables, as markdown."""
    pair = (found.chosen, found.standard)
    tables = [table for beside in pair for table in (_judges(beside), _columns(beside), _traffic(beside))]
    return "\n\n".join([_told(found), *tables]) + "\n"


def write(found: Found, where: Path) -> None:
    """Put ``verdict.md`` and ``verdict.json`` there."""
    where.mkdir(exist_ok=True)
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    )
    title = f"# The verdict, measured\n\nMade by `python benchmarks/verdict.py --write` ({machine}).\n\n"
    (where / "verdict.md").write_text(f"{title}{page(found)}\n{headline(found)}\n")
    SETTINGS.write_text(json.dumps(settings_found(found), indent=1) + "\n")
    (where / "verdict.json").write_text(json.dumps(figures(found), indent=1) + "\n")


def _told(found: Found) -> str:
    each = found.runs * len(TRAFFIC)
    chosen = "Settings are those that the last full benchmark chose."
    if found.chosen_on:
        chosen = (
            f"Settings were chosen on {found.chosen_on} further runs: ours is that of {len(OURS)} with the least sum "
            "of wrong and missed; a peer's is the quickest that qualifies, and has to qualify on these as well."
        )
    lines = [
        f"{len(found.chosen.field.kind)} runs of {HORIZON_MIN} minutes: {found.runs} of each of 5 candidates in each "
        f"of {len(TRAFFIC)} kinds of traffic, so {each} of each candidate, which has a tenth of the requests. One "
        "setting for all of it, which watches latency and errors. *wrong*: identical candidates rolled back; *missed*: "
        "regressions not rolled back within the run; requests (the candidate's) and minutes: medians of the right "
        "decisions. A setting qualifies where wrong and each of the four missed are at most ours + one standard error. "
        f"{chosen} All is told twice: beside the setting that was chosen, and beside the shipped one.",
        "",
        *_qualify(found.chosen),
        *_qualify(found.standard),
        f"- The judge takes {found.speeds.columns:,.0f} requests/s a core as columns, {found.speeds.samples:,.0f} from "
        "samples.",
    ]
    return "\n".join(lines)


def _qualify(found: Results) -> list[str]:
    field, lines = found.field, list[str]()
    for best in found.best:
        many = f"{best.qualify:,} of {best.settings:,} settings qualify"
        none = f"**no setting of {best.settings:,} qualifies**"
        lines.append(f"- Beside *{field.mine}*, {best.peer}: {many if best.qualify else none}.")
    lines.append(
        f"- *{field.mine}* promotes {field.promoted:.0%} of the identical candidates within the two hours; the rest "
        f"that is not rolled back is not yet decided. It promotes {field.promoted_bad:.1%} of the regressions; all "
        "else it misses is not yet decided either."
    )
    return lines


def _judges(found: Results) -> str:
    head = ["one setting for all traffic", "wrong", *(f"missed {kind}" for kind in REGRESSIONS)]
    head += [f"{what} {kind}" for kind in HEADLINES.values() for what in ("requests", "minutes")]
    rows = [_judge(f"**Roundhouse**, {found.field.mine}", found.field.ours)]
    for best in found.best:
        quickest = {headline: setting(found.field, place) for headline, place in best.quickest.items()}
        rows += [_judge(f"{s.name} (quickest that qualifies, {h})", s) for h, s in quickest.items()]
        if not best.quickest:
            least = setting(found.field, best.least_wrong)
            rows.append(_judge(f"{least.name} (**does not qualify**, least wrong)", least))
    rows += [_judge(f"{s.name} (published)", s) for s in found.published.values()]
    return _table(f"Judges, beside {found.field.mine}", head, rows)


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
    return _table(f"Ratios, beside {found.field.mine}", head, rows) + f"\n\n{told}"


def _rates(score: Score, kind: str) -> str:
    return f"wrong {score.wrong():.0%}, missed {score.missed(kind):.0%}"


def _traffic(found: Results) -> str:
    ours, hindsight = found.field.ours, {h: found.hindsight_ratios(h) for h in HEADLINES}
    head = ["traffic", "wrong", *(f"missed {kind}" for kind in REGRESSIONS)]
    head += [x for h, kind in HEADLINES.items() for x in (f"requests {kind}", f"best peer with hindsight, {h}")]
    rows = []
    for name in (case.name for case in TRAFFIC):
        row = [name, f"{ours.wrong(name):.0%}", *(f"{ours.missed(kind, name):.0%}" for kind in REGRESSIONS)]
        for headline, kind in HEADLINES.items():
            row += [_number(ours.needs(kind, name)), _times(hindsight[headline].get(name, math.nan))]
        rows.append(row)
    runs = int(ours.rows(IDENTICAL, TRAFFIC[0].name).sum())
    return _table(f"{ours.name}, by traffic ({runs} runs a cell)", head, rows)


def _number(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:,.0f}"


def _times(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.2f}x"


def _table(title: str, head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join([f"## {title}", "", *(f"| {' | '.join(line)} |" for line in lines)])
