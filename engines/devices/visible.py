"""Which of the machine's GPUs a process may use: CUDA_VISIBLE_DEVICES, and NVIDIA_VISIBLE_DEVICES of containers."""

from __future__ import annotations

from collections.abc import Mapping

from engines.hardware import Gpu

CUDA, CONTAINER = "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"


def visible(gpus: tuple[Gpu, ...], environment: Mapping[str, str]) -> tuple[tuple[Gpu, ...], str]:
    """(those of ``gpus`` that the environment leaves, why none is left; empty when some are).

    A MIG instance is named by its UUID, or by its GPU's index. Numbers are NVML's, in the order of the PCI bus; CUDA
    counts likewise where all GPUs are equal or CUDA_DEVICE_ORDER is PCI_BUS_ID.
    """
    left = _by_cuda(_by_container(gpus, environment.get(CONTAINER)), environment.get(CUDA))
    if left or not gpus:
        return left, ""
    told = ", ".join(f"{name}={environment[name]!r}" for name in (CUDA, CONTAINER) if name in environment)
    return (), f"no GPU: {told} hides all {len(gpus)} of this machine"


def _by_cuda(gpus: tuple[Gpu, ...], wanted: str | None) -> tuple[Gpu, ...]:
    """In the order named, up to the first name that is none (CUDA C programming guide, environment variables)."""
    if wanted is None:
        return gpus
    chosen: list[Gpu] = []
    for name in (part.strip() for part in wanted.split(",")):
        found = _named(gpus, name)
        if not found:
            break
        chosen += [gpu for gpu in found if gpu not in chosen]
    return tuple(chosen)


def _by_container(gpus: tuple[Gpu, ...], wanted: str | None) -> tuple[Gpu, ...]:
    """What NVIDIA's container runtime was asked for, in case it did not do so itself.

    ``void`` and nothing mean that GPUs come another way (CDI); a path is a list that Kubernetes mounts. Where it names
    as many GPUs as there are, the runtime has hidden the others and counted the rest anew.
    """
    if not wanted or wanted in ("all", "void") or wanted.startswith("/"):
        return gpus
    if wanted == "none":
        return ()
    names = [part.strip() for part in wanted.split(",")]
    if len(names) >= len({gpu.index for gpu in gpus}):
        return gpus
    return tuple(gpu for gpu in gpus if any(gpu in _named(gpus, name) for name in names))


def _named(gpus: tuple[Gpu, ...], name: str) -> tuple[Gpu, ...]:
    """A number, or the beginning of a UUID that fits one GPU only."""
    if name.isdigit():
        return tuple(gpu for gpu in gpus if gpu.index == int(name))
    found = tuple(gpu for gpu in gpus if name and gpu.uuid.startswith(name))
    return found if len(found) == 1 else ()
