"""What an instance has for itself: chosen when it is written down, and kept over its restarts and the agent's."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from agent.lifecycle import backoff_s
from agent.machine import NOT_READ
from configs.room import placement_of
from engines.devices.choose import place
from engines.hardware import Hardware
from engines.port import EngineSpec, Needs, Placement
from rollout.errors import Unavailable
from rollout.nouns import Health
from store.port import InstanceState

_ON_GPUS = ("vllm", "tensorrt_llm")  # run there where there are any


def placed(
    now: float,
    instance: InstanceState,
    spec: EngineSpec,
    hardware: Hardware,
    others: Iterable[InstanceState],
    needs: Needs = Needs(),
) -> InstanceState:
    """The instance with its processors and GPUs; one that has them keeps them while the machine does.

    Where there are too few GPUs it waits, with the reason, and is tried again as one that died is; while another that
    has some loads or is on its way out, or nobody knows yet which there are, waiting does not count against it.
    """
    others = tuple(other for other in others if other.id != instance.id)
    if hardware.gpu_note == NOT_READ and (needs.devices or spec.kind in _ON_GPUS):
        return _waiting(now, replace(instance, restarts=0), NOT_READ)
    if instance.placement and _is_there(placement_of(instance.placement), hardware):
        return instance
    taken = [placement_of(other.placement) for other in others]
    loading = {uuid for other in others if other.health is Health.STARTING for uuid in other.placement.get("gpus", ())}
    try:
        chosen = place(spec, hardware, taken, needs, loading)
    except Unavailable as error:
        leaving = any(other.health is Health.DRAINING and other.placement.get("gpus") for other in others)
        soon = leaving or (needs.greedy and loading)
        alone = replace(instance, placement={}, restarts=0 if soon else instance.restarts)
        return _waiting(now, alone, str(error))
    return replace(instance, placement={name: list(values) for name, values in asdict(chosen).items()})


def _waiting(now: float, instance: InstanceState, reason: str) -> InstanceState:
    retry_at = now + backoff_s(instance.restarts)
    return replace(instance, health=Health.BACKOFF, since=now, reason=reason, retry_at=retry_at)


def _is_there(placement: Placement, hardware: Hardware) -> bool:
    cores = {core for node in hardware.nodes for core in node} or set(range(hardware.cores))
    return set(placement.cores) <= cores and set(placement.gpus) <= {gpu.uuid for gpu in hardware.gpus}


def write_files(files: Mapping[str, str]) -> None:
    """What must exist before a server starts (absolute path -> text), readable by this user only. Raises OSError."""
    for path, text in files.items():
        folder = Path(path).parent
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, aside = tempfile.mkstemp(dir=folder, prefix=f".{Path(path).name}.")  # made with mode 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(aside, path)
        except BaseException:
            Path(aside).unlink(missing_ok=True)
            raise
