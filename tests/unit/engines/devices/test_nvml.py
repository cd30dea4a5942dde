"""GPUs as the driver tells of them, through the real bindings on a library that describes a machine."""

from __future__ import annotations

import pynvml
import pytest
from nvml_library import (
    DRIVER_NOT_LOADED,
    GIB,
    LIB_RM_VERSION_MISMATCH,
    NO_PERMISSION,
    Device,
    Driver,
    bindings,
)

from engines.devices.nvml import read_gpus
from engines.hardware import Gpu, read_hardware


def linked(*uuids):
    return [Device(uuid, peers=set(uuids) - {uuid}) for uuid in uuids]


def read(driver, environment=None):
    return read_gpus(bindings(driver), environment or {})


def test_a_gpu_is_told_with_all_that_a_plan_needs():
    """Name, memory, architecture, links, processes, nearest NUMA node; NVML is closed again."""
    devices = linked("GPU-a", "GPU-b")
    devices[0].processes, devices[1].numa = [(77, 2 * GIB), (9, None)], 65
    driver = Driver(devices)
    gpus, version, note = read(driver)
    assert (version, note, driver.opened) == ("580.95.05", "", 0)
    assert gpus[0] == Gpu(
        0, "GPU-a", "NVIDIA H100 80GB HBM3", 80 * GIB, 79 * GIB, (9, 0), False, ("GPU-b",), ((9, 0), (77, 2 * GIB)), 0
    )
    assert (gpus[1].nvlink, gpus[1].numa, gpus[1].sm) == (("GPU-a",), 65, 90)


def test_a_gpu_in_mig_mode_is_its_instances():
    """Each with its own memory and name, the architecture of the whole, and no links."""
    parts = [Device(f"MIG-{n}", f"H100 MIG 1g.{n}gb", n * GIB, 0, None) for n in (10, 20)]
    gpus, _, _ = read(Driver([Device("GPU-a", mig=parts, peers={"GPU-b"}), Device("GPU-b", peers={"GPU-a"})]))
    assert [(g.uuid, g.index, g.mig, g.memory_bytes, g.sm, g.nvlink) for g in gpus] == [
        ("MIG-10", 0, True, 10 * GIB, 90, ()),
        ("MIG-20", 0, True, 20 * GIB, 90, ()),
        ("GPU-b", 1, False, 80 * GIB, 90, ()),
    ]


def test_what_a_virtual_gpu_does_not_tell_is_left_open():
    """Every question but its UUID and name is not supported: no error, and nothing invented."""
    device = Device("GPU-v", total=None, capability=None, processes=None, numa=None)
    assert read(Driver([device]))[0] == (Gpu(0, "GPU-v", device.name, 0, 0, (0, 0)),)


def test_functions_that_an_older_driver_lacks_are_done_without():
    """No MIG, no peer status, no memory affinity; processes by the function of before."""
    newer = ("MigMode", "P2PStatus", "MemoryAffinity", "ComputeRunningProcesses_v3")
    missing = frozenset(f"nvmlDeviceGet{name}" for name in newer)
    devices = linked("GPU-a", "GPU-b")
    devices[0].processes = [(5, GIB)]
    gpus, _, note = read(Driver(devices, missing=missing))
    assert (gpus[0].processes, gpus[0].nvlink, gpus[0].numa, note) == (((5, GIB),), (), None, "")


def test_a_gpu_that_fell_off_the_bus_is_left_out():
    """The others are still there, under their own numbers."""
    assert [g.index for g in read(Driver([Device("GPU-a", lost=True), Device("GPU-b")]))[0]] == [1]


@pytest.mark.parametrize(
    ("driver", "why"),
    [
        (Driver(init=DRIVER_NOT_LOADED), "not loaded"),
        (Driver(init=LIB_RM_VERSION_MISMATCH), "differ in version"),
        (Driver(init=NO_PERMISSION), "may not ask"),
        (Driver(init=999), "Unknown Error"),
        (Driver([]), "sees none"),
    ],
)
def test_no_gpu_is_one_plain_sentence(driver, why):
    """Whatever the reason."""
    gpus, _, note = read(driver)
    assert gpus == () and note.startswith("no GPU: ") and why in note


def test_this_machine_has_gpus_or_says_why_not():
    """The real library, or none: never an error."""
    gpus, driver, note = read_gpus(pynvml, {})
    assert bool(gpus) == bool(driver and not note) or "sees none" in note


@pytest.mark.parametrize(
    ("environment", "seen"),
    [
        ({}, "abc"),
        ({"CUDA_VISIBLE_DEVICES": "2,0"}, "ca"),
        ({"CUDA_VISIBLE_DEVICES": "1,7,0"}, "b"),  # ends at the first that is none
        ({"CUDA_VISIBLE_DEVICES": "GPU-c"}, "c"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-"}, ""),  # fits several
        ({"CUDA_VISIBLE_DEVICES": ""}, ""),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, ""),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, "abc"),
        ({"NVIDIA_VISIBLE_DEVICES": "void"}, "abc"),
        ({"NVIDIA_VISIBLE_DEVICES": "/var/run/nvidia-container-devices"}, "abc"),
        ({"NVIDIA_VISIBLE_DEVICES": "none"}, ""),
        ({"NVIDIA_VISIBLE_DEVICES": "GPU-b,0"}, "ab"),
        ({"NVIDIA_VISIBLE_DEVICES": "5,6,7"}, "abc"),  # the runtime hid the others and counts anew
        ({"NVIDIA_VISIBLE_DEVICES": "1,2", "CUDA_VISIBLE_DEVICES": "2"}, "c"),
    ],
)
def test_the_environment_says_which_gpus_a_process_may_use(environment, seen):
    """As CUDA and NVIDIA's container runtime take it; when it hides all, the sentence names the variable."""
    gpus, _, note = read(Driver([Device(f"GPU-{x}") for x in "abc"]), environment)
    assert "".join(g.uuid[-1] for g in gpus) == seen
    assert bool(note) == (not seen) and all(name in note for name in environment if not seen)


def test_hardware_has_the_gpus_and_the_processors_by_numa_node(tmp_path):
    """One of each physical core comes first; without /sys all are one node."""
    hardware = read_hardware(str(tmp_path), nvml=bindings(Driver([Device("GPU-a")])))
    assert [g.uuid for g in hardware.gpus] == ["GPU-a"] and (hardware.driver, hardware.gpu_note) == ("580.95.05", "")
    usable = sorted(core for node in hardware.nodes for core in node)
    for core in usable:
        folder = tmp_path / "cpu" / f"cpu{core}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{usable[0]}-{usable[-1]}" if len(usable) > 1 else str(core))
    (tmp_path / "node" / "node0").mkdir(parents=True)
    (tmp_path / "node" / "node0" / "cpulist").write_text(f"{usable[0]}-{usable[-1]}\n")
    seen = read_hardware(str(tmp_path), nvml=bindings(Driver()), system=tmp_path).nodes
    assert [sorted(node) for node in seen] == [usable] and seen[0][0] == usable[0]
