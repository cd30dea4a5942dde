"""``4xH100`` to hardware: the GPUs that a plan can be asked about without having them. Facts are in ``gpus.yaml``."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import yaml

from engines.hardware import Gpu, Hardware
from rollout.errors import Refused

GIB = 1024**3
LOCAL = "local"
MOST = 1024  # GPUs of one plan


@dataclass(frozen=True)
class GpuType:
    """One kind of GPU. ``memory_bytes`` is what CUDA reports; the rest is of the datasheet: GB, GB/s, W, GB/s."""

    name: str
    memory_bytes: int
    sm: int
    sheet_gb: int
    gbps: int
    watts: int
    nvlink_gbps: int

    @property
    def compute_capability(self) -> tuple[int, int]:
        """As NVML gives it: (9, 0) for sm 90, (12, 0) for 120."""
        return self.sm // 10, self.sm % 10


@cache
def catalogue() -> dict[str, GpuType]:
    """Every known way to write a GPU's name, made plain, and its type."""
    known: dict[str, GpuType] = {}
    for name, facts in yaml.safe_load(Path(__file__).with_name("gpus.yaml").read_text(encoding="utf-8")).items():
        numbers = {key: int(value) for key, value in facts.items() if key not in ("gib", "also")}
        kind = GpuType(name, int(facts["gib"] * GIB), **numbers)
        known.update({_plain(way): kind for way in (name, *facts.get("also", ()))})
    return known


def gpu_names() -> tuple[str, ...]:
    """The names of the catalogue, as a refusal lists them."""
    return tuple(dict.fromkeys(kind.name for kind in catalogue().values()))


def parse_gpus(text: str) -> tuple[int, GpuType]:
    """``4xH100``, ``8 x A100-80GB``, ``H200``: how many of which. Raises Refused listing the known names."""
    found = re.fullmatch(r"\s*(?:(\d+)\s*[xX*]\s*)?(\S(?:.*\S)?)\s*", text)
    count, name = (int(found[1] or 1), found[2]) if found else (0, text)
    kind = catalogue().get(_plain(name))
    if kind is None:
        known = ", ".join(gpu_names())
        raise Refused("gpus", text, f"{name!r} is no known GPU; known: {known}", "write for example 4xH100, or local")
    if not 1 <= count <= MOST:
        raise Refused("gpus", text, f"the number of GPUs lies between 1 and {MOST}", f"write for example 4x{kind.name}")
    return count, kind


def hardware_of(text: str, here: Hardware) -> Hardware:
    """``here`` with the GPUs that the text names instead of its own; ``local`` is ``here`` itself. Raises Refused.

    The GPUs of one kind with NVLink count as all linked to each other, as they are behind NVSwitch.
    """
    if text.strip().lower() == LOCAL:
        return here
    count, kind = parse_gpus(text)
    names = tuple(f"{kind.name}-{index}" for index in range(count))
    gpus = tuple(
        Gpu(
            index,
            name,
            kind.name,
            kind.memory_bytes,
            kind.memory_bytes,
            kind.compute_capability,
            nvlink=tuple(other for other in names if other != name) if kind.nvlink_gbps else (),
        )
        for index, name in enumerate(names)
    )
    return replace(here, gpus=gpus, gpu_note="")


def _plain(name: str) -> str:
    """Without case, blanks, dashes, the maker's name and the B of GB."""
    plain = re.sub(r"nvidia|[\s_-]+", "", name.lower())
    return re.sub(r"(\d)gb$", r"\1g", plain)
