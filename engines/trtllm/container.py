"""NVIDIA's container for TensorRT-LLM: the image of a version, GPUs, shared memory, limits, what is mounted where."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engines.port import ContainerSpec, EngineSpec
from engines.trtllm.contract import Contract
from rollout.command import GIB, Container, Mount
from rollout.errors import Refused

ALL_GPUS = ("all",)  # what Docker's NVIDIA runtime takes for every GPU
ULIMITS = {"memlock": -1, "stack": 67_108_864}  # NVIDIA's own advice: pinned memory without limit, 64 MiB of stack
SHM_GIB, SHM_ONE_GPU_GIB = 64.0, 1.0  # NCCL between GPUs goes through shared memory: too little is a "Bus error"
MODELS, TOKENIZER, DRAFT, YAML = "/models", "/tokenizer", "/draft", "/llm_api.yaml"  # paths inside
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Paths:
    """Where an instance finds its files: on the machine, or inside its container."""

    model: str
    tokenizer: str = ""
    draft: str = ""
    yaml: str = ""


def inside(outside: Paths, served_name: str) -> Paths:
    """The same files inside. The model's folder has the served name, which before 1.3.0rc7 is how it gets one."""
    name = served_name if _NAME.fullmatch(served_name) else "model"
    return Paths(
        f"{MODELS}/{name}",
        TOKENIZER if outside.tokenizer else "",
        DRAFT if outside.draft else "",
        YAML,
    )


def serving_container(
    spec: EngineSpec, contract: Contract, gpus: Sequence[str], outside: Paths, within: Paths
) -> Container:
    """The container of one instance; nothing in it can be written to."""
    pairs = [(getattr(outside, name), getattr(within, name)) for name in ("model", "tokenizer", "draft", "yaml")]
    extra = tuple(Mount(path, path) for path in model_paths(spec.options))
    return bare_container(spec, contract, gpus, (*(Mount(host, there) for host, there in pairs if host), *extra))


def bare_container(
    spec: EngineSpec, contract: Contract, gpus: Sequence[str], mounts: Sequence[Mount] = ()
) -> Container:
    """Image, GPUs, shared memory and limits, for building as for serving."""
    asked = spec.container or ContainerSpec()
    several = spec.tensor_parallel * spec.pipeline_parallel > 1
    shm = asked.shm_gib or (SHM_GIB if several else SHM_ONE_GPU_GIB)
    return Container(
        image=asked.image or contract.image,
        gpus=tuple(gpus) or ALL_GPUS,
        shm_bytes=0 if asked.ipc == "host" else int(shm * GIB),
        mounts=tuple(mounts),
        ulimits=dict(ULIMITS),
        ipc=asked.ipc,
    )


def model_paths(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Folders of models that options name, which must be mounted too. Raises Refused for one that is not absolute."""
    config = options.get("speculative_config")
    named = [config.get(key) for key in ("speculative_model_dir", "speculative_model")] if config else []
    for path in filter(None, named):
        if not str(path).startswith("/"):
            rule = "a model of the options is a folder of this machine"
            raise Refused("options.speculative_config.speculative_model_dir", path, rule, "give its absolute path")
    return tuple(str(path) for path in named if path)


def reasons(spec: EngineSpec, contract: Contract) -> dict[str, str]:
    """Why the container is as it is."""
    asked = spec.container or ContainerSpec()
    several = spec.tensor_parallel * spec.pipeline_parallel > 1
    host = "the host's own, by container.ipc"
    default = f"{SHM_GIB:.0f} GiB: ranks of several GPUs share it" if several else f"{SHM_ONE_GPU_GIB:.0f} GiB: one GPU"
    shm = host if asked.ipc == "host" else "container.shm_gib" if asked.shm_gib else default
    return {
        "container.image": "container.image" if asked.image else f"NVIDIA's release image of {contract.version}",
        "container.shm": shm,
        "container.ulimits": "memlock -1: pinned memory of NCCL; stack 64 MiB: NVIDIA's advice",
    }
