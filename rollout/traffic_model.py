"""A service's traffic as numbers: how many requests when, of what kind, how fast and how well answered.

Made from rates given by hand, or estimated from recorded requests; drawn from with a seeded generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from rollout.errors import Refused
from rollout.evidence.columns import CODES, LEFT, REFUSED, Columns, columns
from rollout.nouns import Sample

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]
POINTS = 512  #: a distribution is kept as so many values, each as likely as the others
FEWEST = 20  #: requests that tell something
_CELL_S = 60.0
_CELLS = 1440  # of a profile


@dataclass(frozen=True)
class Kind:
    """Requests that are alike: prompts of about one length, found in the cache or not. Latencies in seconds, sorted."""

    share: float
    ttft_s: tuple[float, ...]
    tpot_s: tuple[float, ...] = ()
    tokens_out: tuple[int, ...] = (64,)
    bytes_in: int = 1000
    cached: int = 0  # 0 not told, 1 in the engine's prefix cache, 2 not


@dataclass(frozen=True)
class TrafficModel:
    """What stable's users send and get. ``errors``, ``refusals`` and ``left`` are shares of the requests.

    ``profile``: the rate in consecutive stretches of ``profile_s`` seconds, relative to ``per_minute``; it repeats.
    """

    per_minute: float
    kinds: tuple[Kind, ...]
    errors: float = 0.005
    refusals: float = 0.0
    left: float = 0.0
    profile: tuple[float, ...] = (1.0,)
    profile_s: float = _CELL_S

    def __post_init__(self) -> None:
        if not (self.per_minute > 0 and self.kinds and self.profile_s > 0):
            raise Refused("rate", self.per_minute, "more than 0 requests a minute", "give the rate of the service")
        events = (self.errors, self.refusals, self.left)
        if min(events) < 0 or sum(events) >= 1:
            raise Refused("errors", sum(events), "shares of the requests, below 100 % together", "give for example 0.5")

    @property
    def per_s(self) -> float:
        """Requests a second, on average."""
        return self.per_minute / 60


@dataclass(frozen=True)
class Effect:
    """How a candidate differs from stable: its latencies and its errors are so many times stable's."""

    name: str = "identical"
    ttft: float = 1.0
    tpot: float = 1.0
    errors: float = 1.0

    @property
    def harmless(self) -> bool:
        """Whether nothing is worse than stable's."""
        return max(self.ttft, self.tpot, self.errors) <= 1.0


def lognormal(median_s: float, sigma: float) -> tuple[float, ...]:
    """A log-normal distribution with that median; ``sigma`` is the spread of its logarithm. Raises Refused.

    >>> [round(x, 2) for x in lognormal(0.2, 0.8)[::128]]
    [0.02, 0.12, 0.2, 0.34]
    """
    if not (median_s > 0 and sigma >= 0):
        rule = "a positive median, and a spread of 0 or more"
        raise Refused("latency", f"median {median_s}, spread {sigma}", rule, "use for example 0.2 and 0.8")
    ranks = (np.arange(POINTS) + 0.5) / POINTS
    return tuple((median_s * np.exp(sigma * ndtri(ranks))).tolist())


def traffic_of(samples: Sequence[Sample]) -> TrafficModel:
    """The traffic that recorded live requests to one version were. Raises Refused with fewer than 20 good answers.

    The profile is that of the recorded time, minute by minute, or coarser where it is longer than a day.
    """
    seen = columns([s for s in samples if not s.mirrored], [])
    n = len(seen)
    if np.isfinite(_first(seen)).sum() < FEWEST:
        rule = f"fewer than {FEWEST} good answers say nothing of a service's traffic"
        raise Refused("recorded requests", n, rule, "give rates by hand, for example --rate 10 --ttft 0.2")
    length = max(float(seen.at[-1] - seen.at[0]) * n / (n - 1), 1.0)
    errors, refusals, left = (float(of.mean()) for of in (seen.failed, seen.error == REFUSED, seen.error == LEFT))
    profile, profile_s = _profile(seen.at, length)
    return TrafficModel(n / length * 60, _kinds(seen), errors, refusals, left, profile, profile_s)


