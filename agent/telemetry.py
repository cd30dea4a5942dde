"""What this machine's GPUs do: looked at once a second where there are any, told over HTTP and to Prometheus."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from engines.devices.telemetry import REASONS, Readings, Sampler, gpu_use, open_sampler, together
from engines.hardware import Hardware
from rollout.errors import Unavailable

LOOK_S = 1.0
AGAIN_S = 60.0
LOOKS = 300  # after which the driver is opened anew: GPUs may have been parted, lost or added
log = logging.getLogger("roundhouse.agent")


class GpuWatch:
    """Reads the GPUs in a thread of its own. ``opened`` gives the sampler, ``hardware`` what the machine is."""

    def __init__(
        self,
        hardware: Callable[[], Hardware],
        opened: Callable[[], AbstractContextManager[Sampler]] = open_sampler,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._hardware, self._opened, self._clock, self._sleep = hardware, opened, clock, sleep
        self.readings = Readings()

    def keep_looking(self) -> None:
        """Look again and again. What hinders is told once and tried again each minute: a driver may be loaded late."""
        told = ""
        while True:
            try:
                self.look(LOOKS)
                told = ""
            except Exception as error:  # whatever it is: a thread that ended unseen would never look again
                if str(error) != told:
                    self._tell(error)
                told = str(error)
                self._sleep(AGAIN_S)

    def _tell(self, error: Exception) -> None:
        if isinstance(error, Unavailable) and not self.readings.gpus():
            log.info("no GPU: %s", error)
        else:
            log.warning("the GPUs are not watched: %s", error, exc_info=not isinstance(error, Unavailable))

    def look(self, times: int) -> None:
        """So many looks, a second apart. Raises Unavailable where there is no GPU."""
        with self._opened() as sampler:
            for _ in range(times):
                self.readings.add(sampler.sample(self._clock()))
                self._sleep(LOOK_S)

    def hardware(self) -> dict[str, Any]:
        """What this machine has now, as a mapping."""
        return asdict(self._hardware())

    def telemetry(self, since: float, until: float | None = None, gpus: str = "", tokens: int = 0) -> dict[str, Any]:
        """What the GPUs did between two times (epoch seconds; None: now), each and together.

        ``gpus``: UUIDs with commas between, empty for all; ``tokens``: that were generated meanwhile, for the energy of
        1,000. Without a GPU ``together`` is empty and ``note`` says why.
        """
        now = self._clock()
        ends = now if until is None else until
        named = [name for name in gpus.split(",") if name]
        kept = [self.readings.of(uuid) for uuid in self.readings.gpus() if not named or uuid in named]
        uses = [use for readings in kept if (use := gpu_use(readings, since, ends))]
        note = "" if self.readings.gpus() else self._hardware().gpu_note
        return {
            "since": since,
            "until": ends,
            "gpus": [asdict(use) for use in uses],
            "together": together(uses, tokens),
            "note": note,
        }


class GpuMetrics(Collector):
    """The latest reading of each GPU, for a registry; nothing where there are none."""

    def __init__(self, readings: Readings) -> None:
        self._readings = readings

    def collect(self) -> Iterator[Metric]:
        """The metric families."""
        latest = self._readings.latest()
        for name, attribute, grows, text in _METRICS:
            family_of = CounterMetricFamily if grows else GaugeMetricFamily
            family = family_of(f"roundhouse_gpu_{name}", text, labels=["gpu"])
            for reading in latest:
                if (value := getattr(reading, attribute)) is not None:
                    family.add_metric([reading.uuid], float(value))
            if family.samples:
                yield family
        if latest:
            text = "Whether clocks are held down, by reason."
            throttled = GaugeMetricFamily("roundhouse_gpu_throttled", text, labels=["gpu", "reason"])
            for reading in latest:
                for reason in REASONS.values():
                    throttled.add_metric([reading.uuid, reason], float(reason in reading.throttled))
            yield throttled


#: (name, attribute of a Reading, whether it only grows, what it means)
_METRICS = (
    ("utilisation", "utilisation", False, "Share of the last interval in which the GPU worked, 0 to 1."),
    ("memory_used_bytes", "memory_bytes", False, "Memory in use."),
    ("power_watts", "watts", False, "Power drawn now."),
    ("energy_joules", "joules", True, "Energy since the driver was loaded."),
    ("temperature_celsius", "celsius", False, "Temperature of the chip."),
    ("ecc_corrected", "ecc_corrected", True, "Memory errors that were corrected, since the driver was loaded."),
    ("ecc_uncorrected", "ecc_uncorrected", True, "Memory errors that were not corrected, since the driver was loaded."),
)
