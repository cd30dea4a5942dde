"""A GGUF file becomes a Hugging Face folder with the same weights, the same tokens and the same answers."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import safetensors.numpy
from running_engine import CLIENT, running_engine
from running_vllm import FIRST, PROMPTS, RunningVllm, asked
from tiny_models import write_tiny

from engines.hardware import read_hardware
from engines.hf_convert import permutation
from engines.hf_folder import read_safetensors
from engines.llama_cpp import LlamaCpp
from engines.local_model import read_local_model
from engines.port import EngineSpec, LocalSettings
from engines.sources import open_source
from engines.vllm.engine import Vllm
from rollout.nouns import Engine, ModelVersion

_TEXTS = (
    "The year 1984 had 366 days, 12345.678 hours.",
    "<|im_start|>user\nHow are you?<|im_end|>\n",
    "naïve café — 東京 🚂\t\n\n  two  spaces",
    "def f(x):\n    return x**2  # don't",
)


def _as_hf(name: str, values: np.ndarray) -> np.ndarray:
    """Rows of q and k in the order that transformers wants: the other way round than the converter to GGUF."""
    heads = {"attn_q.weight": 9, "attn_k.weight": 3}.get(name.split(".", 2)[-1], 0)
    if not heads:
        return values
    back = np.empty_like(values)
    back[permutation(len(values), heads)] = values
    return back


def test_weights_are_those_of_the_file_in_float16(sample_gguf: Path, engine: Engine) -> None:
    """Every tensor, dequantised by the gguf library and rounded once: equal to the last bit."""
    written = safetensors.numpy.load_file(Path(engine.directory) / "model" / "model.safetensors")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 30)
    theirs = {names.get_name(name, try_suffixes=(".weight",)): name for name in written}
    tensors = gguf.GGUFReader(sample_gguf).tensors
    assert len(tensors) == len(written) == 272
    for tensor in tensors:
        plain = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        values = written[theirs[tensor.name]]
        assert values.dtype == np.float16 and np.array_equal(values, _as_hf(tensor.name, plain).astype(np.float16))


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen2ForCausalLM"])
def test_there_and_back_again(kind: Vllm, tmp_path: Path, architecture: str) -> None:
    """A folder made into GGUF and back has the same bytes in every weight, and the same way to split text."""
    tiny = write_tiny(tmp_path / "hf", architecture, tied=False)
    file = tmp_path / "tiny.gguf"
    open_source(tiny.version).write("tiny", "BF16", file, lambda what, share: None)
    plan = kind.plan(read_local_model(file), EngineSpec(kind="vllm", context=128), read_hardware("/tmp"))
    folder = Path(kind.build(plan, lambda what, share: None).directory) / "model"
    before, after = (
        {w.name: f.read_bytes()[w.offset : w.offset + w.nbytes] for f in [p] for w in read_safetensors(p)}
        for p in (tiny.folder / "model.safetensors", folder / "model.safetensors")
    )
    assert before == after
    splits = [json.loads((p / "tokenizer.json").read_text())["pre_tokenizer"] for p in (tiny.folder, folder)]
    assert splits[0] == splits[1]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, model: ModelVersion):  # type: ignore[no-untyped-def]
    """llama.cpp with the same weights in F16."""
    folder = tmp_path_factory.mktemp("llama")
    spec = EngineSpec(quantization="F16", context=512)
    kind = LlamaCpp(LocalSettings(str(folder)))
    built = kind.build(kind.plan(model, spec, read_hardware("/tmp")), lambda what, share: None)
    with running_engine(kind, built, spec, folder / "log") as running:
        yield running


@pytest.mark.parametrize("text", _TEXTS)
def test_text_becomes_the_same_tokens_as_in_llama_cpp(one_rank: RunningVllm, llama: RunningVllm, text: str) -> None:
    """Digits one by one, special tokens, other scripts, spaces."""
    ours = CLIENT.post(f"{one_rank.base}/tokenize", json={"model": "smollm2", "prompt": text}).json()["tokens"]
    theirs = CLIENT.post(f"{llama.base}/tokenize", json={"content": text, "add_special": True}).json()["tokens"]
    assert ours == theirs and len(ours) > 3


def test_chats_become_the_same_text_as_in_llama_cpp(one_rank: RunningVllm, llama: RunningVllm) -> None:
    """The chat template came along: both count the same tokens of a chat."""
    chat = {"model": "smollm2", "messages": [{"role": "user", "content": "Say 42."}], "max_tokens": 1}
    counts = [
        CLIENT.post(f"{server.base}/v1/chat/completions", json=chat).json()["usage"]["prompt_tokens"]
        for server in (one_rank, llama)
    ]
    assert counts[0] == counts[1] > 20  # the template's own system message


def test_greedy_answers_are_those_of_llama_cpp(greedy: list[str], llama: RunningVllm) -> None:
    """The same words after each prompt, from two engines that share no code."""
    theirs = [llama.complete(prompt, max_tokens=24).json()["choices"][0]["text"] for prompt in PROMPTS]
    assert theirs == greedy


def test_probabilities_are_those_of_llama_cpp(one_rank: RunningVllm, llama: RunningVllm) -> None:
    """The logarithm of the most likely token's probability, to 0.02: llama.cpp rounds activations to 16 bits."""
    for prompt in PROMPTS:
        ours = CLIENT.post(f"{one_rank.base}/v1/completions", json=asked(prompt, logprobs=1, max_tokens=1)).json()
        theirs = llama.complete(prompt, max_tokens=1, n_probs=1).json()
        first = theirs["choices"][0]["logprobs"]["content"][0]["logprob"]
        assert abs(ours["choices"][0]["logprobs"]["token_logprobs"][0] - first) < 0.02
    assert FIRST.dtype == "float32"
