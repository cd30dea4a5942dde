"""What GPUs do over time: readings through NVML, kept for some hours, and what a stretch of them comes to.

Summaries are pure: readings and two times in, numbers out. What a GPU does not tell is None.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import pynvml

from engines.devices.nvml import Handle, ask, handles, opened
from rollout.errors import Unavailable

GAP_S = 10.0  # readings further apart say nothing of the time between them; the energy counter still does
KEPT_S = 4 * 3600.0
COARSE_S = 60.0  # between the readings that are kept of what is older, for the counters
KEPT_COARSE_S = 7 * 24 * 3600.0
LEAST_SEEN = 0.95  # of a stretch: with less of it known, its energy is not set against its tokens
#: Why clocks are lower than they could be (nvml.h, nvmlClocksEventReason*). Idle, or set by a user, is no throttling.
REASONS = {
    pynvml.nvmlClocksEventReasonSwPowerCap: "power cap",
    pynvml.nvmlClocksEventReasonHwSlowdown: "hardware slowdown",
    pynvml.nvmlClocksEventReasonSwThermalSlowdown: "thermal, by software",
    pynvml.nvmlClocksEventReasonHwThermalSlowdown: "thermal, by hardware",
    pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown: "power brake",
}


class Reading(NamedTuple):  # one a second and GPU, for hours
    """One look at one GPU. ``joules`` and the ECC errors are counters since the driver was loaded."""

    at: float  # epoch seconds
    uuid: str
    utilisation: float | None = None  # 0..1: share of the last interval in which a kernel ran
    memory_bytes: int | None = None  # in use
    watts: float | None = None
    joules: float | None = None
    celsius: float | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    reasons: int = 0  # bits of REASONS

    @property
    def throttled(self) -> tuple[str, ...]:
        """Why its clocks are held down; empty when they are not."""
        return tuple(name for bit, name in REASONS.items() if self.reasons & bit)


class Sampler:
    """Reads all GPUs through an NVML that is open. A MIG instance tells its memory only: the rest is of the whole GPU,
    which others share."""

    def __init__(self, library: Any = pynvml) -> None:
        self._library, self._handles = library, handles(library)

    @property
    def gpus(self) -> int:
        """How many are read."""
        return len(self._handles)

    def sample(self, now: float) -> tuple[Reading, ...]:
        """One reading of each. Raises nothing: a GPU that is lost tells nothing."""
        return tuple(self._read(handle, now) for handle in self._handles)

    def _read(self, handle: Handle, now: float) -> Reading:
        memory = ask(self._library, "nvmlDeviceGetMemoryInfo", handle.device)
        used = memory.used if memory else None
        if handle.parent is not None:
            return Reading(now, handle.uuid, memory_bytes=used)
        rates = self._ask("nvmlDeviceGetUtilizationRates", handle)
        milliwatts, millijoules = (
            self._ask(f"nvmlDeviceGet{name}", handle) for name in ("PowerUsage", "TotalEnergyConsumption")
        )
        return Reading(
            at=now,
            uuid=handle.uuid,
            utilisation=rates.gpu / 100 if rates else None,
            memory_bytes=used,
            watts=None if milliwatts is None else milliwatts / 1000,
            joules=None if millijoules is None else millijoules / 1000,
            celsius=self._ask("nvmlDeviceGetTemperature", handle, pynvml.NVML_TEMPERATURE_GPU),
            ecc_corrected=self._ecc(handle, pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
            ecc_uncorrected=self._ecc(handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
            reasons=self._reasons(handle),
        )

    def _ask(self, name: str, handle: Handle, *arguments: Any) -> Any:
        return ask(self._library, name, handle.device, *arguments)

    def _ecc(self, handle: Handle, kind: int) -> int | None:
        return self._ask("nvmlDeviceGetTotalEccErrors", handle, kind, pynvml.NVML_VOLATILE_ECC)

    def _reasons(self, handle: Handle) -> int:
        """Drivers before R535 know it under its older name."""
        found = self._ask("nvmlDeviceGetCurrentClocksEventReasons", handle)
        if found is None:
            found = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
        return found or 0


@contextmanager
def open_sampler(library: Any = pynvml) -> Iterator[Sampler]:
    """A sampler of this machine's GPUs. Raises Unavailable with a sentence that says why there are none."""
    with opened(library):
        sampler = Sampler(library)
        if not sampler.gpus:
            raise Unavailable("the NVIDIA driver sees no GPU")
        yield sampler


