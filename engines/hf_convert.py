"""Hugging Face Llama or Qwen2 folder to GGUF, quantised on the way.

The mapping follows llama.cpp's own converter: names from ``gguf``, rows of q and k of Llama reordered because the two
sides pair the halves of a rotary embedding differently, Llama 3's position factors as a tensor of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from gguf import MODEL_ARCH, GGUFWriter, RopeScalingType, get_tensor_name_map
from gguf.constants import GGMLQuantizationType

from engines.hf_folder import HfFolder, Weight
from engines.hf_tokenizer import add_tokenizer
from engines.port import Progress
from engines.quantize import Job, Rows, target_type, write_tensors
from rollout.errors import Refused

_ARCHITECTURES = {"llama": MODEL_ARCH.LLAMA, "qwen2": MODEL_ARCH.QWEN2}
ROPE_TYPES = ("default", "linear", "yarn", "llama3")


def convert(folder: HfFolder, name: str, quantization: str, out: Path, progress: Progress) -> None:
    """Write the folder's model to ``out``. Raises Refused for a tokenizer or rope scaling that is not known."""
    writer = GGUFWriter(None, folder.architecture)
    writer.add_name(name)
    _add_shape(writer, folder)
    _add_rope(writer, folder)
    add_tokenizer(writer, folder.path, int(folder.config["vocab_size"]))
    write_tensors(writer, list(jobs(folder, quantization)), quantization, out, progress)


def _add_shape(writer: GGUFWriter, folder: HfFolder) -> None:
    config = folder.config
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(folder.layers)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(folder.heads)
    writer.add_head_count_kv(folder.kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(folder.head_dim)
    writer.add_key_length(folder.head_dim)
    writer.add_value_length(folder.head_dim)


def rope_type(folder: HfFolder) -> str:
    """The kind of rope scaling. Raises Refused for one that is not converted."""
    kind = folder.rope.get("rope_type") or folder.rope.get("type") or "default"
    if kind not in ROPE_TYPES:
        raise Refused(
            "rope_scaling", kind, f"only {', '.join(ROPE_TYPES)} can be converted", "give a GGUF file of the model"
        )
    return str(kind)


def _add_rope(writer: GGUFWriter, folder: HfFolder) -> None:
    writer.add_rope_freq_base(float(folder.config.get("rope_theta") or folder.rope.get("rope_theta") or 10000.0))
    kind = rope_type(folder)
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(RopeScalingType.LINEAR if kind == "linear" else RopeScalingType.YARN)
        writer.add_rope_scaling_factor(float(folder.rope["factor"]))
    if kind == "yarn":
        length = folder.rope.get("original_max_position_embeddings") or folder.config["max_position_embeddings"]
        writer.add_rope_scaling_orig_ctx_len(int(length))


def llama3_factors(rope: dict[str, float], theta: float, head_dim: int) -> np.ndarray:
    """By what each rotary frequency is divided: 1 for short waves, ``factor`` for long ones, smooth between.

    Formula: "llama3" in transformers/modeling_rope_utils.py.
    """
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    length = rope["original_max_position_embeddings"]
    factors = []
    for i in range(0, head_dim, 2):
        wave = 2 * math.pi * theta ** (i / head_dim)
        smooth = min(1.0, max(0.0, (length / wave - low) / (high - low)))
        factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, dtype=np.float32)


def permutation(rows: int, heads: int) -> np.ndarray:
    """Row order that turns "first half, second half" of each head into adjacent pairs."""
    return np.arange(rows).reshape(heads, 2, rows // heads // 2).swapaxes(1, 2).reshape(-1)


def jobs(folder: HfFolder, quantization: str) -> Iterator[Job]:
    """The tensors to write. Raises Refused for a tensor that the architecture does not have."""
    names = get_tensor_name_map(_ARCHITECTURES[folder.architecture], folder.layers)
    if rope_type(folder) == "llama3":
        yield _rope_factors(folder)
    for weight in folder.weights:
        if "rotary_emb.inv_freq" in weight.name or (weight.name == "lm_head.weight" and _tied(folder)):
            continue
        name = names.get_name(weight.name, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise Refused(
                "weights", weight.name, f"{folder.architecture} has no such tensor", "give a GGUF file of the model"
            )
        yield Job(
            name,
            weight.shape,
            weight.type,
            target_type(name, weight.shape, quantization),
            _rows_of(weight, _order(folder, weight)),
        )


def _tied(folder: HfFolder) -> bool:
    return bool(folder.config.get("tie_word_embeddings", False))


def _order(folder: HfFolder, weight: Weight) -> np.ndarray | None:
    if folder.architecture != "llama":
        return None
    if ".q_proj." in weight.name:
        return permutation(weight.shape[0], folder.heads)
    return permutation(weight.shape[0], folder.kv_heads) if ".k_proj." in weight.name else None


def _rows_of(weight: Weight, order: np.ndarray | None) -> Rows:
    memory = np.memmap(weight.file, dtype=np.uint8, mode="r", offset=weight.offset, shape=(weight.nbytes,))
    if len(weight.shape) == 1 and order is None:
        return lambda first, end: memory.reshape(1, -1)
    rows = memory.reshape(weight.shape[0], -1)
    if order is None:
        return lambda first, end: rows[first:end]
    if len(weight.shape) == 1:
        return lambda first, end: rows[order].reshape(1, -1)
    return lambda first, end: rows[order[first:end]]


def _rope_factors(folder: HfFolder) -> Job:
    theta = float(folder.config.get("rope_theta") or folder.rope.get("rope_theta") or 10000.0)
    factors = llama3_factors(folder.rope, theta, folder.head_dim)
    f32 = GGMLQuantizationType.F32
    return Job("rope_freqs.weight", factors.shape, f32, f32, lambda first, end: factors.view(np.uint8).reshape(1, -1))
