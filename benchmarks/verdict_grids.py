"""The settings of the peers, all of a grid at once: when each rolls a run back, in minutes.

The rules are those of ``verdict_peers``; here they run over arrays, and a test holds the two together. A setting
watches latency and errors, as a user's would who does not know what the next release breaks. ``NEVER``: not within its
analysis, which lasts ``LIVES`` minutes, of the run.

Windows, thresholds, failure limits and the quantile are the user's to choose; so are limits, as times of stable's value
in the same window (Argo) or as a level fixed once (Flagger, Argo). Kayenta's judge leaves its user the interval, the
number of points, the effect size and its measure; its tolerance of 25 % and its confidence of 98 % are in its code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from benchmarks.verdict_looks import ERRORS, LATENCIES, Looks, objective
from benchmarks.verdict_peers import CONFIDENCE, Class, Shift, classified, rank_sum, shift_of
from benchmarks.verdict_traffic import HORIZON_MIN, Floats

Minutes = NDArray[np.uint8]
Setting = tuple[str | float, ...]
NEVER = 255
LIVES = (10, 30, 60, 120)
WINDOWS = (1, 2, 3, 5, 10, 15, 20, 30, 60)
FAILURES = (0, 1, 2, 3, 4, 6, 9)  # failed measurements that are allowed
TIMES = {  # of stable's value in the same window
    False: (1.03, 1.06, 1.1, 1.13, 1.16, 1.2, 1.25, 1.3, 1.4, 1.5, 1.75, 2.0),
    True: (1.1, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0),
}
LEVELS = {  # of the objective; infinite: not watched
    False: (1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.4, 1.5, 1.75, 2.0, np.inf),
    True: (1.1, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, np.inf),
}
EFFECTS = (*(("ratio", least) for least in (1.0, 1.05, 1.1, 1.2, 1.5)), ("CLES", 0.6), ("CLES", 0.7))
INTERVALS = tuple(
    (interval, back) for interval, back in product((5, 10, 20, 30, 60), (0, 30, 60)) if not 0 < back < interval
)


@dataclass(frozen=True)
class Group:
    """Settings of a peer of which any for latency goes with any for errors; the earlier of the two rolls back."""

    peer: str
    common: Setting
    latency: tuple[Setting, ...]
    errors: tuple[Setting, ...]
    lives: tuple[int, ...] = LIVES


def _argo_settings(metrics: Sequence[str], errors: bool) -> tuple[Setting, ...]:
    forms = [*(("x stable", t) for t in TIMES[errors]), *(("x fixed", t) for t in LEVELS[errors])]
    return tuple(
        (metric, window, *form, limit)
        for (metric, window), form, limit in product(product(metrics, WINDOWS), forms, FAILURES)
    )


def _flagger_settings() -> tuple[Setting, ...]:
    return tuple(
        (metric, window, slow, bad, limit + 1, life // window)
        for (metric, window), slow, bad, limit, life in product(
            product(LATENCIES, WINDOWS), LEVELS[False], LEVELS[True], FAILURES, LIVES
        )
    )


GROUPS = (
    *(
        Group("Kayenta", each, *(tuple((m, *e) for m, e in product(of, EFFECTS)) for of in (LATENCIES, (ERRORS,))))
        for each in INTERVALS
    ),
    Group("Flagger", (), _flagger_settings(), ((),), (HORIZON_MIN,)),
    Group("Argo", (), _argo_settings(LATENCIES, False), _argo_settings((ERRORS,), True)),
)  # fmt: skip
#: What the tools' own defaults and samples have; their limits are for one's own service to fill in.
PUBLISHED: dict[str, tuple[Setting, Setting, Setting, int]] = {
    "Kayenta": ((10, 0), ("p95", "ratio", 1.0), (ERRORS, "ratio", 1.0), 120),
    "Flagger": ((), ("p99", 1, 1.25, 1.5, 5, 10), (), HORIZON_MIN),
    "Argo": ((), ("p95", 1, "x stable", 1.2, 3), (ERRORS, 1, "x stable", 1.5, 3), 120),
}


def rolled_back(looks: Looks) -> list[tuple[Minutes, Minutes]]:
    """For each of ``GROUPS`` the minutes of its settings for latency, and of those for errors."""
    kayenta = [(_kayenta(looks, LATENCIES, *each), _kayenta(looks, (ERRORS,), *each)) for each in INTERVALS]
    flagger = (np.concatenate([_flagger(looks, *each) for each in product(LATENCIES, WINDOWS)]), _minutes([np.inf]))
    return [*kayenta, flagger, (_argo(looks, LATENCIES, False), _argo(looks, (ERRORS,), True))]


def _minutes(values: Sequence[float] | Floats) -> Minutes:
    return np.minimum(values, NEVER).astype(np.uint8)


def nth(happens: NDArray[np.bool_], n: int) -> Floats:
    """How many windows until it has happened ``n`` times, along the last axis; infinite: it has not."""
    seen = np.cumsum(happens, axis=-1) >= n
    return np.where(seen[..., -1], seen.argmax(axis=-1) + 1.0, np.inf)


def _argo(looks: Looks, metrics: Sequence[str], errors: bool) -> Minutes:
    """Too many failed measurements, or five without a result in a row."""
    found = []
    for metric, window in product(metrics, WINDOWS):
        canary, stable = looks.series(True, metric, window), looks.series(False, metric, window)
        levels = np.array(LEVELS[errors]) * objective(metric)
        bounds = np.vstack([np.outer(TIMES[errors], stable), np.repeat(levels[:, None], len(canary), 1)])
        nothing = np.isnan(canary) | np.isnan(bounds)
        silent = np.cumsum(np.pad(nothing, ((0, 0), (5, 0))), axis=1)
        silence = nth(silent[:, 5:] - silent[:, :-5] >= 5, 1)
        failed = np.stack([nth(canary > bounds, limit + 1) for limit in FAILURES], axis=-1)
        found.append(window * np.minimum(failed, silence[:, None]).ravel())
    return _minutes(np.concatenate(found))


def _flagger(looks: Looks, metric: str, window: int) -> Minutes:
    """So many failed checks before so many good ones; no values are a failed check."""
    slow, bad = looks.series(True, metric, window), looks.series(True, ERRORS, window)
    over = ~(slow <= np.array(LEVELS[False])[:, None] * objective(metric))
    more = ~(bad <= np.array(LEVELS[True])[:, None] * objective(ERRORS))
    failed = over[:, None] | more[None]
    ended = {life: nth(~failed, life // window) if life >= window else np.zeros(failed.shape[:-1]) for life in LIVES}
    stops = [nth(failed, limit + 1) for limit in FAILURES]
    found = [np.where(stop < ended[life], stop, np.inf) for stop, life in product(stops, LIVES)]
    return _minutes(window * np.stack(found, axis=-1).ravel())


def _kayenta(looks: Looks, metrics: Sequence[str], interval: int, back: int) -> Minutes:
    """The first judgement that says High, for each metric and effect size."""
    found = np.full((len(metrics), len(EFFECTS)), np.inf)
    for row, metric in enumerate(metrics):
        arms = [looks.series(arm, metric, 1) for arm in (True, False)]
        for end in range(interval, HORIZON_MIN + 1, interval):
            x, y = (v[max(end - back, 0) if back else 0 : end] for v in arms)
            high = _high(x[~np.isnan(x)], y[~np.isnan(y)], found[row] == np.inf)
            found[row, high & (found[row] == np.inf)] = end
    return _minutes(found.ravel())


def _high(x: Floats, y: Floats, asked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which effect sizes call it High; the interval is worked out only where it lies above zero and matters."""
    none = np.zeros(len(EFFECTS), bool)
    if not len(x) or not len(y) or rank_sum(x, y) <= ndtri((1 + CONFIDENCE) / 2):
        return none
    ratio = float(x.mean() / y.mean()) if y.mean() else np.inf
    cles = float((np.greater.outer(x, y) + 0.5 * np.equal.outer(x, y)).mean())
    large = np.array([(ratio if measure == "ratio" else cles) >= least for measure, least in EFFECTS])
    if not (large & asked).any():
        return none
    shift: Shift = replace(shift_of(x, y), ratio=np.inf)
    return large if classified(shift) is Class.HIGH else none
