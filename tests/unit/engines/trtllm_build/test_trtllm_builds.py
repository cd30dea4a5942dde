"""Whole builds with stand-ins for NVIDIA's tools: found again, killed, out of disk, given damaged files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trtllm_builds
from tiny_models import TinyModel, write_tiny
from trtllm_builds import VERSION, built, marked, trt_spec, until

import engines
from engines.port import Speculative
from engines.trtllm.verify import verify_directory
from rollout.errors import Corrupt, RoundhouseError, Unavailable


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """A Llama in two files."""
    return write_tiny(tmp_path_factory.mktemp("model") / "tiny", shards=2)


@pytest.fixture
def own(tiny: TinyModel, tmp_path: Path) -> TinyModel:
    """A copy that a test may damage."""
    return TinyModel(shutil.copytree(tiny.folder, tmp_path / "model"), tiny.config, tiny.weights)


def left(root: Path) -> list[str]:
    """What lies among the engines, locks and logs aside."""
    return sorted(path.name for path in root.glob("[!.]*"))


def test_a_tensorrt_engine_is_built_once(tiny: TinyModel, tmp_path: Path) -> None:
    """Two ranks, the tokenizer beside them, the checkpoint gone; the same spec finds it, serving settings too."""
    first, found = built(tmp_path, tiny.version, trt_spec("tensorrt", tensor_parallel=2))
    assert not found and not (first / "work").exists()
    assert sorted(path.name for path in (first / "engine").iterdir()) == ["config.json", "rank0.engine", "rank1.engine"]
    assert (first / "tokenizer" / "tokenizer.json").is_file()
    assert set(json.loads((first / "build.json").read_text())["seconds"]) >= {"convert checkpoint", "build engine"}
    again, found = built(
        tmp_path, tiny.version, trt_spec("tensorrt", tensor_parallel=2, memory_fraction=0.5, max_queue=1)
    )
    assert (again, found) == (first, True)


def test_a_quantised_engine_says_what_it_is(tiny: TinyModel, tmp_path: Path) -> None:
    """FP8 weights, keys and values, over two stages."""
    spec = trt_spec("tensorrt", pipeline_parallel=2, quantization="fp8", kv_cache_dtype="fp8")
    directory, _ = built(tmp_path, tiny.version, spec)
    told = verify_directory(directory, spec, VERSION)
    assert (told["quant_algo"], told["kv_cache_quant_algo"]) == ("FP8", "FP8")
    assert told["mapping"] == {"world_size": 2, "tp_size": 1, "pp_size": 2}


def test_a_quantised_checkpoint_for_pytorch(tiny: TinyModel, tmp_path: Path) -> None:
    """ModelOpt's folder, checked; keys and values stay as they were, though the script's default is FP8."""
    directory, _ = built(tmp_path, tiny.version, trt_spec(quantization="int4_awq"))
    quantised = json.loads((directory / "checkpoint" / "hf_quant_config.json").read_text())["quantization"]
    assert quantised["quant_algo"] == "W4A16_AWQ" and quantised["kv_cache_quant_algo"] is None


def test_an_unquantised_model_is_linked(tiny: TinyModel, tmp_path: Path) -> None:
    """The same files under another name: nothing is copied on one disk; the parallelism is of no matter."""
    first, _ = built(tmp_path, tiny.version, trt_spec())
    for name in ("model-00001-of-00002.safetensors", "tokenizer.json"):
        assert os.path.samefile(first / "checkpoint" / name, tiny.folder / name)
    assert built(tmp_path, tiny.version, trt_spec(tensor_parallel=2, slots=9)) == (first, True)


def test_a_draft_model_lies_beside(tiny: TinyModel, tmp_path: Path) -> None:
    """Linked and checked as the model is; another draft makes another engine; without its files it is not whole."""
    spec = trt_spec(speculative=Speculative("draft", "file:draft"))
    drafts = [write_tiny(tmp_path / name, tied=tied).version for name, tied in (("one", True), ("two", False))]
    directory, _ = built(tmp_path / "e", tiny.version, spec, draft=drafts[0])
    assert verify_directory(directory, spec, VERSION)["draft"] == "LlamaForCausalLM"
    assert built(tmp_path / "e", tiny.version, spec, draft=drafts[1])[0] != directory
    shutil.rmtree(directory / "draft")
    with pytest.raises(Corrupt, match=r"draft/config\.json: it is missing"):
        verify_directory(directory, spec, VERSION)


FAULTS: dict[str, tuple[dict[str, Any], type[RoundhouseError], str]] = {
    "out of GPU memory": ({"fault": "gpu_memory", "at": "quantize", "quantization": "fp8"}, Unavailable, "free memory"),
    "no GPU": ({"environment": {"STAND_IN_GPUS": "0"}}, Unavailable, "no GPU can be used"),
    "disk full while converting": ({"fault": "disk", "at": "convert"}, Unavailable, "convert_checkpoint.py failed"),
    "disk full while building": ({"fault": "disk", "at": "trtllm-build"}, Unavailable, "trtllm-build failed"),
    "killed half way": ({"fault": "die", "at": "trtllm-build"}, Unavailable, "was killed"),
    "truncated rank": ({"fault": "truncate", "at": "convert"}, Corrupt, r"rank1\.safetensors is truncated: \d+ bytes"),
    "other mapping": ({"fault": "wrong_tp", "at": "convert"}, Corrupt, "mapping.world_size is 1 and 2 was asked"),
    "other version": ({"fault": "wrong_version", "at": "trtllm-build"}, Corrupt, "by TensorRT-LLM 1.1.0 and 1.2.1"),
    "missing rank": ({"fault": "no_rank", "at": "trtllm-build"}, Corrupt, "1 rank files found and 2 expected"),
    "empty rank": ({"fault": "empty", "at": "trtllm-build"}, Corrupt, "rank0.engine is missing or empty"),
    "FP8 cache unasked": (
        {"fault": "kv_fp8", "at": "quantize", "quantization": "int4_awq"},
        Corrupt,
        "quantised as FP8 and None was asked for; ask for kv_cache_dtype fp8",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_failed_build_leaves_no_engine(name: str, tiny: TinyModel, tmp_path: Path) -> None:
    """A plain error that names where the whole log is, where a tool failed; no half engine, and the model as it was."""
    more, kind, words = FAULTS[name]
    before = tiny.version.digest
    with pytest.raises(kind, match=words):
        built(tmp_path, tiny.version, trt_spec("tensorrt", tensor_parallel=2, **more))
    assert left(tmp_path) == [] and tiny.version.digest == before
    logs = list((tmp_path / ".logs").glob("*.log"))
    assert logs or name in ("other version", "missing rank", "empty rank")


def test_files_swapped_by_a_tool_are_found(tiny: TinyModel, tmp_path: Path) -> None:
    """Two shards under each other's name: the index tells."""
    with pytest.raises(Corrupt, match=r"model-0000\d-of-00002.safetensors lacks \d+ of the \d+ tensors"):
        built(tmp_path, tiny.version, trt_spec(quantization="fp8", fault="swap", at="hf_ptq"))
    assert left(tmp_path) == []


