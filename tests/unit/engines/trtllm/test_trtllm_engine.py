"""The verbs: what a plan refuses with numbers, what a build leaves, what serves it, on which machine it still can."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tiny_models import write_tiny
from trtllm_builds import GIB, hopper
from trtllm_specs import SPEC, Place

from engines import artifacts
from engines.hardware import Gpu, Hardware
from engines.port import BuildPlan, ContainerSpec, LocalSettings, Placement, Speculative
from engines.trtllm.engine import TensorRtLlm
from engines.warm_up import WARM_UP_FILE
from rollout.errors import Refused
from rollout.nouns import Engine, ModelVersion

NONE = Hardware(8, 64 * GIB, 64 * GIB, gpu_note="no driver")
TOO_LITTLE = Hardware(8, 64 * GIB, 64 * GIB, (Gpu(0, "GPU-0", "H100", GIB // 2, GIB // 2, (9, 0)),))
MIXED = Hardware(8, 64 * GIB, 900 * GIB, (*hopper(1).gpus, Gpu(1, "GPU-1", "A100", 80 * GIB, 79 * GIB, (8, 0))))


def quiet(what: str, share: float) -> None:
    """Progress that nobody reads."""


@pytest.mark.parametrize(
    ("hardware", "changes", "field", "number"),
    [
        (NONE, {}, "engine", "no driver"),
        (hopper(2), {"tensor_parallel": 4}, "tensor_parallel x pipeline_parallel", "4 GPUs and there are 2"),
        (hopper(8), {"tensor_parallel": 3}, "tensor_parallel", "num_attention_heads is 4"),
        (hopper(8), {"pipeline_parallel": 8}, "pipeline_parallel", "layers"),
        (hopper(8), {"expert_parallel": 2}, "expert_parallel", "does not divide"),
        (hopper(8), {"expert_parallel": 2, "tensor_parallel": 2}, "expert_parallel", "no experts"),
        (hopper(8), {"context": 4096}, "context", "512"),
        (TOO_LITTLE, {}, "memory", "0.5 GiB"),
        (hopper(1, (8, 0)), {"quantization": "fp8", "environment": {"MODELOPT_EXAMPLES": "/m"}}, "quantization", "8.9"),
        (hopper(1), {"kv_cache_dtype": "nvfp4"}, "kv_cache_dtype", "quantised checkpoint"),
        (hopper(1), {"quantization": "fp8"}, "environment.MODELOPT_EXAMPLES", "hf_ptq.py"),
        (MIXED, {"recipe": "tensorrt", "tensor_parallel": 2}, "tensor_parallel x pipeline_parallel", "there are 1"),
        (replace(hopper(1), disk_free_bytes=1024), {}, "disk", "GiB"),
        (hopper(1), {"container": None}, "container", "not installed here"),
        (hopper(8), {"options": {"pp_partition": [7]}}, "options.pp_partition", "layers"),
    ],
)
def test_a_plan_that_cannot_work_is_refused(
    place: Place, hardware: Hardware, changes: dict[str, Any], field: str, number: str
) -> None:
    """Before anything is written: too few GPUs, no divisor, too little memory, an old GPU, nothing installed."""
    with pytest.raises(Refused) as refusal:
        place.plan(hardware, **changes)
    assert refusal.value.field == field and number in str(refusal.value) and refusal.value.fix


def test_models_that_it_cannot_read_are_refused(place: Place, tmp_path: Path) -> None:
    """A GGUF file, a folder without a tokenizer, an architecture that the recipe has not."""
    bare = write_tiny(tmp_path / "bare").version
    (tmp_path / "bare" / "tokenizer.json").unlink()
    config = json.loads((tmp_path / "bare" / "config.json").read_text())
    strange = write_tiny(tmp_path / "strange").version
    (tmp_path / "strange" / "config.json").write_text(json.dumps({**config, "architectures": ["PhiForCausalLM"]}))
    found = []
    for model in (replace(place.model, format="gguf"), bare, strange):
        with pytest.raises(Refused) as refusal:
            place.kind().plan(model, SPEC, hopper(1))
        found.append(refusal.value.field)
    assert found[:2] == ["model", "tokenizer"]
    assert found[2] in ("architectures", "config.json") or found[2].startswith("architecture")


def test_a_quantised_model_is_no_start_for_a_tensorrt_engine(place: Place, tmp_path: Path) -> None:
    """Its scripts start from 16 bits."""
    stored = {"quant_method": "awq", "bits": 4, "group_size": 32, "w_bit": 4}
    model = write_tiny(tmp_path / "awq", quantization_config=stored)
    bare = ModelVersion("awq", "0", "file:///awq", str(model.folder), (), "safetensors", "llama", 0, "d" * 64)
    with pytest.raises(Refused, match="starts from 16 bits"):
        place.kind().plan(bare, replace(SPEC, recipe="tensorrt"), hopper(1))


def test_a_draft_model_needs_the_tokens_of_the_model(place: Place, tmp_path: Path) -> None:
    """Another vocabulary, or a split that the draft model does not take, is refused."""
    spec = replace(SPEC, speculative=Speculative("draft", "models:/small/1"))
    other = write_tiny(tmp_path / "other", "Qwen2ForCausalLM").version
    definition = json.loads((tmp_path / "other" / "tokenizer.json").read_text())
    definition["model"]["vocab"].popitem()
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(definition))
    with pytest.raises(Refused, match="same tokenizer"):
        place.kind().plan(place.model, spec, hopper(1), other)
    odd = write_tiny(tmp_path / "odd", intermediate_size=63).folder
    draft = replace(place.draft, directory=str(odd))
    with pytest.raises(Refused, match="split as the model is"):
        place.kind().plan(place.model, replace(spec, tensor_parallel=2), hopper(2), draft)


def test_a_build_is_whole_and_found_again(place: Place, tmp_path: Path) -> None:
    """Model and draft model are linked, requests for the warm-up written, and the second build is a look-up."""
    kind = TensorRtLlm(LocalSettings(str(tmp_path)), now=lambda: 0.0)
    spec = replace(SPEC, speculative=Speculative("draft", "models:/small/1"))
    plan = kind.plan(place.model, spec, hopper(1), place.draft)
    first = kind.build(plan, quiet)
    second = kind.build(kind.plan(place.model, spec, hopper(1), place.draft), quiet)
    directory = Path(first.directory)
    ours = directory / "checkpoint" / "model.safetensors"
    assert ours.stat().st_ino == (Path(place.model.directory) / "model.safetensors").stat().st_ino
    assert (directory / "draft" / "config.json").is_file() and (directory / WARM_UP_FILE).read_text()
    assert (first.cached, second.cached, second.build_s) == (False, True, 0.0) and first.needs["devices"] == 1
    assert artifacts.read_manifest(directory)["built_with"]["version"] == "1.2.1"
    kind.verify(first, hopper(1))


def test_an_engine_is_served_by_the_version_that_built_it(place: Place, tmp_path: Path) -> None:
    """Where the spec names none, whatever is the newest by then."""
    kind = TensorRtLlm(LocalSettings(str(tmp_path)))
    engine = kind.build(kind.plan(place.model, replace(SPEC, version="1.1.0"), hopper(1)), quiet)
    command = kind.serve_command(engine, replace(SPEC, version=""), "127.0.0.1", 18100)
    assert command.container and command.container.image.endswith(":1.1.0")


def test_a_tensorrt_engine_is_refused_on_another_architecture(place: Place, tmp_path: Path) -> None:
    """What was built for Hopper is not served on Ampere, and the refusal says what to do; a checkpoint is."""
    kind = TensorRtLlm(LocalSettings(str(tmp_path)))
    moved = {}
    for recipe in ("tensorrt", "pytorch"):
        plans = [kind.plan(place.model, replace(SPEC, recipe=recipe), hopper(1, sm)) for sm in ((9, 0), (8, 0))]
        moved[recipe] = plans[0].digest != plans[1].digest
    assert moved == {"tensorrt": True, "pytorch": False}
    plan = kind.plan(place.model, replace(SPEC, recipe="tensorrt"), hopper(1))
    artifacts.build_once(tmp_path, plan.spec.kind, plan.digest, partial(_pretend, plan))
    engine = Engine("tensorrt_llm", plan.digest, plan.directory, "tiny", 1, 0.0, False)
    kind.verify(engine, hopper(1))
    with pytest.raises(Refused, match=r"\(SM\) was 90 and is 80.*build it again"):
        kind.verify(engine, hopper(1, (8, 0)))


def _pretend(plan: BuildPlan, directory: Path) -> artifacts.Manifest:
    (directory / "rank0.engine").write_bytes(b"x")
    spec = {"kind": "tensorrt_llm", "version": "1.2.1", "recipe": plan.spec.recipe, "container": {}}
    return {"spec": spec, "built_with": plan.built_with}


def test_the_command_of_a_container(place: Place) -> None:
    """Everywhere inside, published where the platform says; the GPUs by UUID, 64 GiB shared, files read-only."""
    plan = place.plan(tensor_parallel=2, drain_s=12.0)
    engine = Engine("tensorrt_llm", plan.digest, plan.directory, "tiny", 0, 0.0, False)
    command = place.kind().serve_command(engine, plan.spec, "127.0.0.1", 18100, Placement((0, 1), ("GPU-1", "GPU-2")))
    box = command.container
    assert box and (box.gpus, box.shm_bytes, box.ipc) == (("GPU-1", "GPU-2"), 64 * GIB, "")
    assert box.ulimits == {"memlock": -1, "stack": 67108864} and all(mount.read_only for mount in box.mounts)
    assert command.argv[:6] == ("trtllm-serve", "/models/tiny", "--host", "0.0.0.0", "--port", "18100")
    assert command.env["TRTLLM_NO_USAGE_STATS"] == "1" and command.cores == (0, 1) and command.stop_s > 12.0
    assert {mount.host for mount in box.mounts} >= set(command.files)


@pytest.mark.parametrize(
    ("asked", "tensor", "shm", "ipc"),
    [
        (ContainerSpec(), 1, GIB, ""),
        (ContainerSpec(), 2, 64 * GIB, ""),
        (ContainerSpec(shm_gib=8), 2, 8 * GIB, ""),
        (ContainerSpec(ipc="host"), 2, 0, "host"),
        (ContainerSpec(image="own/image:1"), 1, GIB, ""),
    ],
)
def test_shared_memory_follows_the_container(
    place: Place, asked: ContainerSpec, tensor: int, shm: int, ipc: str
) -> None:
    """64 GiB for several GPUs, 1 for one, none of its own with the host's."""
    plan = place.plan(container=asked, tensor_parallel=tensor)
    engine = Engine("tensorrt_llm", plan.digest, plan.directory, "tiny", 0, 0.0, False)
    box = place.kind().serve_command(engine, plan.spec, "127.0.0.1", 18100).container
    assert box and (box.shm_bytes, box.ipc) == (shm, ipc)
    assert box.image == (asked.image or "nvcr.io/nvidia/tensorrt-llm/release:1.2.1")


def test_a_model_that_options_name_is_mounted(place: Place) -> None:
    """An Eagle3 head lies outside of the engine, at the same path inside."""
    head = {"decoding_type": "Eagle3", "max_draft_len": 4, "speculative_model_dir": "/models/eagle"}
    plan = place.plan(options={"speculative_config": head})
    engine = Engine("tensorrt_llm", plan.digest, plan.directory, "tiny", 0, 0.0, False)
    box = place.kind().serve_command(engine, plan.spec, "127.0.0.1", 18100).container
    assert box and ("/models/eagle", "/models/eagle", True) in [(m.host, m.inside, m.read_only) for m in box.mounts]


def test_a_large_engine_may_load_longer(place: Place) -> None:
    """Readiness waits longer for eight ranks than for one; a drain is bounded by SIGKILL, since the server never is."""
    kind = place.kind()
    assert kind.readiness(replace(SPEC, tensor_parallel=8)).load_s > kind.readiness(SPEC).load_s
    assert kind.drain(SPEC).finishes and kind.drain(SPEC).stop_s > kind.drain(SPEC).wait_s