class Readings:
    """The latest readings of each GPU: ``kept_s`` seconds of them at one a second, and of ``coarse_kept_s`` seconds
    before these one a minute. Safe to use from several threads."""

    def __init__(self, kept_s: float = KEPT_S, coarse_kept_s: float = KEPT_COARSE_S) -> None:
        self._kept, self._coarse_kept, self._lock = int(kept_s), int(coarse_kept_s / COARSE_S), threading.Lock()
        self._by_gpu: dict[str, deque[Reading]] = {}
        self._older: dict[str, deque[Reading]] = {}

    def add(self, readings: Iterable[Reading]) -> None:
        """Keep them, and let go of the oldest."""
        with self._lock:
            for reading in readings:
                kept = self._by_gpu.setdefault(reading.uuid, deque(maxlen=self._kept))
                if len(kept) == self._kept:
                    self._keep_older(kept[0])
                kept.append(reading)

    def _keep_older(self, reading: Reading) -> None:
        older = self._older.setdefault(reading.uuid, deque(maxlen=self._coarse_kept))
        if not older or reading.at - older[-1].at >= COARSE_S:
            older.append(reading)

    def of(self, uuid: str) -> tuple[Reading, ...]:
        """All that is kept of one GPU, oldest first."""
        with self._lock:
            return (*self._older.get(uuid, ()), *self._by_gpu.get(uuid, ()))

    def gpus(self) -> tuple[str, ...]:
        """The GPUs of which something is kept."""
        with self._lock:
            return tuple(self._by_gpu)

    def latest(self) -> tuple[Reading, ...]:
        """The last of each GPU."""
        with self._lock:
            return tuple(kept[-1] for kept in self._by_gpu.values())


@dataclass(frozen=True)
class GpuUse:
    """One GPU over a stretch of ``span_s`` seconds. ``seconds`` of it were seen; means and peaks are of these.
    ``joules`` are of ``joules_over_s`` seconds, which are more where just the counter was read from time to time."""

    uuid: str
    seconds: float
    utilisation_mean: float | None = None  # 0..1
    utilisation_max: float | None = None
    memory_peak_bytes: int | None = None
    watts_mean: float | None = None
    joules: float | None = None
    celsius_max: float | None = None
    throttled_s: float = 0.0
    throttled: dict[str, float] = field(default_factory=dict)  # reason -> seconds
    ecc_corrected: int | None = None  # new ones
    ecc_uncorrected: int | None = None
    span_s: float = 0.0
    joules_over_s: float = 0.0

    @property
    def energy_known(self) -> bool:
        """Of nearly all of the stretch."""
        return self.joules is not None and self.joules_over_s >= LEAST_SEEN * self.span_s


def gpu_use(readings: Sequence[Reading], since: float, until: float) -> GpuUse | None:
    """What one GPU's readings (oldest first) say of the stretch between two times (epoch seconds); None: nothing."""
    spans = [span for one, other in pairwise(readings) if (span := _Span.of(one, other, since, until)).seconds > 0]
    if not spans:
        return None
    touched = [spans[0].one, *(span.other for span in spans)]
    close = [span for span in spans if span.close]
    seen = [reading for span in close for reading in (span.one, span.other)]
    why = {name: sum(s.seconds for s in close if name in s.one.throttled) for name in REASONS.values()}
    return GpuUse(
        uuid=readings[0].uuid,
        seconds=sum(span.seconds for span in close),
        utilisation_mean=_mean([(span.mean("utilisation"), span.seconds) for span in close]),
        utilisation_max=_most(reading.utilisation for reading in seen),
        memory_peak_bytes=_most(reading.memory_bytes for reading in seen),
        watts_mean=_mean([(span.mean("watts"), span.seconds) for span in close]),
        joules=_sum(span.joules() for span in spans),
        celsius_max=_most(reading.celsius for reading in seen),
        throttled_s=sum(span.seconds for span in close if span.one.throttled),
        throttled={name: seconds for name, seconds in why.items() if seconds},
        ecc_corrected=_grown([reading.ecc_corrected for reading in touched]),
        ecc_uncorrected=_grown([reading.ecc_uncorrected for reading in touched]),
        span_s=until - since,
        joules_over_s=sum(span.seconds for span in spans if span.joules() is not None),
    )


