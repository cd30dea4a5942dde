"""Builds of TensorRT-LLM engines with the stand-ins of tests/trtllm_tools: tiny models, specs, one call that builds."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from engines import artifacts
from engines.hardware import Gpu, Hardware
from engines.port import BuildPlan, BuildStep, EngineSpec
from engines.steps import build_in
from engines.trtllm.fingerprint import fingerprint
from engines.trtllm.recipes import build_steps
from engines.trtllm.verify import verify_directory
from rollout.command import Command
from rollout.nouns import ModelVersion

TOOLS = Path(__file__).parent / "trtllm_tools"
VERSION = "1.2.1"
GIB = 1024**3
PATIENCE_S = 20.0


def hopper(count: int = 1, sm: tuple[int, int] = (9, 0)) -> Hardware:
    """A machine with so many GPUs."""
    gpus = tuple(Gpu(i, f"GPU-{i}", "H100", 80 * GIB, 79 * GIB, sm) for i in range(count))
    return Hardware(16, 128 * GIB, 900 * GIB, gpus, "580.1")


def environment(**more: str) -> dict[str, str]:
    """Where the stand-ins are found, and how they behave (STAND_IN_FAULT=...)."""
    path = f"{TOOLS / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {
        "TRTLLM_EXAMPLES": str(TOOLS / "examples"),
        "MODELOPT_EXAMPLES": str(TOOLS / "modelopt"),
        "PATH": path,
        **more,
    }


def trt_spec(recipe: str = "pytorch", fault: str = "", at: str = "", **more: Any) -> EngineSpec:
    """A spec whose tools are the stand-ins."""
    tools = environment(**({"STAND_IN_FAULT": fault, "STAND_IN_AT": at} if fault else {}))
    given = {**tools, **more.pop("environment", {})}
    return EngineSpec(kind="tensorrt_llm", recipe=recipe, environment=given, **more)


def planned(
    root: Path, model: ModelVersion, spec: EngineSpec, version: str = VERSION, draft: ModelVersion | None = None
) -> BuildPlan:
    """The plan, as an engine makes it."""
    digest, with_ = fingerprint(model.digest, spec, version, hopper(), draft.digest if draft else "")
    beside = draft.directory if draft else None
    steps = build_steps(model.directory, "{out}", spec, version, "LlamaForCausalLM", None, beside)
    if beside:
        link = (sys.executable, "-m", "engines.trtllm", "link", beside, "{out}/draft")
        steps = (*steps, BuildStep("link draft files", Command(link)))
    directory = root / artifacts.directory_name(spec.kind, digest)
    return BuildPlan(model, spec, digest, str(directory), tuple(s.name for s in steps), 0, 0, {}, steps, {}, with_)


def built(
    root: Path, model: ModelVersion, spec: EngineSpec, version: str = VERSION, draft: ModelVersion | None = None
) -> tuple[Path, bool]:
    """Build once by digest; the engine's directory, and whether it was found."""
    plan = planned(root, model, spec, version, draft)

    def make(directory: Path) -> dict[str, Any]:
        build_in(plan, directory, lambda what, share: None, None)
        return {"told": verify_directory(directory, spec, version), "built_with": plan.built_with}

    _, found = artifacts.build_once(root, spec.kind, plan.digest, make)
    return Path(plan.directory), found


def until(holds: Callable[[], bool]) -> None:
    """Wait for it, not for ever."""
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def marked(mark: str) -> list[psutil.Process]:
    """The processes that have MARK=<mark> in their environment and still run."""
    found = []
    for process in psutil.process_iter(["status"]):
        try:
            if process.info["status"] != psutil.STATUS_ZOMBIE and process.environ().get("MARK") == mark:
                found.append(process)
        except psutil.Error:
            continue
    return found


if __name__ == "__main__":  # a builder that a test kills: root, model folder, recipe, fault, tool
    from engines.local_model import read_local_model

    place, folder, recipe, fault, tool = sys.argv[1:]
    built(Path(place), read_local_model(Path(folder), "tiny"), trt_spec(recipe, fault, tool, tensor_parallel=2))
