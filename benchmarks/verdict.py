"""The verdict beside the published rules of Kayenta, Flagger and Argo, on the same traffic.

    python benchmarks/verdict.py [--quick] [--json] [--write] [--runs N]

A user has one setting of a tool for all that a service sees by day and night, and does not know what the next release
breaks. So a judge has one setting here too, for all of the traffic: 60 and 6 of the candidate's requests a minute; a
steady load, drifts and bursts, errors that come and go, instances that differ, recorded requests. In each there are
candidates that are identical, 25 % and 50 % slower, and with two and three times the errors. Of each tool settings of
a grid are tried: a few of ours (``verdict_ours``), of a peer all that its user has to choose (``verdict_grids``; its
absolute limits are times of the mixed traffic's stable value). Ours is the one that is least wrong on the runs that
settings are chosen on: the least sum of wrong and missed. A peer's qualifies where its wrong rollbacks of identical
candidates, and its misses of each of the four regressions within the two hours, are at most ours plus one binomial
standard error, over all traffic, on the runs it is chosen on and on as many others, on which all is told. All of it is
told once more with the shipped policy as ours (``_standard``). ``--quick`` takes the settings that were chosen last.

A *request* is one that the candidate answered until the decision: what a user may have suffered from; medians are of
the right decisions. ``fewer_requests_p95`` and ``_errors``: what the quickest of all peers' qualifying settings needs
to roll back +25 % and doubled errors, over ours; if none qualifies, of the settings that are least wrong, one a peer
(``qualifying_*`` is 0 then). ``_published``: the quickest of the peers with their documentation's settings, whatever
their errors (in the table). ``_hindsight``: as if each peer were set anew for each traffic and regression after having
seen it, watching only the worse metric; the least of all traffic. ``exposed_*``: the first again, as the geometric mean
over the traffic of medians in which a miss counts all requests of its two hours. 0 stands for a number that there is
not. ``samples_per_s``: ``with_columns`` and ``judge`` in looks of 5,000 requests.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this file's folder is no place to import from

from benchmarks.verdict_choice import Field, Play  # noqa: E402
from benchmarks.verdict_grids import rolled_back  # noqa: E402
from benchmarks.verdict_looks import ERRORS, LATENCIES, Looks, objective, ours  # noqa: E402
from benchmarks.verdict_ours import OURS, STANDARD  # noqa: E402
from benchmarks.verdict_report import headline, page, write  # noqa: E402
from benchmarks.verdict_results import Found, Speeds, chosen_last, figures, results  # noqa: E402
from benchmarks.verdict_speed import speed, speed_of_samples  # noqa: E402
from benchmarks.verdict_traffic import KINDS, TRAFFIC, changed, draw  # noqa: E402

RUNS = 20  # of each candidate in each traffic, and as many to choose settings on: 2,000 in all
FRESH = 1000  # the number of the first run that no setting was chosen on
CORES = 2


def main() -> int:
    """Run it; the figure is on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few runs, settings as last chosen; under a minute")
    parser.add_argument("--json", action="store_true", help="one object {name: number}")
    parser.add_argument("--write", action="store_true", help="put the tables into benchmarks/results/")
    parser.add_argument("--runs", type=int, default=RUNS, help="of each candidate in each traffic")
    asked = parser.parse_args()
    found = measure(1, 0) if asked.quick else measure(asked.runs, asked.runs)
    if asked.write and not asked.quick:
        write(found, Path(__file__).resolve().parent / "results")
    print(json.dumps(figures(found)) if asked.json else f"{page(found)}\n{headline(found)}")
    return 0


def measure(runs: int, chosen_on: int) -> Found:
    """All runs, over ``CORES`` processes; the same numbers whatever their number."""
    for metric in (*LATENCIES, ERRORS):
        objective(metric)
    further = Field(_plays(0, chosen_on, list(OURS)), STANDARD) if chosen_on else None
    mine = further.least_wrong() if further else chosen_last()
    told_on = Field(_plays(FRESH, runs, list(dict.fromkeys((STANDARD, mine)))), mine)
    return results(further, told_on, runs, Speeds(speed(), speed_of_samples()))


def _plays(first: int, runs: int, settings: list[str]) -> list[Play]:
    """That many runs of each candidate in each traffic, judged by those settings of ours."""
    seeds = product(range(first, first + runs), range(len(TRAFFIC)), range(len(KINDS)))
    with get_context("fork").Pool(CORES) as pool:
        return pool.starmap(play, [(seed, settings) for seed in seeds], chunksize=4)


def play(seed: tuple[int, int, int], settings: list[str]) -> Play:
    """One run, judged by all: its seed is (number, traffic, candidate)."""
    case, kind = TRAFFIC[seed[1]], KINDS[seed[2]]
    looks = Looks(draw(changed(case, kind), np.random.default_rng(seed)))
    told = {name: ours(looks, OURS[name]) for name in settings}
    return Play(case.name, kind, told, looks.requests_until(), rolled_back(looks))


if __name__ == "__main__":
    raise SystemExit(main())