class _Span(NamedTuple):
    """The time between two readings, and how much of it lies in the stretch."""

    one: Reading
    other: Reading
    seconds: float

    @classmethod
    def of(cls, one: Reading, other: Reading, since: float, until: float) -> _Span:
        return cls(one, other, max(0.0, min(other.at, until) - max(one.at, since)))

    @property
    def close(self) -> bool:
        return self.other.at - self.one.at <= GAP_S

    def mean(self, name: str) -> float | None:
        values = [v for v in (getattr(self.one, name), getattr(self.other, name)) if v is not None]
        return sum(values) / len(values) if values else None

    def joules(self) -> float | None:
        """Of the counter its share in time; where it is missing or began anew, mean power times seconds."""
        before, after = self.one.joules, self.other.joules
        if before is not None and after is not None and after >= before:
            return (after - before) * self.seconds / (self.other.at - self.one.at)
        watts = self.mean("watts") if self.close else None
        return None if watts is None else watts * self.seconds


def per_1000_tokens(joules: float | None, tokens: int) -> float | None:
    """Energy in J of 1,000 output tokens; None where either is unknown."""
    return joules * 1000 / tokens if joules is not None and tokens > 0 else None


def together(uses: Sequence[GpuUse], tokens: int = 0) -> dict[str, float]:
    """Several GPUs over the same stretch as flat numbers: mean utilisation, sums of power, energy, errors; the peak of
    memory is that of the fullest. Empty without a GPU; what none of them tells is left out, and so is the energy of
    1,000 tokens unless that of each GPU is known for nearly all of the stretch in which they were generated."""
    if not uses:
        return {}
    joules = _sum(use.joules for use in uses)
    numbers = {
        "gpus": len(uses),
        "seconds": max(use.seconds for use in uses),
        "utilisation_mean": _mean([(use.utilisation_mean, 1.0) for use in uses]),
        "utilisation_max": _most(use.utilisation_max for use in uses),
        "memory_peak_bytes": _most(use.memory_peak_bytes for use in uses),
        "watts_mean": _sum(use.watts_mean for use in uses),
        "joules": joules,
        "joules_over_s": min(use.joules_over_s for use in uses) if joules is not None else None,
        "celsius_max": _most(use.celsius_max for use in uses),
        "throttled_s": max(use.throttled_s for use in uses),
        "ecc_corrected": _sum(use.ecc_corrected for use in uses),
        "ecc_uncorrected": _sum(use.ecc_uncorrected for use in uses),
        "energy_j_per_1000_tokens": per_1000_tokens(joules, tokens) if all(u.energy_known for u in uses) else None,
    }
    return {name: float(value) for name, value in numbers.items() if value is not None}


def _mean(weighted: Sequence[tuple[float | None, float]]) -> float | None:
    known = [(value, weight) for value, weight in weighted if value is not None]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else None


def _most(values: Iterable[Any]) -> Any:
    return max((value for value in values if value is not None), default=None)


def _sum(values: Iterable[Any]) -> Any:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _grown(counts: Sequence[int | None]) -> int | None:
    """How much a counter grew; one that began anew (the driver was reloaded) counts from 0."""
    known = [count for count in counts if count is not None]
    if len(known) < 2:
        return None
    return sum(after - before if after >= before else after for before, after in pairwise(known))
