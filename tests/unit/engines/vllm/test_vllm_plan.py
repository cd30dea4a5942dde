"""A plan for vLLM: what it decides, and what it refuses before anything is built or started."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter
from stand_in_vllm import vllm_interpreter
from tiny_models import TinyModel, write_tiny

from engines.gguf_file import read_gguf
from engines.hardware import Gpu, Hardware
from engines.local_model import read_local_model
from engines.port import ContainerSpec, EngineSpec, Faults, LocalSettings, Speculative
from engines.sizing.config_file import shape_at
from engines.sources import open_source
from engines.vllm.engine import Vllm
from engines.vllm.gguf_shape import gguf_shape
from rollout.errors import Corrupt, Refused

GIB = 1 << 30
SPEC = EngineSpec(kind="vllm", context=128)
CPU = Hardware(4, 16 * GIB, 64 * GIB, gpu_note="no driver")
HOPPER = tuple(Gpu(n, f"GPU-{n}", "H100", 80 * GIB, 79 * GIB, (9, 0)) for n in range(2))
GPUS = replace(CPU, gpus=HOPPER)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return write_tiny(tmp_path_factory.mktemp("model") / "tiny", tied=False)


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory: pytest.TempPathFactory) -> Vllm:
    folder = tmp_path_factory.mktemp("cpu")
    return Vllm(LocalSettings(str(folder / "engines"), vllm_python=vllm_interpreter(folder / "vllm")))


@pytest.fixture(scope="module")
def on_gpu(tmp_path_factory: pytest.TempPathFactory) -> Vllm:
    folder = tmp_path_factory.mktemp("gpu")
    return Vllm(LocalSettings(str(folder / "engines"), vllm_python=vllm_interpreter(folder / "vllm", "vllm")))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tensor_parallel": 3}, "num_attention_heads is 4, which 3 does not divide.*1, 2"),
        ({"context": 4096}, "context.*positions for 512"),
        ({"quantization": "fp8"}, "quantises while loading on GPUs only"),
        ({"quantization": "int4_awq"}, "quantization.*it is not known.*none, fp8"),
        ({"kv_cache_dtype": "q8_0"}, "kv_cache_dtype.*'auto'"),
        ({"kv_cache_dtype": "nvfp4"}, "kv_cache_dtype.*for CPUs"),
        ({"threads": 65}, "65 threads for 4 cores.*at most 4"),
        ({"tensor_parallel": 2, "threads": 33}, "2 ranks of that many are 66 threads for 4 cores.*at most 2"),
        ({"faults": Faults(error_rate=0.5)}, "faults.*use engine llama_cpp"),
        ({"version": "0.31.0"}, "0.32.0 is installed"),
        ({"max_tokens": 3, "slots": 4}, "4 slots.*at least 4"),
        ({"chunked_prefill": 0, "max_tokens": 64}, "may have 128 tokens.*at least 128"),
        ({"environment": {"VLLM_CPU_KVCACHE_SPACE": "1"}}, "environment.VLLM_CPU_KVCACHE_SPACE.*remove it"),
        ({"environment": {"VLLM_API_KEY": "secret-key"}}, "environment.VLLM_API_KEY"),
        ({"options": {"max_len": 3}}, "options.max_len"),
        ({"recipe": "pytorch"}, "recipe"),
    ],
)
def test_what_cannot_work_on_processors_is_refused(
    on_cpu: Vllm, tiny: TinyModel, changes: dict[str, Any], said: str
) -> None:
    """The refusal names the number, the rule and what does work; no secret is in it."""
    with pytest.raises(Refused, match=said) as refusal:
        on_cpu.plan(tiny.version, replace(SPEC, **changes), CPU)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "hardware", "said"),
    [
        ({}, CPU, "the machine has none .no driver.*make setup-vllm"),
        ({"tensor_parallel": 2}, replace(GPUS, gpus=HOPPER[:1]), "takes 2 GPUs and there are 1"),
        ({"kv_cache_dtype": "nvfp4"}, GPUS, "kv_cache_dtype.*compute capability 10.0"),
        ({"container": ContainerSpec()}, CPU, "the machine has none"),
        ({}, replace(GPUS, gpus=(replace(HOPPER[0], memory_bytes=GIB, free_bytes=GIB),)), "memory.*free"),
    ],
)
def test_what_cannot_work_on_gpus_is_refused(
    on_gpu: Vllm, tiny: TinyModel, changes: dict[str, Any], hardware: Hardware, said: str
) -> None:
    """Too few GPUs, too old ones, too small ones, none."""
    with pytest.raises(Refused, match=said):
        on_gpu.plan(tiny.version, replace(SPEC, **changes), hardware)


def test_a_gpu_without_bfloat16_computes_in_float16(on_gpu: Vllm, tiny: TinyModel) -> None:
    """A bfloat16 checkpoint on Turing: vLLM converts it, unless bfloat16 is asked for."""
    turing = replace(GPUS, gpus=(replace(HOPPER[0], compute_capability=(7, 5)),))
    assert on_gpu.plan(tiny.version, SPEC, turing).digest
    with pytest.raises(Refused, match=r"dtype.*compute capability 8.0 .Ampere"):
        on_gpu.plan(tiny.version, replace(SPEC, dtype="bfloat16"), turing)


def test_without_vllm_a_plan_says_how_to_get_it(tiny: TinyModel, tmp_path: Path) -> None:
    """Unless a container brings it."""
    bare = Vllm(LocalSettings(str(tmp_path), vllm_python=vllm_interpreter(tmp_path / "bare", "numpy")))
    with pytest.raises(Refused, match="make setup-vllm"):
        bare.plan(tiny.version, SPEC, GPUS)
    plan = bare.plan(tiny.version, replace(SPEC, container=ContainerSpec()), GPUS)
    assert "0.32.0" in plan.reasons["version"] and plan.built_with["vllm"] == "0.32.0"


def test_memory_on_processors_is_of_all_ranks(on_cpu: Vllm, tiny: TinyModel) -> None:
    """Each rank is a process; oversubscribed cores are a reason and no refusal."""
    one, two = (on_cpu.plan(tiny.version, replace(SPEC, tensor_parallel=n), CPU) for n in (1, 2))
    assert two.memory_bytes > one.memory_bytes + GIB // 2 and two.needs.devices == 0 and not two.needs.greedy
    many = on_cpu.plan(tiny.version, replace(SPEC, tensor_parallel=2, threads=4), CPU)
    assert "8" not in one.reasons["threads"] and "oversubscribed" in many.reasons["threads"]


def test_gpus_that_the_installed_vllm_does_not_use_are_told(on_cpu: Vllm, tiny: TinyModel) -> None:
    """A plan asked for GPUs is one for processors where that is what is installed, and says so."""
    assert on_cpu.plan(tiny.version, SPEC, GPUS).reasons["GPUs"].startswith("none is used")
    assert "GPUs" not in on_cpu.plan(tiny.version, SPEC, CPU).reasons
    assert "GPUs" not in on_cpu.plan(tiny.version, replace(SPEC, container=ContainerSpec()), GPUS).reasons


def test_memory_on_gpus_is_taken_at_once(on_gpu: Vllm, tiny: TinyModel) -> None:
    """vLLM takes its share of each GPU when it starts."""
    plan = on_gpu.plan(tiny.version, replace(SPEC, tensor_parallel=2), GPUS)
    assert (plan.needs.devices, plan.needs.greedy) == (2, True)
    assert 0.8 < float(plan.reasons["--gpu-memory-utilization"].split(":")[0]) < 0.9


def test_a_draft_model_needs_the_same_vocabulary(on_cpu: Vllm, tiny: TinyModel, tmp_path: Path) -> None:
    """Its guesses are token numbers."""
    guess = replace(SPEC, speculative=Speculative("draft", "models:/small/1"))
    assert on_cpu.plan(tiny.version, guess, CPU, tiny.version).draft == tiny.version
    other = write_tiny(tmp_path / "other", vocab_size=512)
    with pytest.raises((Refused, Corrupt), match="512"):
        on_cpu.plan(tiny.version, guess, CPU, other.version)


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen2ForCausalLM"])
def test_a_gguf_file_has_the_shape_of_its_folder(on_cpu: Vllm, tmp_path: Path, architecture: str) -> None:
    """Every number of the shape, parameters included; the plan says how it will be converted."""
    tiny = write_tiny(tmp_path / "hf", architecture, tied=False)
    file = tmp_path / "tiny.gguf"
    open_source(tiny.version).write("tiny", "BF16", file, lambda what, share: None)
    folder, gguf = shape_at(tiny.folder), gguf_shape(read_gguf(file))
    assert replace(gguf, dtype="bfloat16") == replace(folder, dtype="bfloat16")
    plan = on_cpu.plan(read_local_model(file), SPEC, CPU)
    (step,) = plan.commands
    assert step.name == "convert model: BF16 GGUF to bfloat16 safetensors"
    assert step.command.argv[-3:] == (str(file), "{out}/model", "bfloat16")


def test_gguf_that_would_lose_something_is_refused(on_cpu: Vllm, tmp_path: Path) -> None:
    """Llama 3's rope factors, and an environment that cannot read GGUF."""
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    tiny = write_tiny(tmp_path / "hf", rope_scaling={**rope, "original_max_position_embeddings": 128})
    open_source(tiny.version).write("tiny", "BF16", tmp_path / "tiny.gguf", lambda what, share: None)
    with pytest.raises(Refused, match=r"rope_freqs.*would be lost.*Hugging Face folder"):
        on_cpu.plan(read_local_model(tmp_path / "tiny.gguf"), SPEC, CPU)