def times(traffic: TrafficModel, begin: float, end: float, rng: np.random.Generator) -> Floats:
    """When requests begin, seconds: a Poisson process at the profile's rate, by the inverse of its integral."""
    first, last = int(begin // traffic.profile_s), int(np.ceil(end / traffic.profile_s))
    edges = np.clip(np.arange(first, last + 1) * traffic.profile_s, begin, end)
    rates = np.array(traffic.profile)[np.arange(first, last) % len(traffic.profile)] * traffic.per_s
    expected = np.concatenate([[0.0], np.cumsum(rates * np.diff(edges))])
    n = int(rng.poisson(expected[-1]))
    return np.asarray(np.interp(np.sort(rng.random(n)) * expected[-1], expected, edges))


def kinds_of(traffic: TrafficModel, n: int, rng: np.random.Generator) -> Numbers:
    """Of which kind each of ``n`` requests is."""
    ends = np.cumsum([kind.share for kind in traffic.kinds])
    return np.asarray(np.searchsorted(ends, rng.random(n) * ends[-1], side="right"), np.int64)


def answers(
    traffic: TrafficModel,
    at: Floats,
    kinds: Numbers,
    candidate: NDArray[np.bool_],
    weight: float,
    effect: Effect,
    rng: np.random.Generator,
) -> Columns:
    """What became of requests; those of the candidate differ by ``effect``."""
    n = len(at)
    tokens, size, cached = np.zeros(n), np.zeros(n), np.zeros(n, np.int8)
    ttft, tpot = np.full(n, np.nan), np.full(n, np.nan)
    for number, kind in enumerate(traffic.kinds):
        mine = np.flatnonzero(kinds == number)
        size[mine], cached[mine] = kind.bytes_in, kind.cached
        ttft[mine], tpot[mine] = _latencies(kind.ttft_s, len(mine), rng), _latencies(kind.tpot_s, len(mine), rng)
        tokens[mine] = rng.choice(kind.tokens_out, len(mine)) if kind.tokens_out else 0
    error = _errors(traffic, np.where(candidate, effect.errors, 1.0), rng)
    ttft = np.where(error == 0, ttft * np.where(candidate, effect.ttft, 1.0), np.nan)
    tpot = np.where((error == 0) & (tokens > 1), tpot * np.where(candidate, effect.tpot, 1.0), np.nan)
    return Columns(
        at=at,
        candidate=candidate,
        weight=np.full(n, weight),
        error=error,
        ttft=ttft,
        tpot=tpot,
        e2e=ttft + np.nan_to_num(tpot) * np.maximum(tokens - 1, 0),
        tokens_out=tokens,
        bytes_in=size,
        cached=cached,
        streamed=np.ones(n, bool),
    )


def _latencies(values: tuple[float, ...], n: int, rng: np.random.Generator) -> Floats:
    if not values:
        return np.full(n, np.nan)
    ranks = (np.arange(len(values)) + 0.5) / len(values)
    return np.asarray(np.interp(rng.random(n), ranks, values))


def _errors(traffic: TrafficModel, times_as_many: Floats, rng: np.random.Generator) -> NDArray[np.int8]:
    """Codes of what went wrong. A client that leaves does so whatever the answer would have been."""
    fate = rng.random(len(times_as_many))
    errors = np.minimum(traffic.errors * times_as_many, 1 - traffic.refusals - traffic.left)
    found = np.where(fate < errors, CODES["5xx"], 0)
    found = np.where((fate >= errors) & (fate < errors + traffic.refusals), REFUSED, found)
    return np.asarray(np.where(fate >= 1 - traffic.left, LEFT, found), np.int8)


def _profile(at: Floats, length: float) -> tuple[tuple[float, ...], float]:
    """Requests in consecutive stretches, relative to their mean, and how long a stretch is."""
    cells = min(max(int(length // _CELL_S), 1), _CELLS)
    counts, _ = np.histogram(at, cells, (float(at[0]), float(at[0]) + length))
    return tuple((counts / counts.mean()).tolist()), length / cells


def _first(seen: Columns) -> Floats:
    """The first byte; of an answer that was not streamed, the whole of it."""
    return np.where(np.isfinite(seen.ttft), seen.ttft, seen.e2e)


def _kinds(seen: Columns) -> tuple[Kind, ...]:
    """Requests by stratum; strata of which too few answers are known are taken for the most common one."""
    numbers, strata = np.unique(seen.strata, return_inverse=True)
    good = np.isfinite(_first(seen))
    counts = np.bincount(strata[good], minlength=len(numbers))
    strata = np.where(counts[strata] < FEWEST, int(counts.argmax()), strata)
    return tuple(_kind(seen.rows(strata == k), float((strata == k).mean())) for k in np.unique(strata).tolist())


def _kind(seen: Columns, share: float) -> Kind:
    tokens = seen.tokens_out[np.isfinite(seen.tokens_out)][-POINTS:].astype(int)
    cached = int(np.bincount(seen.cached).argmax())
    return Kind(
        share,
        _thinned(_first(seen)),
        _thinned(seen.tpot),
        tuple(tokens.tolist()),
        int(np.median(seen.bytes_in)),
        cached,
    )


def _thinned(seconds: Floats) -> tuple[float, ...]:
    known = np.sort(seconds[np.isfinite(seconds)])
    if len(known) > POINTS:
        known = np.quantile(known, (np.arange(POINTS) + 0.5) / POINTS)
    return tuple(known.tolist())
