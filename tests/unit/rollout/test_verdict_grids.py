"""The benchmark's grids, worked out over arrays, say what the published rules say step by step."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.verdict_grids import GROUPS, LIVES, NEVER, PUBLISHED, rolled_back
from benchmarks.verdict_looks import ERRORS, Looks, objective
from benchmarks.verdict_peers import AnalysisRun, Class, Flagger, Says, flagger_check, kayenta_metric, measured, within
from benchmarks.verdict_traffic import HORIZON_MIN, TRAFFIC, changed, draw

CASES = [(0, "latency x1.25"), (6, "identical"), (9, "errors x3")]  # steady; bursts with silent minutes; recorded


@pytest.fixture(scope="module", params=CASES, ids=[f"{TRAFFIC[k].name}, {kind}" for k, kind in CASES])
def run(request):
    """A run, and what all settings say of it."""
    number, kind = request.param
    looks = Looks(draw(changed(TRAFFIC[number], kind), np.random.default_rng(request.param[0])))
    return looks, rolled_back(looks)


def _some(group: str, which: int, rng) -> list[tuple[int, int, tuple]]:
    """Settings of a peer, drawn: (group, number, setting)."""
    places = [(g, k) for g, each in enumerate(GROUPS) if each.peer == group for k in range(len(_of(each, which)))]
    return [(*places[p], _of(GROUPS[places[p][0]], which)[places[p][1]]) for p in rng.integers(0, len(places), 60)]


def _of(group, which: int):
    return (group.latency, group.errors)[which]


@pytest.mark.parametrize("which", [0, 1])
def test_argo_in_arrays_is_argo_step_by_step(run, which):
    """The minute at which a measurement fails the run, and never where none does."""
    looks, found = run
    for g, number, (metric, window, form, times, limit) in _some("Argo", which, np.random.default_rng(which)):
        says, minute = AnalysisRun(limit), NEVER
        canary, stable = (looks.series(arm, metric, window) for arm in (True, False))
        for k, (x, y) in enumerate(zip(canary, stable, strict=True)):
            says = measured(says, within(x, y if form == "x stable" else objective(metric), times))
            if says.says is Says.ROLL_BACK:
                minute = (k + 1) * window
                break
        assert found[g][which][number] == minute


def test_flagger_in_arrays_is_flagger_step_by_step(run):
    """One count of failed checks over both metrics, against the steps that pass."""
    looks, found = run
    for g, number, (metric, window, slow, bad, threshold, steps) in _some("Flagger", 0, np.random.default_rng(3)):
        state, minute = Flagger(threshold, steps), NEVER
        values = [looks.series(True, name, window) for name in (metric, ERRORS)]
        for k, (x, y) in enumerate(zip(*values, strict=True)):
            if state.says is Says.GO_ON:
                state = flagger_check(state, bool(x <= slow * objective(metric) and y <= bad * objective(ERRORS)))
                minute = (k + 1) * window if state.says is Says.ROLL_BACK else NEVER
        assert found[g][0][number] == minute


@pytest.mark.parametrize("which", [0, 1])
def test_kayenta_in_arrays_is_kayenta_judgement_by_judgement(run, which):
    """The first judgement whose class is High, with the mean ratio as the effect size."""
    looks, found = run
    for g, number, (metric, measure, least) in _some("Kayenta", which, np.random.default_rng(5)):
        interval, back = GROUPS[g].common
        arms = [looks.series(arm, metric, 1) for arm in (True, False)]
        judged = range(interval, HORIZON_MIN + 1, interval) if measure == "ratio" else ()
        high = (end for end in judged if _high(arms, end, back, least))
        assert measure != "ratio" or found[g][which][number] == next(high, NEVER)


def _high(arms, end: int, back: int, least: float) -> bool:
    x, y = (series[max(end - back, 0) if back else 0 : end] for series in arms)
    return kayenta_metric(x, y, least) is Class.HIGH


def test_the_published_settings_are_in_the_grids():
    """Each peer's own defaults are among those that are tried."""
    for peer, (common, latency, errors, life) in PUBLISHED.items():
        group = next(g for g in GROUPS if (g.peer, g.common) == (peer, common))
        assert latency in group.latency and errors in group.errors and life in group.lives and life in LIVES
