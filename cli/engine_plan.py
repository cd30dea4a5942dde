"""``roundhouse engine plan``: does a model fit on GPUs that one may not even have, and how is it served best."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cli.screen import out, progress, show_json, show_table
from configs.files import load_engine
from configs.stack import load_stack
from engines.hardware import read_hardware
from engines.port import EngineSpec
from engines.sizing import table
from engines.sizing.config_file import shape_at
from engines.sizing.fit import vllm_utilization
from engines.sizing.gpu_catalogue import hardware_of
from engines.sizing.measure import Demand, demand_of
from engines.sizing.plan import Plan, plan_on
from engines.sizing.shape import ModelShape
from engines.sizing.together import Together, devices_of, occupant, plan_together
from engines.vllm.rules import ONLINE
from model_registry.sources import fetch_any
from rollout.errors import Refused

CONTEXT = 8192  # tokens of one request, where neither the model nor the user says less
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]


def plan(
    model: Annotated[str, typer.Argument(help="models:/NAME/VERSION, hf:ORG/NAME, a folder or its config.json.")],
    gpus: Annotated[str, typer.Option(help="4xH100, 8xA100-40G, L4 ..., or `local`: this machine.")] = "local",
    engine: Annotated[Literal["vllm", "tensorrt_llm"], typer.Option(help="Who serves it.")] = "vllm",
    engine_file: Annotated[str, typer.Option(help="A file of configs/engines, judged as it is.")] = "",
    context: Annotated[int, typer.Option(help="Tokens of one request; 0: 8,192, or the model's most.", min=0)] = 0,
    slots: Annotated[int, typer.Option(help="Requests at once.", min=1)] = 16,
    quantization: Annotated[str, typer.Option(help="Weights: none (as they are), fp8, int4_awq, nvfp4.")] = "none",
    kv_cache_dtype: Annotated[str, typer.Option(help="Keys and values: auto, fp8, nvfp4.")] = "auto",
    tensor_parallel: Annotated[int, typer.Option(help="Judge this one; 0: recommend one.", min=0)] = 0,
    beside: Annotated[str, typer.Option(help="The model in service, to plan both together; same settings.")] = "",
    instances: Annotated[int, typer.Option(help="Of the model in service.", min=1)] = 1,
    as_json: Json = False,
) -> None:
    """Say whether a model fits, on how many GPUs, and what it then holds. Exit code 0: it fits; 2: refused.

    Example: `roundhouse engine plan docs/models/llama-3.1-70b.json --gpus 4xH100`
    """
    hardware, shape = hardware_of(gpus, read_hardware(".")), read_model(model, as_json)
    spec = EngineSpec(
        kind=engine,
        tensor_parallel=max(1, tensor_parallel),
        slots=slots,
        context=context or min(CONTEXT, shape.max_positions or CONTEXT),
        quantization=quantization,
        kv_cache_dtype=kv_cache_dtype,
    )
    spec = load_engine(engine_file).spec() if engine_file else spec
    if spec.kind == "llama_cpp":
        rule = "llama.cpp is sized by its GGUF file, when it is built"
        raise Refused("engine", spec.kind, rule, "use an engine file of vllm or tensorrt_llm")
    told = plan_on(shape, _demand(spec), hardware, not (engine_file or tensor_parallel), spec.recipe)
    both = _together(told, beside, instances, as_json) if beside and not told.refusal else None
    refusal = told.refusal or (of_release(both) if both else None)
    if as_json:
        show_json(_record(told, both, refusal))
    else:
        _show(told, both)
    if refusal:
        raise refusal


def read_model(model: str, quiet: bool = False) -> ModelShape:
    """The shape of a local folder or ``config.json``, or of a registered model, which is fetched. Raises Refused."""
    path = Path(model).expanduser()
    if model.startswith(("models:", "dvc:", "hf:")):
        stack = load_stack()
        with progress(quiet) as report:
            path = Path(fetch_any(model, stack.registry(), report, str(stack.project)).directory)
    return shape_at(path)


def _demand(spec: EngineSpec) -> Demand:
    """vLLM's own names of what it quantises while loading are sizing's."""
    known = ONLINE.get(spec.quantization, spec.quantization) if spec.kind == "vllm" else spec.quantization
    return replace(demand_of(spec), weights=known)


def _together(told: Plan, beside: str, instances: int, quiet: bool) -> Together:
    """The candidate beside the model in service, each with its own recommended split. Raises Refused."""
    stable = plan_on(read_model(beside, quiet), told.demand, told.hardware)
    if stable.refusal:
        raise stable.refusal
    return plan_together(
        occupant("stable", stable.shape, stable.demand, instances),
        occupant("candidate", told.shape, told.demand, 1),
        devices_of(told.hardware),
    )


def of_release(both: Together) -> Refused | None:
    """What a release makes of a way that it does not go (``tasks/room.py``)."""
    if both.way != "stop-start":
        return None
    rule = f"{both.sentence}; a release refuses that: it never takes the only version out of service"
    fix = "choose smaller weights, fewer instances or a shorter context, or add a GPU"
    return Refused("beside", both.way, rule, fix)


def _show(told: Plan, both: Together | None) -> None:
    out.print(table.heading(told.shape, told.demand, told.hardware))
    if not told.refusal:
        out.print(table.verdict(told.option, told.demand))
        for line in (table.spare(told.option, told.hardware), table.link(told.option, told.hardware)):
            if line:
                out.print(line)
        show_table("", table.MEMORY_COLUMNS, table.memory_rows(told.option.fit))
    show_table("best split of each weight format", table.OPTION_COLUMNS, table.option_rows(told.alternatives))
    if both:
        out.print(f"together: {both.way}: {both.sentence}")


def _record(told: Plan, both: Together | None, refusal: Refused | None) -> dict[str, Any]:
    """The answer for a script; bytes are of the fullest GPU."""
    found = told.option.fit
    utilization = vllm_utilization(found, found.gpu_bytes) if told.demand.engine == "vllm" else None
    return {
        "fits": refusal is None,
        "why": str(refusal) if refusal else found.why,
        "tensor_parallel": told.option.tensor,
        "pipeline_parallel": told.option.pipeline,
        "fit": asdict(found),
        "gpu_memory_utilization": utilization,
        "parameters": told.shape.parameters,
        "alternatives": [asdict(option) for option in told.alternatives],
        "together": asdict(both) if both else None,
    }
