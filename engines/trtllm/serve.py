"""``trtllm-serve``, exactly: argument list and environment of one instance, by version."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from engines.port import EngineSpec
from engines.trtllm.container import Paths
from engines.trtllm.contract import Contract
from engines.trtllm.recipe_spec import CHECKPOINT, ENGINE, EXAMPLES_KEY, MODELOPT_KEY, TOKENIZER, recipe_of

DRAFT = "draft"  # folder of an engine directory
YAML_FOLDER = ".serve"  # beside the engines: the YAML follows the serving settings, which are no part of a digest
_OF_BUILDS = (EXAMPLES_KEY, MODELOPT_KEY)


def outside(directory: Path, spec: EngineSpec, yaml_text: str) -> Paths:
    """Where the files of a built engine lie on this machine."""
    engine = recipe_of(spec) == "tensorrt"
    name = hashlib.sha256(yaml_text.encode()).hexdigest()[:16]
    return Paths(
        str(directory / (ENGINE if engine else CHECKPOINT)),
        str(directory / TOKENIZER) if engine else "",
        draft_folder(directory, spec),
        str(directory.parent / YAML_FOLDER / f"{name}.yaml"),
    )


def draft_folder(directory: Path, spec: EngineSpec) -> str:
    """Where a built engine keeps its draft model, or nothing."""
    return str(directory / DRAFT) if spec.speculative.method == "draft" else ""


def argv(
    spec: EngineSpec, contract: Contract, paths: Paths, host: str, port: int, name: str, program: str = "trtllm-serve"
) -> tuple[str, ...]:
    """The command of one instance. Settings are in the YAML; only what no YAML key can say is a flag."""
    words = [program, paths.model, "--host", host, "--port", str(port)]
    if recipe_of(spec) == "tensorrt":
        words += ["--backend", "tensorrt", "--tokenizer", paths.tokenizer]
    if "--served_model_name" in contract.flags:
        words += ["--served_model_name", name]
    return (*words, contract.yaml_flag, paths.yaml, *spec.flags)


def environment(spec: EngineSpec, contract: Contract, gpus: Sequence[str] = ()) -> dict[str, str]:
    """What is added to the parent's. ``gpus``: of a process without a container, which sees no others."""
    visible = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
    given = {name: value for name, value in spec.environment.items() if name not in _OF_BUILDS}
    return {"PYTHONUNBUFFERED": "1", **contract.telemetry, **visible, **given}


def reasons(spec: EngineSpec, contract: Contract) -> dict[str, str]:
    """Why each flag and variable is there, and what could not be said to the server."""
    told = {
        "--host": "0.0.0.0 in a container, whose port is published; else the instance's own address",
        contract.yaml_flag: "the name that every version knows; --config is younger",
        next(iter(contract.telemetry)): "no usage leaves the machine; from 1.3 on that is not the default",
        "max_queue": "not sent: no version of trtllm-serve bounds its queue",
    }
    if recipe_of(spec) == "tensorrt":
        told |= {"--backend": "recipe tensorrt", "--tokenizer": "trtllm-build leaves it behind, so it lies beside"}
    if "--served_model_name" in contract.flags:
        told["--served_model_name"] = "the model's name"
    else:
        told["served name"] = f"{contract.version} has no flag for it: it is the name of the folder that is served"
    return told
