"""GPUs over the agent's own interface, from the real bindings on a library that describes a machine."""

from __future__ import annotations

import logging
import threading

import pytest
from fastapi.testclient import TestClient
from nvml_library import GIB, Device, Driver, bindings
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from agent.app import make_app
from agent.telemetry import GpuMetrics, GpuWatch
from engines.devices.telemetry import open_sampler
from engines.hardware import read_hardware
from rollout.errors import Unavailable
from store.port import StoreSettings, open_store


class Machine:
    """A driver, a watch on it, the agent's application, and a clock that each look turns by a second."""

    def __init__(self, tmp_path, *devices):
        self.driver, self.now, self.until = Driver(list(devices)), 1000.0, lambda: False
        self.nvml = bindings(self.driver)
        self.watch = GpuWatch(
            lambda: read_hardware(str(tmp_path), nvml=self.nvml),
            lambda: open_sampler(self.nvml),
            lambda: self.now,
            self.sleep,
        )
        store = open_store(StoreSettings("sqlite://"))
        app = make_app(store, "secret", [].append, lambda: True, bytes, dict, self.watch)
        self.client = TestClient(app)

    def sleep(self, seconds):
        """Each GPU uses its power meanwhile."""
        self.now += seconds
        if self.until():
            raise SystemExit
        for device in self.driver.devices:
            device.millijoules += int(device.milliwatts * seconds)

    def get(self, path, **params):
        answer = self.client.get(path, params=params)
        assert answer.status_code == 200
        return answer.json()

    def metrics(self):
        registry = CollectorRegistry()
        registry.register(GpuMetrics(self.watch.readings))
        page = generate_latest(registry).decode()
        return {s.name: s.value for f in text_string_to_metric_families(page) for s in f.samples}


def test_a_stretch_of_time_is_told_for_the_gpus_that_were_asked_for(tmp_path):
    """Ten seconds of one of two GPUs, with the energy of 1,000 tokens."""
    machine = Machine(tmp_path, Device("G0", milliwatts=300_000, percent=50), Device("G1", milliwatts=100_000))
    machine.watch.look(31)
    one = machine.get("/v1/telemetry", since=1005.0, until=1015.0, gpus="G0", tokens=2000)
    assert [use["uuid"] for use in one["gpus"]] == ["G0"] and one["note"] == ""
    assert one["together"]["joules"] == pytest.approx(3000.0)
    assert one["together"]["energy_j_per_1000_tokens"] == pytest.approx(1500.0)
    assert one["gpus"][0]["utilisation_mean"] == pytest.approx(0.5)
    both = machine.get("/v1/telemetry", since=1005.0)
    assert (both["until"], both["together"]["gpus"]) == (machine.now, 2.0)
    assert machine.get("/v1/telemetry", since=1.0, until=2.0)["together"] == {}
    assert machine.client.get("/v1/telemetry").status_code == 422


def test_the_machine_is_told_as_it_is_now(tmp_path):
    """With each GPU's free memory."""
    machine = Machine(tmp_path, Device("G0", used=3 * GIB))
    hardware = machine.get("/v1/hardware")
    assert hardware["gpus"][0]["free_bytes"] == 77 * GIB and hardware["driver"] == "580.95.05"
    assert hardware["cores"] >= 1


def test_without_a_gpu_it_is_said_once(tmp_path, caplog):
    """And looked again each minute; the answers are empty and say why, the page for Prometheus has nothing of GPUs."""
    machine = Machine(tmp_path)
    began = machine.now
    machine.until = lambda: machine.now > began + 600
    with caplog.at_level(logging.INFO, logger="roundhouse.agent"), pytest.raises(SystemExit):
        machine.watch.keep_looking()
    assert [record.message for record in caplog.records] == ["no GPU: the NVIDIA driver sees no GPU"]
    told = machine.get("/v1/telemetry", since=0.0)
    assert told["gpus"] == [] and told["together"] == {} and told["note"].startswith("no GPU: ")
    assert machine.metrics() == {}


def test_a_driver_that_is_loaded_late_is_found(tmp_path, caplog):
    """Also after an error that nobody foresaw, which is told with its place."""
    machine = Machine(tmp_path, Device("G0"))
    machine.driver.init = 9
    failures = iter([TypeError("no such structure")])

    def opened():
        for error in failures:
            raise error
        return open_sampler(machine.nvml)

    def sleep(seconds):
        machine.now += seconds
        if seconds > 1 and machine.now > 1100.0:
            machine.driver.init = 0
        if len(machine.watch.readings.of("G0")) > 3:
            raise SystemExit

    machine.watch = GpuWatch(dict, opened, lambda: machine.now, sleep)
    with caplog.at_level(logging.INFO, logger="roundhouse.agent"), pytest.raises(SystemExit):
        machine.watch.keep_looking()
    assert [bool(record.exc_info) for record in caplog.records] == [True, False]
    assert len(machine.watch.readings.of("G0")) > 3


def test_prometheus_gets_the_latest_reading(tmp_path):
    """Gauges and counters per GPU; what a GPU does not tell is left out."""
    machine = Machine(tmp_path, Device("G0", percent=25, reasons=0x4, ecc=None))
    machine.watch.look(3)
    metrics = machine.metrics()
    assert (metrics["roundhouse_gpu_utilisation"], metrics["roundhouse_gpu_power_watts"]) == (0.25, 100.0)
    assert metrics["roundhouse_gpu_energy_joules_total"] == 200.0
    assert not any("ecc" in name for name in metrics) and "roundhouse_gpu_throttled" in metrics


def test_a_driver_that_goes_away_is_asked_again(tmp_path):
    """What was read is kept; once it is back, reading goes on."""
    machine = Machine(tmp_path, Device("G0"))
    machine.watch.look(2)
    machine.driver.init = 9
    with pytest.raises(Unavailable, match="not loaded"):
        machine.watch.look(2)
    woken, back = threading.Event(), machine.driver

    def sleep(seconds):
        back.init = 0
        machine.now += seconds
        if len(machine.watch.readings.of("G0")) > 5:
            woken.set()
            raise SystemExit

    again = GpuWatch(dict, lambda: open_sampler(machine.nvml), lambda: machine.now, sleep)
    again.readings = machine.watch.readings
    with pytest.raises(SystemExit):
        again.keep_looking()
    assert woken.is_set() and machine.driver.opened == 0