def test_gguf_with_tensors_that_its_architecture_lacks_is_refused(on_cpu: Vllm, tmp_path: Path) -> None:
    """transformers would leave out a Llama's attention biases without a word."""
    writer = GGUFWriter(tmp_path / "odd.gguf", "llama")
    tiny = write_tiny(tmp_path / "hf")
    open_source(tiny.version).write("tiny", "F16", tmp_path / "tiny.gguf", lambda what, share: None)
    reader = GGUFReader(tmp_path / "tiny.gguf")
    for field in reader.fields.values():
        if not field.name.startswith(("GGUF.", "general.architecture")):
            kinds = field.types
            writer.add_key_value(field.name, field.contents(), kinds[0], kinds[-1] if len(kinds) > 1 else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.add_tensor("blk.0.attn_q.bias", np.ones(256, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(Refused, match=r"parameters and LlamaForCausalLM of its sizes has .*lost or made up"):
        on_cpu.plan(read_local_model(tmp_path / "odd.gguf"), SPEC, CPU)


def test_gguf_needs_its_readers(tmp_path: Path) -> None:
    """They are not part of every vLLM."""
    tiny = write_tiny(tmp_path / "hf")
    open_source(tiny.version).write("tiny", "BF16", tmp_path / "tiny.gguf", lambda what, share: None)
    python = vllm_interpreter(tmp_path / "vllm", gguf=False)
    with pytest.raises(Refused, match="transformers, gguf and accelerate"):
        Vllm(LocalSettings(str(tmp_path / "e"), vllm_python=python)).plan(
            read_local_model(tmp_path / "tiny.gguf"), SPEC, CPU
        )


def test_a_folder_that_is_not_whole_is_refused(on_cpu: Vllm, tmp_path: Path) -> None:
    """Before anything is built: the plan reads headers and sizes."""
    tiny = write_tiny(tmp_path / "hf")
    weights = tiny.folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises((Corrupt, Refused), match="truncated"):
        on_cpu.plan(replace(tiny_version(tiny), format="safetensors"), SPEC, CPU)


def tiny_version(tiny: TinyModel):  # type: ignore[no-untyped-def]
    """A record of the folder as it is, without reading it."""
    from rollout.nouns import ModelFile, ModelVersion

    files = tuple(ModelFile(p.name, p.stat().st_size, "0" * 64) for p in sorted(tiny.folder.iterdir()))
    return ModelVersion("tiny", "1", "models:/tiny/1", str(tiny.folder), files, "safetensors", "llama", 1, "1" * 64)
