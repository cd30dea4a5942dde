"""``4xH100`` to hardware: names as people write them, facts that agree with each other."""

from __future__ import annotations

import pytest

from engines.hardware import Hardware
from engines.sizing.gpu_catalogue import catalogue, gpu_names, hardware_of, parse_gpus
from rollout.errors import Refused

HERE = Hardware(cores=4, memory_bytes=1 << 33, disk_free_bytes=1 << 33, gpu_note="none here")


@pytest.mark.parametrize(
    ("text", "count", "name"),
    [
        ("4xH100", 4, "H100"),
        ("8xA100-80G", 8, "A100"),
        ("8xA100-40GB", 8, "A100-40G"),
        ("2xL40S", 2, "L40S"),
        ("1xRTX4090", 1, "RTX4090"),
        ("2 x RTX 4090", 2, "RTX4090"),
        ("NVIDIA GeForce RTX 3090", 1, "RTX3090"),
        ("h200", 1, "H200"),
        ("B200", 1, "B200"),
        ("16*V100-32GB", 16, "V100-32G"),
        ("A10G", 1, "A10G"),
        ("L4", 1, "L4"),
        ("T4", 1, "T4"),
        ("NVIDIA H100 PCIe", 1, "H100-PCIE"),
    ],
)
def test_gpus_are_read_as_people_write_them(text, count, name):
    """Number, cross, name; without number it is one; case, dashes and GB do not matter."""
    found, kind = parse_gpus(text)
    assert (found, kind.name) == (count, name)


@pytest.mark.parametrize("text", ["4xH1000", "", "0xH100", "99999xH100", "x", "-1xT4"])
def test_what_is_no_gpu_is_refused(text):
    """With the names that are known, or the numbers that are allowed."""
    with pytest.raises(Refused, match="Fix: write for example 4x"):
        parse_gpus(text)
    if "H1000" in text:
        with pytest.raises(Refused, match=r"H200, H100, .*L4, .*T4"):
            parse_gpus(text)


def test_no_fact_contradicts_another():
    """CUDA reports less than the sheet's GB as GiB, and no two GPUs share a name."""
    kinds = set(catalogue().values())
    assert len(kinds) == len(gpu_names()) >= 20
    for kind in kinds:
        assert 0.8 * kind.sheet_gb * 1e9 < kind.memory_bytes < kind.sheet_gb * 2**30
        assert kind.compute_capability[0] * 10 + kind.compute_capability[1] == kind.sm


def test_named_gpus_replace_those_of_the_machine():
    """Free, of their architecture, linked where they have NVLink; cores and memory stay."""
    hardware = hardware_of("4xH100", HERE)
    assert (hardware.cores, len(hardware.gpus), hardware.gpu_note) == (4, 4, "")
    first = hardware.gpus[0]
    assert (first.sm, first.free_bytes, len(first.nvlink)) == (90, first.memory_bytes, 3)
    assert hardware_of("2xL40S", HERE).gpus[0].nvlink == ()


def test_local_is_the_machine_itself():
    """With or without GPUs."""
    assert hardware_of("local", HERE) is HERE