def test_a_tokenizer_that_a_tool_forgot_is_missed(tiny: TinyModel, tmp_path: Path) -> None:
    """The checkpoint is not used without it."""
    with pytest.raises(Corrupt, match="checkpoint has no tokenizer"):
        built(tmp_path, tiny.version, trt_spec(quantization="fp8", fault="no_tokenizer", at="hf_ptq"))
    assert left(tmp_path) == []


def damage_truncate(folder: Path) -> None:
    """The last bytes of a weight file are gone."""
    file = folder / "model-00002-of-00002.safetensors"
    os.truncate(file, file.stat().st_size - 100)


def damage_swap(folder: Path) -> None:
    """Two weight files under each other's name."""
    one, two = sorted(folder.glob("model-*.safetensors"))
    one.rename(folder / "aside")
    two.rename(one)
    (folder / "aside").rename(two)


def damage_lose(folder: Path) -> None:
    """One weight file is not there."""
    (folder / "model-00001-of-00002.safetensors").unlink()


def damage_tokenizer(folder: Path) -> None:
    """No tokenizer at all."""
    (folder / "tokenizer.json").unlink()


def damage_config(folder: Path) -> None:
    """Half a JSON file."""
    (folder / "config.json").write_text('{"architectures": ["Llama')


def damage_size(folder: Path) -> None:
    """config.json of a larger model."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 512}))


DAMAGES = {
    damage_truncate: r"model-00002-of-00002\.safetensors is truncated: \d+ bytes of data and \d+ expected",
    damage_swap: "files were swapped or mixed",
    damage_lose: "1 of the 2 files that model.safetensors.index.json names are missing",
    damage_tokenizer: "has no tokenizer",
    damage_config: r"config\.json: it cannot be read",
    damage_size: "the weights are of another model",
}


@pytest.mark.parametrize(("damage", "recipe"), zip(DAMAGES, ["tensorrt", "pytorch"] * 3, strict=True))
def test_damaged_models_are_found_before_a_tool_runs(damage: Any, recipe: str, own: TinyModel, tmp_path: Path) -> None:
    """The file, what was found and what to do; nothing is left."""
    version = own.version
    damage(own.folder)
    with pytest.raises(Corrupt, match=DAMAGES[damage]) as failed:
        built(tmp_path / "engines", version, trt_spec(recipe))
    assert "fetch the model again" in str(failed.value) and left(tmp_path / "engines") == []


def test_an_architecture_that_the_tool_does_not_know(tmp_path: Path) -> None:
    """The tool's own refusal becomes a plain sentence."""
    qwen = write_tiny(tmp_path / "model", "Qwen2ForCausalLM")
    with pytest.raises(Corrupt, match="the model's architecture is not supported by this tool"):
        built(tmp_path / "engines", qwen.version, trt_spec("tensorrt"))
    assert left(tmp_path / "engines") == []


