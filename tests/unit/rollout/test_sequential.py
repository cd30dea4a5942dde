"""The tests behind the verdict, against independent values and their own promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import beta as beta_function
from scipy.stats import binom

from rollout.sequential import log_ratio_interval, more_events_e_value, rate_interval


def test_interval_covers_the_truth_at_every_look():
    """A confidence sequence is right at all looks together, not at each alone."""
    missed = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        a, b = rng.lognormal(0.3, 0.5, 150), rng.lognormal(0.0, 0.5, 150)
        spans = (log_ratio_interval(a[:n], b[:n], 0.1) for n in range(15, 151, 5))
        missed += any(not low <= 0.3 <= high for low, high in spans)
    assert missed <= 0.1 * 200 * 1.5


def test_interval_shrinks_with_samples():
    """More samples, a narrower interval around the same ratio."""
    rng = np.random.default_rng(0)
    a, b = rng.lognormal(0, 0.4, 2000), rng.lognormal(0, 0.4, 2000)
    widths = [high - low for low, high in (log_ratio_interval(a[:n], b[:n], 0.05) for n in (20, 200, 2000))]
    assert widths[0] > widths[1] > widths[2]


def test_rate_interval_solves_the_mixture_equation():
    """Both ends are where the Beta(1/2,1/2) mixture martingale reaches 1/alpha."""
    low, high = rate_interval(7, 60, 0.05)
    mixture = beta_function(7.5, 53.5) / beta_function(0.5, 0.5)
    for rate in (low, high):
        assert mixture / (rate**7 * (1 - rate) ** 53) == pytest.approx(20.0, rel=1e-6)
    assert low < 7 / 60 < high


def test_rate_interval_of_the_ends():
    """Nothing seen: from 0; all seen: to 1; no trial: everything is possible."""
    assert rate_interval(0, 50, 0.05)[0] == 0.0
    assert rate_interval(50, 50, 0.05)[1] == 1.0
    assert rate_interval(0, 0, 0.05) == (0.0, 1.0)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_e_value_has_mean_at_most_one_when_there_is_no_harm(share):
    """Averaged over what may happen at exactly the bound, the e-value is at most 1: betting on harm does not pay."""
    events, ratio = 12, 1.5
    chance = share * ratio / (1 - share + share * ratio)
    mean = sum(
        binom.pmf(k, events, chance) * more_events_e_value(k, events - k, share, ratio) for k in range(events + 1)
    )
    assert mean <= 1 + 1e-9


def test_e_value_grows_with_harm_and_not_without_traffic():
    """All errors on a small canary are strong evidence; no share, none."""
    assert more_events_e_value(10, 0, 0.1, 1.5) > 1e3
    assert more_events_e_value(1, 20, 0.5, 1.5) < 1
    assert more_events_e_value(5, 0, 0.0, 1.5) == 1.0
    assert math.isfinite(more_events_e_value(5000, 0, 0.01, 1.5))
