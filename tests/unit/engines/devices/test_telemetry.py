"""Readings of GPUs, and what a stretch of them comes to. Time is an argument."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nvml_library import GIB, Device, Driver, bindings

from engines.devices.telemetry import (
    GpuUse,
    Reading,
    Readings,
    gpu_use,
    open_sampler,
    per_1000_tokens,
    together,
)
from rollout.errors import Unavailable

POWER_CAP, THERMAL = 0x4, 0x20


def sampled(driver, now=1.0):
    with open_sampler(bindings(driver)) as sampler:
        return sampler.sample(now)


def test_a_reading_has_all_in_our_units():
    """Watts, joules, bytes, shares; throttled for a reason that is not idleness or a user's wish."""
    device = Device("GPU-a", used=3 * GIB, percent=87, milliwatts=412_500, millijoules=9_000, ecc=(5, 1))
    device.reasons = 0x1 | 0x2 | POWER_CAP | THERMAL
    (reading,) = sampled(Driver([device]), 7.0)
    assert reading[:9] == (7.0, "GPU-a", 0.87, 3 * GIB, 412.5, 9.0, 40, 5, 1)
    assert reading.throttled == ("power cap", "thermal, by software")


def test_a_gpu_that_tells_nothing_is_read_as_nothing():
    """No value is invented, and the older name of the clocks' reasons is known."""
    silent = dict(total=None, percent=None, milliwatts=None, millijoules=None, celsius=None, ecc=None, reasons=None)
    assert sampled(Driver([Device("GPU-v", **silent)])) == (Reading(1.0, "GPU-v"),)
    old = Driver([Device("GPU-a", reasons=POWER_CAP)], missing=frozenset({"nvmlDeviceGetCurrentClocksEventReasons"}))
    assert sampled(old)[0].throttled == ("power cap",)


def test_a_mig_instance_tells_its_memory_only():
    """Power and work are of the whole GPU, which others share."""
    part = Device("MIG-1", total=10 * GIB, used=GIB, percent=50)
    assert sampled(Driver([Device("GPU-a", mig=[part])])) == (Reading(1.0, "MIG-1", memory_bytes=GIB),)


def test_a_machine_without_a_gpu_has_no_sampler():
    """One sentence says why; the driver is closed again."""
    driver = Driver()
    with pytest.raises(Unavailable, match="sees no GPU"), open_sampler(bindings(driver)):
        pass
    assert driver.opened == 0


def reading(at, **fields):
    return Reading(float(at), "GPU-a", **fields)


def test_a_stretch_is_summed_up():
    """Ten seconds at 200 W and half the work, then ten at 400 W and all of it, throttled."""
    readings = [
        reading(t, utilisation=0.5 if t < 10 else 1.0, memory_bytes=t, watts=200.0 if t < 10 else 400.0)
        for t in range(21)
    ]
    readings = [r._replace(joules=100.0 * r.at, reasons=POWER_CAP * (r.at >= 15)) for r in readings]
    readings = [r._replace(ecc_corrected=3 if r.at < 5 else 4, ecc_uncorrected=0, celsius=r.at) for r in readings]
    use = gpu_use(readings, 0.0, 20.0)
    assert (use.seconds, use.joules, use.throttled_s, use.throttled) == (20.0, 2000.0, 5.0, {"power cap": 5.0})
    assert (use.utilisation_max, use.memory_peak_bytes, use.celsius_max) == (1.0, 20, 20.0)
    assert (use.ecc_corrected, use.ecc_uncorrected) == (1, 0)
    assert use.utilisation_mean == pytest.approx(0.7625) and use.watts_mean == pytest.approx(305.0)
    assert per_1000_tokens(use.joules, 500) == 4000.0


def test_edges_between_two_looks_count_in_proportion():
    """A stretch of a fraction of a second has its share of the counter."""
    readings = [reading(0, joules=0.0, watts=100.0), reading(1, joules=100.0, watts=100.0)]
    assert gpu_use(readings, 0.25, 0.5).joules == pytest.approx(25.0)
    assert gpu_use(readings, 2.0, 3.0) is None and gpu_use(readings[:1], 0.0, 9.0) is None


def test_energy_without_a_counter_is_power_over_time():
    """Also where the counter began anew; time in which nobody looked is not made up."""
    assert gpu_use([reading(0, watts=100.0), reading(2, watts=300.0)], 0, 2).joules == 400.0
    anew = [reading(0, joules=900.0, watts=100.0), reading(1, joules=5.0, watts=100.0), reading(2, joules=105.0)]
    assert gpu_use(anew, 0, 2).joules == 200.0
    apart = gpu_use([reading(0, watts=100.0), reading(100, watts=100.0), reading(101, watts=50.0)], 0, 101)
    assert (apart.seconds, apart.joules) == (1.0, 75.0)