@pytest.mark.parametrize("tool", ["trtllm-build", "convert"])
def test_a_killed_builder_harms_nothing(tool: str, tiny: TinyModel, tmp_path: Path) -> None:
    """SIGKILL in the middle: its tools end with it, what it left is cleared away by the next build, which works."""
    root = tmp_path / "engines"
    words = (sys.executable, trtllm_builds.__file__, str(root), str(tiny.folder), "tensorrt", "hang", tool)
    builder = subprocess.Popen(
        words, env={**os.environ, "MARK": str(tmp_path), "PYTHONPATH": str(Path(engines.__file__).parents[1])}
    )
    until(lambda: any("half way" in log.read_text() for log in root.glob("*.building/build.log")))
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    until(lambda: not marked(str(tmp_path)))
    assert all(name.endswith(".building") for name in left(root))
    directory, found = built(root, tiny.version, trt_spec("tensorrt", tensor_parallel=2))
    assert not found and left(root) == [directory.name]


def test_a_full_disk_is_named(tiny: TinyModel, tmp_path: Path) -> None:
    """A real full file system: the error says so, no engine is left, and with room the build works."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = sum(path.stat().st_size for path in tiny.folder.iterdir())
    mounted = subprocess.run(("mount", "-t", "tmpfs", "-o", f"size={size // 2}", "tmpfs", disk), capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a file system")
    try:
        with pytest.raises(Unavailable, match="no space is left on the disk"):
            built(disk, tiny.version, trt_spec("tensorrt"))
        assert left(disk) == []
        subprocess.run(("mount", "-o", f"remount,size={size * 4}", disk), check=True)
        assert not built(disk, tiny.version, trt_spec("tensorrt"))[1]
    finally:
        subprocess.run(("umount", disk), check=True)
