"""Engines built from the real sample model and from Hugging Face folders load in llama.cpp and answer."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from running_engine import CLIENT, running_engine
from tiny_models import next_token_logprobs, write_tiny

from engines import artifacts
from engines.evaluate import evaluate
from engines.gguf_file import read_gguf
from engines.hardware import read_hardware
from engines.llama_cpp import LlamaCpp
from engines.local_model import read_local_model
from engines.port import EngineSpec, LocalSettings
from rollout.errors import Refused

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

HARDWARE = read_hardware("/tmp")


def quiet(what: str, share: float) -> None:
    """Progress that nobody reads."""


@pytest.mark.parametrize("quantization", ["Q4_0", "Q8_0", "Q4_K"])
def test_the_sample_answers_in_each_quantisation(tmp_path: Path, sample_gguf: Path, quantization: str) -> None:
    """Built from Q4_1, which the manifest says; through its real server most answers are right and clean."""
    kind, spec = LlamaCpp(LocalSettings(str(tmp_path))), EngineSpec(quantization=quantization)
    engine = kind.build(kind.plan(read_local_model(sample_gguf, "smollm"), spec, HARDWARE), quiet)
    file = Path(engine.directory) / "model.gguf"
    assert artifacts.verify(Path(engine.directory))["derived_from"] == "requantised from Q4_1"
    assert read_gguf(file).parameters == 134_515_008
    figures = evaluate(Path(engine.directory), EngineSpec(slots=1))
    requests = Path(engine.directory) / "warm_up.jsonl"
    assert figures["prompts"] == 12
    assert figures["bytes"] == engine.size == file.stat().st_size + requests.stat().st_size
    assert figures["expected_share"] >= 0.5 and figures["clean_share"] >= 0.5


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("LlamaForCausalLM", {}),
        ("LlamaForCausalLM", {"rope_scaling": LLAMA3, "tied": False}),
        ("Qwen2ForCausalLM", {"shards": 3}),
    ],
)
def test_a_converted_folder_computes_what_the_weights_say(tmp_path: Path, architecture: str, options: dict) -> None:
    """llama.cpp's probabilities over 90 positions' context equal those of the model's equations in NumPy."""
    model = write_tiny(tmp_path / "hf", architecture, **options)
    kind, spec = LlamaCpp(LocalSettings(str(tmp_path / "e"))), EngineSpec(quantization="F32", context=256)
    engine = kind.build(kind.plan(model.version, spec, HARDWARE), quiet)
    tokens = [(i * 37) % 250 for i in range(90)]
    with running_engine(kind, engine, spec, tmp_path / "log") as running:
        request = {"prompt": tokens, "n_predict": 1, "temperature": 0, "n_probs": 20}
        found = CLIENT.post(f"{running.base}/completion", json=request).json()["completion_probabilities"][0]
        chat = CLIENT.post(
            f"{running.base}/v1/chat/completions",
            json={"messages": [{"role": "user", "content": "and the end"}], "max_tokens": 4},
        ).json()
        split = CLIENT.post(f"{running.base}/tokenize", json={"content": "and the<|im_end|>"}).json()["tokens"]
    expected = next_token_logprobs(model, tokens)
    for one in found["top_logprobs"]:
        assert one["logprob"] == pytest.approx(expected[one["id"]], abs=0.02)
    assert found["id"] == int(np.argmax(expected))
    assert chat["usage"]["completion_tokens"] >= 1
    assert split == [260, 258, model.config["eos_token_id"]]


def test_a_truncated_sample_is_refused(tmp_path: Path, sample_gguf: Path) -> None:
    """Before anything is written, with the size that the tensors need and the size that is there."""
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(sample_gguf.read_bytes()[:50_000_000])
    with pytest.raises(Refused, match=r"truncated: its 272 tensors need \d+ bytes and the file has 50000000"):
        read_local_model(cut)


def _start_build(model: Path, out: Path, quantization: str = "Q8_0") -> subprocess.Popen[bytes]:
    words = ["build", "--model", str(model), "--quantization", quantization, "--out", str(out)]
    return subprocess.Popen([sys.executable, "-m", "engines", *words], stdout=subprocess.PIPE)


def test_two_builds_at_once_build_once(tmp_path: Path, sample_gguf: Path) -> None:
    """Two processes, one digest: one builds, the other waits and finds."""
    builds = [_start_build(sample_gguf, tmp_path) for _ in range(2)]
    printed = [build.communicate(timeout=120)[0] for build in builds]
    assert [build.returncode for build in builds] == [0, 0]
    assert sorted(b'"cached": true' in text for text in printed) == [False, True]


def test_a_killed_build_leaves_no_engine(tmp_path: Path, sample_gguf: Path) -> None:
    """SIGKILL in the middle of writing: nothing looks finished, and the next build cleans up and succeeds."""
    build = _start_build(sample_gguf, tmp_path, "Q4_K")
    end = time.monotonic() + 60
    while not list(tmp_path.glob("*.building/model.gguf")) and time.monotonic() < end:
        time.sleep(0.005)
    build.send_signal(signal.SIGKILL)
    build.communicate()
    names = [p.name for p in tmp_path.iterdir() if p.name != ".locks"]
    assert len(names) == 1 and names[0].endswith(".building")
    assert _start_build(sample_gguf, tmp_path, "Q4_0").wait(120) == 0
    engines = [p.name for p in tmp_path.iterdir() if p.name != ".locks"]
    assert len(engines) == 1 and not engines[0].endswith(".building")