def test_gpus_together_are_flat_numbers():
    """Energy and power add up; what no GPU tells is left out; without a GPU there is nothing."""
    uses = [GpuUse("a", 10.0, 0.5, 0.9, 7, 100.0, 1000.0), GpuUse("b", 10.0, 0.7, 0.8, 9, 200.0, 2000.0)]
    numbers = together(uses, tokens=1500)
    assert numbers["energy_j_per_1000_tokens"] == 2000.0 and numbers["watts_mean"] == 300.0
    assert (numbers["gpus"], numbers["utilisation_mean"], numbers["memory_peak_bytes"]) == (2.0, 0.6, 9.0)
    assert "celsius_max" not in numbers and "energy_j_per_1000_tokens" not in together(uses)
    assert together([]) == {}


def test_only_so_many_readings_are_kept():
    """The newest, of each GPU by itself."""
    kept = Readings(kept_s=3.0, coarse_kept_s=0.0)
    for at in range(5):
        kept.add([reading(at), Reading(float(at), "GPU-b")])
    assert [r.at for r in kept.of("GPU-a")] == [2.0, 3.0, 4.0] == [r.at for r in kept.of("GPU-b")]
    assert [r.uuid for r in kept.latest()] == ["GPU-a", "GPU-b"] == list(kept.gpus()) and kept.of("GPU-c") == ()


def test_the_energy_of_a_long_canary_is_known():
    """Eight hours with readings of the last one: of what is older one a minute is kept, and the counter tells all."""
    kept = Readings(kept_s=3600.0)
    for at in range(8 * 3600 + 1):
        kept.add([reading(at, watts=500.0, joules=500.0 * at)])
    use = gpu_use(kept.of("GPU-a"), 0.0, 8 * 3600.0)
    assert (use.seconds, use.joules_over_s) == (pytest.approx(3600.0, abs=60.0), 8 * 3600.0)
    assert together([use], 8 * 3600 * 1000)["energy_j_per_1000_tokens"] == 500.0
    assert len(kept.of("GPU-a")) == 3600 + 7 * 60 + 1


@pytest.mark.parametrize(("began", "known"), [(0, True), (49, True), (51, False), (900, False)])
def test_energy_is_not_set_against_tokens_that_it_does_not_cover(began, known):
    """An agent that began to look later knows the energy of a part, and the tokens are of all of it."""
    readings = [reading(at, joules=300.0 * at) for at in range(began, 1001)]
    numbers = together([gpu_use(readings, 0.0, 1000.0)], tokens=1000)
    assert ("energy_j_per_1000_tokens" in numbers) is known
    assert numbers["joules"] == 300.0 * numbers["joules_over_s"] == 300.0 * (1000 - began)


def test_one_gpu_without_a_counter_leaves_the_energy_of_all_unknown():
    """A sum over some of them would be too little."""
    told, silent = [reading(0, joules=0.0), reading(1, joules=9.0)], [reading(0), reading(1)]
    assert together([gpu_use(told, 0.0, 1.0)], 10)["energy_j_per_1000_tokens"] == 900.0
    assert "energy_j_per_1000_tokens" not in together([gpu_use(each, 0.0, 1.0) for each in (told, silent)], 10)


@given(
    st.lists(st.tuples(st.floats(0.01, 5), st.floats(0, 700), st.floats(0, 1)), min_size=2, max_size=20),
    st.floats(0, 60),
    st.floats(0, 60),
)
def test_two_stretches_add_up_to_the_whole(steps, one, other):
    """Energy and seen time are additive, shares stay shares."""
    at, readings = 0.0, []
    for step, watts, share in steps:
        at += step
        readings.append(reading(at, watts=watts, utilisation=share))
    middle, end = sorted((one, other))
    uses = [gpu_use(readings, *span) for span in ((0.0, middle), (middle, end), (0.0, end))]
    for name in ("joules", "seconds"):
        first, second, whole = (getattr(use, name) if use else 0.0 for use in uses)
        assert (first or 0.0) + (second or 0.0) == pytest.approx(whole or 0.0, abs=1e-6)
    assert all(0 <= use.utilisation_mean <= use.utilisation_max + 1e-9 or use.seconds < 1e-9 for use in uses if use)
