"""What a GGUF file says of its model, in the words of a ``config.json``; and which files can be converted for vLLM."""

from __future__ import annotations

from typing import Any

from engines.gguf_file import GgufFile
from engines.sizing.shape import ModelShape, read_shape
from engines.vllm.from_gguf import PRE_TOKENIZERS
from rollout.errors import Refused

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
_FOLDER = "register the model as a Hugging Face folder, or use engine llama_cpp"
_DTYPES = {"F32": "float32", "BF16": "bfloat16"}


def gguf_dtype(file: GgufFile) -> str:
    """In what the converted weights are kept: as they are if dense, else float16, as llama.cpp dequantises."""
    return _DTYPES.get(file.main_type, "float16")


def gguf_shape(file: GgufFile) -> ModelShape:
    """The model's shape. Raises Refused for what would not be converted exactly."""
    check_convertible(file)
    shape = read_shape(config_of(file))
    if shape.parameters != file.parameters:
        rule = f"it holds {file.parameters} parameters and {shape.architecture} of its sizes has {shape.parameters}"
        raise Refused("model file", file.path.name, f"{rule}: some would be lost or made up", _FOLDER)
    return shape


def config_of(file: GgufFile) -> dict[str, Any]:
    """Keys of a ``config.json``; the names in GGUF are those of llama.cpp's converter."""
    heads = file.number("attention.head_count", 1)
    hidden = file.number("embedding_length", 0)
    return {
        "architectures": [ARCHITECTURES[file.architecture]],
        "model_type": file.architecture,
        "hidden_size": hidden,
        "intermediate_size": file.number("feed_forward_length", 0),
        "num_hidden_layers": file.number("block_count", 0),
        "num_attention_heads": heads,
        "num_key_value_heads": file.number("attention.head_count_kv", heads),
        "head_dim": file.number("attention.key_length", hidden // heads),
        "vocab_size": file.metadata["tokenizer.ggml.tokens"].count,
        "max_position_embeddings": file.number("context_length", 0),
        "tie_word_embeddings": all(t.name != "output.weight" for t in file.tensors),
        "torch_dtype": gguf_dtype(file),
    }


def check_convertible(file: GgufFile) -> None:
    """transformers reads more architectures than we have checked, and is silent about what it leaves out: factors and
    scaling of rotary positions, experts of the llama family. Raises Refused."""
    name = file.path.name
    if file.architecture not in ARCHITECTURES:
        rule = f"only {' and '.join(ARCHITECTURES)} are converted from GGUF for vLLM"
        raise Refused("architecture", file.architecture or "none", rule, _FOLDER)
    if file.number("expert_count", 0):
        raise Refused("model file", name, "it has experts, which are not converted from GGUF for vLLM", _FOLDER)
    scaling = file.text(f"{file.architecture}.rope.scaling.type")
    if scaling not in ("", "none") or any(t.name.startswith("rope_factors") for t in file.tensors):
        raise Refused("model file", name, f"rope scaling {scaling or 'factors'} would be lost", _FOLDER)
    if any(t.name.startswith("rope_freqs") for t in file.tensors):
        raise Refused("model file", name, "its rope factors (rope_freqs) would be lost", _FOLDER)
    _check_tokenizer(file)


def _check_tokenizer(file: GgufFile) -> None:
    if "tokenizer.ggml.tokens" not in file.metadata:
        rule = "the GGUF file holds no tokenizer"
        raise Refused("tokenizer", file.path.name, rule, "convert the model together with its tokenizer")
    kind, pre = file.text("tokenizer.ggml.model"), file.text("tokenizer.ggml.pre") or "gpt-2"
    if kind != "gpt2" or pre not in PRE_TOKENIZERS:
        rule = f"only byte-level BPE split as {', '.join(PRE_TOKENIZERS)} is converted"
        raise Refused("tokenizer", f"{kind}/{pre}", rule, _FOLDER)
