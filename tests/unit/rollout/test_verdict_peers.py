"""The peers of the verdict's benchmark do what their tools publish: known cases, and the arithmetic of their rules."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.verdict_peers import (
    AnalysisRun,
    Class,
    Flagger,
    Says,
    classified,
    flagger_check,
    flagger_rolls_back,
    kayenta_group,
    kayenta_metric,
    kayenta_says,
    kayenta_score,
    measured,
    shift_of,
    too_many,
    within,
)

HIGH, PASS, NODATA = Class.HIGH, Class.PASS, Class.NODATA


@pytest.mark.parametrize(("slow", "says"), [(7, PASS), (8, HIGH)])
def test_kayenta_needs_eight_of_ten_minutes_to_be_a_hundred_times_slower(slow, says):
    """The case of spinnaker#6278: the estimate of the shift is 99, but its interval begins near 0 with seven."""
    canary = [100.0] * slow + [1.0] * (10 - slow)
    shift = shift_of(canary, [1.0] * 10)
    assert classified(shift) is says and shift.estimate == pytest.approx(99.0)
    assert shift.low == pytest.approx(99.0 if says is HIGH else 0.0)


def test_kayenta_passes_what_leaves_the_middle_where_it_is():
    """A tenth of the minutes ten times slower, or twenty times the spread: no shift is found in 60 minutes."""
    passed = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        baseline, canary = rng.normal(100, 1, 60), rng.normal(100, 1, 60)
        wide = rng.normal(100, 20, 60)
        canary[:6] *= 10
        passed.append((kayenta_metric(canary, baseline) is PASS, kayenta_metric(wide, baseline) is PASS))
    assert np.mean(passed, axis=0) == pytest.approx([1.0, 1.0], abs=0.04)


def test_kayenta_fails_a_trivial_shift_with_enough_points():
    """One percent, 3,000 points a side, default limits."""
    rng = np.random.default_rng(1)
    baseline, canary = rng.normal(100, 10, 3000), rng.normal(101, 10, 3000)
    assert kayenta_metric(canary, baseline) is HIGH and kayenta_metric(canary, baseline, 1.1) is PASS


def _wrong(series, n: int, runs: int) -> float:
    """How often identical systems are told apart, in either direction."""
    wrong = 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        x, y = series(rng, n), series(rng, n)
        wrong += classified(shift_of(x, y)) is HIGH or classified(shift_of(y, x)) is HIGH
    return wrong / runs


def _dependent(rng, n: int):
    values = [rng.normal()]
    while len(values) < n:
        values.append(0.7 * values[-1] + rng.normal(0, (1 - 0.7**2) ** 0.5))
    return 100 + np.array(values)


def test_kayenta_is_wrong_more_often_than_its_level():
    """Three points: 5 % in place of 2 %. Minutes that depend on each other, AR(1) 0.7: 7 to 24 %."""
    assert _wrong(lambda rng, n: rng.normal(100, 1, n), 3, 1500) == pytest.approx(0.05, abs=0.018)
    for points in (5, 10, 30):
        assert 0.05 < _wrong(_dependent, points, 250) < 0.29


def test_kayenta_takes_missing_data_for_no_failure():
    """A metric without values is no failure, a group without any counts as 100, and half of all missing is 0."""
    assert kayenta_metric([float("nan")], [1.0]) is NODATA and kayenta_metric([1.0, 2.0], [1.0, 2.0]) is PASS
    assert kayenta_group([PASS, HIGH]) == 50 and kayenta_group([NODATA, PASS]) == kayenta_group([NODATA]) == 100
    assert kayenta_score([(0.7, [PASS, PASS]), (0.3, [HIGH])]) == pytest.approx(70)
    assert kayenta_score([(0.7, [PASS]), (0.3, [NODATA])]) == 0


def test_kayenta_fails_at_any_look_and_passes_at_the_end():
    """Below marginal at once; between marginal and pass neither."""
    assert [kayenta_says(score, False, 75, 50) for score in (49, 60, 100)] == [Says.ROLL_BACK, Says.GO_ON, Says.GO_ON]
    assert [kayenta_says(score, True, 75, 50) for score in (49, 60, 75)] == [Says.ROLL_BACK, Says.GO_ON, Says.PROMOTE]


@pytest.mark.parametrize(
    ("requests", "rate", "rolled_back"), [(50, 0.008, 0.52), (50, 0.005, 0.18), (5, 0.03, 1 - 0.96)]
)
def test_flagger_arithmetic(requests, rate, rolled_back):
    """SLO 99 %, five failed checks, ten steps: 52 % and 18 % of healthy services go, 96 % of a broken one stays."""
    fails = too_many(requests, rate, 0.99)
    assert flagger_rolls_back(fails) == pytest.approx(rolled_back, abs=0.005)
    ended = [_flagger(np.random.default_rng(seed), requests, rate) for seed in range(1500)]
    assert np.mean([e is Says.ROLL_BACK for e in ended]) == pytest.approx(rolled_back, abs=0.04)


def _flagger(rng, requests: int, rate: float) -> Says:
    analysis = Flagger()
    while analysis.says is Says.GO_ON:
        analysis = flagger_check(analysis, rng.binomial(requests, rate) <= 0.01 * requests)
    return analysis.says


def test_flagger_counts_silence_as_failure_and_forgets_no_failure():
    """Five intervals without values roll back, with any passes between them."""
    analysis = Flagger()
    for good in (None, True, None, True, None, True, None, True, None):
        assert analysis.says is Says.GO_ON
        analysis = flagger_check(analysis, good)
    assert analysis.says is Says.ROLL_BACK


def _aborts(per_minute: float, window: int, runs: int) -> list[float]:
    """Minutes at which identical canaries are aborted within two hours: p95 above 1.2 times stable's, limit 3."""
    minutes = []
    for seed in range(runs):
        rng, run = np.random.default_rng(seed), AnalysisRun(failure_limit=3)
        for minute in range(window, 121, window):
            sizes = rng.poisson(per_minute * window), rng.poisson(9 * per_minute * window)
            p95 = [np.quantile(rng.lognormal(0, 0.8, n), 0.95) if n else np.nan for n in sizes]
            run = measured(run, within(p95[0], p95[1], 1.2))
            if run.says is Says.ROLL_BACK:
                minutes.append(minute)
                break
    return minutes


@pytest.mark.parametrize(
    ("per_minute", "window", "aborted", "median"),
    [(60, 1, 1.0, 27), (6, 1, 1.0, 23), (60, 5, 0.0, None), (6, 5, 0.61, None)],
)  # fmt: skip
def test_argo_aborts_identical_canaries(per_minute, window, aborted, median):
    """Windows of a minute: all of them, sooner or later; of five minutes: none, or with little traffic most."""
    runs = 100
    minutes = _aborts(per_minute, window, runs)
    assert len(minutes) / runs == pytest.approx(aborted, abs=0.02 if aborted in (0.0, 1.0) else 0.15)
    if median:
        assert np.median(minutes) == pytest.approx(median, rel=0.25)


def test_argo_calls_errors_in_a_row_an_abort_and_an_early_end_a_success():
    """Five queries without a result abort; a count that is reached without failures succeeds."""
    run = AnalysisRun(count=3)
    for _ in range(5):
        assert run.says is Says.GO_ON
        run = measured(run, None)
    assert run.says is Says.ROLL_BACK
    for _ in range(3):
        run = measured(run if run.taken else AnalysisRun(count=3), True)
    assert run.says is Says.PROMOTE and measured(AnalysisRun(), False).says is Says.ROLL_BACK
