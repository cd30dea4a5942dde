"""Tiny random Hugging Face models, written as real folders, and a NumPy forward pass to compare engines with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from engines.local_model import read_local_model
from rollout.nouns import ModelVersion

HIDDEN, FFN, LAYERS, HEADS, KV_HEADS = 256, 512, 2, 4, 2
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class TinyModel:
    """A folder, and the weights in it as float32."""

    folder: Path
    config: dict[str, Any]
    weights: dict[str, np.ndarray]

    @property
    def version(self) -> ModelVersion:
        return read_local_model(self.folder, "tiny")


def write_tiny(
    folder: Path, architecture: str = "LlamaForCausalLM", tied: bool = True, shards: int = 1, **config: Any
) -> TinyModel:
    """Write config.json, tokenizer files and bfloat16 safetensors of a random model."""
    folder.mkdir(parents=True)
    vocabulary = _write_tokenizer(folder, qwen=architecture.startswith("Qwen2"))
    settings = {
        "architectures": [architecture],
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 512,
        "rope_theta": 10000.0,
        "tie_word_embeddings": tied,
        "bos_token_id": vocabulary - 3,
        "eos_token_id": vocabulary - 1,
        **config,
    }
    (folder / "config.json").write_text(json.dumps(settings))
    weights = _random_weights(vocabulary, tied, biases=architecture.startswith("Qwen2"))
    _write_weights(folder, weights, shards)
    return TinyModel(folder, settings, weights)


def _write_tokenizer(folder: Path, qwen: bool) -> int:
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in visible]
    tokens = [chr(b) for b in visible] + [chr(256 + i) for i in range(len(hidden))]
    merges = [["t", "h"], ["th", "e"], ["Ġ", "the"], ["a", "n"], ["an", "d"]]
    vocabulary = {token: i for i, token in enumerate([*tokens, *("".join(pair) for pair in merges)])}
    split = {"type": "Split", "pattern": {"Regex": _QWEN2}, "behavior": "Isolated", "invert": False}
    digits = {"type": "Digits", "individual_digits": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": not qwen}
    added = [{"id": len(vocabulary) + i, "content": text, "special": True} for i, text in enumerate(SPECIAL)]
    (folder / "tokenizer.json").write_text(
        json.dumps(
            {
                "added_tokens": added,
                "model": {"type": "BPE", "vocab": vocabulary, "merges": merges},
                "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split if qwen else digits, byte_level]},
            }
        )
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": SPECIAL[0], "eos_token": SPECIAL[2], "add_bos_token": False, "chat_template": CHAT})
    )
    return len(vocabulary) + len(SPECIAL)


def _random_weights(vocabulary: int, tied: bool, biases: bool) -> dict[str, np.ndarray]:
    random = np.random.default_rng(7)
    head = HIDDEN // HEADS

    def matrix(rows: int, columns: int = 0) -> np.ndarray:
        values = random.normal(0, 1, (rows, columns) if columns else rows) * (0.08 if columns else 0.5)
        return _bf16(values.astype(np.float32))

    weights = {"model.embed_tokens.weight": matrix(vocabulary, HIDDEN), "model.norm.weight": 1 + matrix(HIDDEN)}
    for layer in (f"model.layers.{i}." for i in range(LAYERS)):
        for name, rows, columns in (
            ("self_attn.q_proj", HIDDEN, HIDDEN),
            ("self_attn.k_proj", KV_HEADS * head, HIDDEN),
            ("self_attn.v_proj", KV_HEADS * head, HIDDEN),
            ("self_attn.o_proj", HIDDEN, HIDDEN),
            ("mlp.gate_proj", FFN, HIDDEN),
            ("mlp.up_proj", FFN, HIDDEN),
            ("mlp.down_proj", HIDDEN, FFN),
        ):
            weights[f"{layer}{name}.weight"] = matrix(rows, columns)
            if biases and name[-6:] in ("q_proj", "k_proj", "v_proj"):
                weights[f"{layer}{name}.bias"] = matrix(rows)
        weights[layer + "input_layernorm.weight"] = _bf16(1 + matrix(HIDDEN))
        weights[layer + "post_attention_layernorm.weight"] = _bf16(1 + matrix(HIDDEN))
    weights["model.norm.weight"] = _bf16(weights["model.norm.weight"])
    return weights if tied else {**weights, "lm_head.weight": matrix(vocabulary, HIDDEN)}


def _bf16(values: np.ndarray) -> np.ndarray:
    """Float32 with the precision of bfloat16."""
    return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def _write_weights(folder: Path, weights: dict[str, np.ndarray], shards: int) -> None:
    names = sorted(weights)
    files = {
        name: f"model-{i % shards + 1:05d}-of-{shards:05d}.safetensors" if shards > 1 else "model.safetensors"
        for i, name in enumerate(names)
    }
    for file in sorted(set(files.values())):
        halves = {
            name: (weights[name].view(np.uint32) >> 16).astype(np.uint16) for name in names if files[name] == file
        }
        specs = {
            name: safetensors.TensorSpec(
                dtype="bfloat16", shape=half.shape, data_ptr=half.ctypes.data, data_len=half.nbytes
            )
            for name, half in halves.items()
        }
        (folder / file).write_bytes(safetensors.serialize(specs))
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


def next_token_logprobs(model: TinyModel, tokens: list[int]) -> np.ndarray:
    """Log-probabilities after ``tokens``, by the equations of transformers' modeling_llama.py."""
    weights, length, head = model.weights, len(tokens), HIDDEN // HEADS
    state = weights["model.embed_tokens.weight"][tokens]
    waves = 2 * np.pi * model.config["rope_theta"] ** (np.arange(0, head, 2) / head)
    angles = np.arange(length)[:, None] * 2 * np.pi / _stretched(waves, model.config.get("rope_scaling"))
    cosine, sine = (np.concatenate([f(angles)] * 2, axis=1)[:, None, :] for f in (np.cos, np.sin))

    def rotated(x: np.ndarray) -> np.ndarray:
        return x * cosine + np.concatenate([-x[..., head // 2 :], x[..., : head // 2]], axis=-1) * sine

    def normed(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + model.config["rms_norm_eps"]) * weights[name]

    for layer in (f"model.layers.{i}." for i in range(LAYERS)):
        x = normed(state, layer + "input_layernorm.weight")
        q, k, v = (
            (
                x @ weights[f"{layer}self_attn.{n}_proj.weight"].T + weights.get(f"{layer}self_attn.{n}_proj.bias", 0)
            ).reshape(length, -1, head)
            for n in "qkv"
        )
        q, k = rotated(q), rotated(k).repeat(HEADS // KV_HEADS, axis=1)
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(head) + np.triu(np.full((length, length), -1e9), 1)
        share = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("hqk,khd->qhd", share / share.sum(-1, keepdims=True), v.repeat(HEADS // KV_HEADS, axis=1))
        state = state + mixed.reshape(length, -1) @ weights[layer + "self_attn.o_proj.weight"].T
        x = normed(state, layer + "post_attention_layernorm.weight")
        gate = x @ weights[layer + "mlp.gate_proj.weight"].T
        state = (
            state
            + (gate / (1 + np.exp(-gate)) * (x @ weights[layer + "mlp.up_proj.weight"].T))
            @ weights[layer + "mlp.down_proj.weight"].T
        )
    output = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    logits = normed(state[-1:], "model.norm.weight")[0] @ output.T
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


def _stretched(waves: np.ndarray, rope: dict[str, float] | None) -> np.ndarray:
    """Llama 3's rope scaling, case by case as transformers states it."""
    if rope is None:
        return waves
    long = rope["original_max_position_embeddings"] / rope["low_freq_factor"]
    short = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
    smooth = (rope["original_max_position_embeddings"] / waves - rope["low_freq_factor"]) / (
        rope["high_freq_factor"] - rope["low_freq_factor"]
    )
    between = 1 / ((1 - smooth) / (rope["factor"] * waves) + smooth / waves)
    return np.where(waves < short, waves, np.where(waves > long, rope["factor"] * waves, between))
