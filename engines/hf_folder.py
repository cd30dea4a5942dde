"""Reads a Hugging Face model folder: config.json and the headers of its safetensors files, checked against each other.

Layout of a safetensors file: https://github.com/huggingface/safetensors#format (length, JSON header, data).
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from gguf.constants import GGMLQuantizationType

from rollout.errors import Refused

ARCHITECTURES = {"LlamaForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2"}
_TYPES = {"F32": GGMLQuantizationType.F32, "F16": GGMLQuantizationType.F16, "BF16": GGMLQuantizationType.BF16}
_FETCH_AGAIN = "fetch the model again and compare the sha256 of its files"
_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "rms_norm_eps",
    "max_position_embeddings",
)
_PER_LAYER = (
    "input_layernorm",
    "post_attention_layernorm",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)


@dataclass(frozen=True)
class Weight:
    """One tensor of a safetensors file; ``offset`` counts from the file's start."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    file: Path
    offset: int
    nbytes: int


@dataclass(frozen=True)
class HfFolder:
    """A checked folder."""

    path: Path
    config: dict[str, Any]
    architecture: str
    weights: tuple[Weight, ...]

    @property
    def heads(self) -> int:
        return int(self.config["num_attention_heads"])

    @property
    def kv_heads(self) -> int:
        return int(self.config.get("num_key_value_heads") or self.heads)

    @property
    def head_dim(self) -> int:
        return int(self.config.get("head_dim") or self.config["hidden_size"] // self.heads)

    @property
    def layers(self) -> int:
        return int(self.config["num_hidden_layers"])

    @property
    def rope(self) -> dict[str, Any]:
        """Scaling of the rotary positions; the key was renamed in transformers 5."""
        return self.config.get("rope_parameters") or self.config.get("rope_scaling") or {}


def read_hf_folder(path: Path) -> HfFolder:
    """Parse and check. Raises Refused: unreadable config, unsupported architecture, missing or truncated weight files,
    missing tensors, no tokenizer."""
    config = _config(path)
    names = config.get("architectures") or ["none"]
    if names[0] not in ARCHITECTURES:
        raise Refused(
            "architecture",
            names[0],
            f"only {', '.join(ARCHITECTURES)} can be converted",
            "give a GGUF file of the model, or a model of one of these architectures",
        )
    if config.get("quantization_config"):
        raise Refused(
            "quantization_config",
            config["quantization_config"].get("quant_method", "?"),
            "the weights are already quantised for another engine",
            "give the model in bfloat16 or float16",
        )
    if not (path / "tokenizer.json").is_file():
        raise Refused("tokenizer.json", "missing", "the folder has no tokenizer", "fetch tokenizer.json of the model")
    weights = tuple(w for file in weight_files(path) for w in read_safetensors(file))
    folder = HfFolder(path, config, ARCHITECTURES[names[0]], weights)
    _check_tensors(folder)
    return folder


def _config(path: Path) -> dict[str, Any]:
    try:
        config = dict(json.loads((path / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as bad:
        raise Refused("config.json", str(bad), "it cannot be read", _FETCH_AGAIN) from bad
    missing = [key for key in _REQUIRED if key not in config]
    if (config.get("architectures") or [None])[0] in ARCHITECTURES and missing:
        raise Refused("config.json", ", ".join(missing), "these keys are missing", _FETCH_AGAIN)
    return config


def weight_files(path: Path) -> list[Path]:
    """The safetensors files that the index names, or the single one. Raises Refused where one is missing."""
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        found = sorted(path.glob("*.safetensors"))
        if len(found) == 1:
            return found
        raise Refused(
            "weights",
            path.name,
            f"{len(found)} safetensors files and no model.safetensors.index.json",
            "fetch all files of the model",
        )
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as bad:
        raise Refused(index.name, str(bad), "it cannot be read", _FETCH_AGAIN) from bad
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise Refused(index.name, outside[0], "it names a file outside the folder", _FETCH_AGAIN)
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        raise Refused(
            "weights",
            ", ".join(missing),
            f"{len(missing)} of the {len(names)} files that {index.name} names are missing",
            "fetch all files of the model",
        )
    return [path / name for name in names]


def read_safetensors(file: Path) -> list[Weight]:
    """The tensors of one file. Raises Refused when it is truncated, damaged or of a type that is not converted."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = struct.unpack("<Q", opened.read(8).ljust(8, b"\0"))[0]
        if not 2 <= length <= size - 8:
            raise Refused(
                "weights",
                file.name,
                f"truncated: its header needs {length} bytes and the file has {size}",
                _FETCH_AGAIN,
            )
        content = opened.read(length)
    try:
        entries = [(name, entry) for name, entry in json.loads(content).items() if name != "__metadata__"]
        weights = [_weight(file, name, entry, 8 + length) for name, entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError) as bad:
        raise Refused("weights", file.name, f"its header is damaged ({bad})", _FETCH_AGAIN) from bad
    needed = max((w.offset + w.nbytes for w in weights), default=0)
    if needed > size:
        raise Refused(
            "weights", file.name, f"truncated: its tensors need {needed} bytes and the file has {size}", _FETCH_AGAIN
        )
    return weights


def _weight(file: Path, name: str, entry: dict[str, Any], start: int) -> Weight:
    if entry["dtype"] not in _TYPES:
        raise Refused(
            "weights",
            f"{name} in {file.name}",
            f"its type {entry['dtype']} is none of {', '.join(_TYPES)}",
            "give the model in bfloat16 or float16",
        )
    first, end = entry["data_offsets"]
    weight = Weight(name, tuple(entry["shape"]), _TYPES[entry["dtype"]], file, start + first, end - first)
    if weight.nbytes != prod(weight.shape) * (4 if weight.type == GGMLQuantizationType.F32 else 2):
        raise Refused(
            "weights", f"{name} in {file.name}", f"{weight.nbytes} bytes do not hold shape {weight.shape}", _FETCH_AGAIN
        )
    return weight


def _check_tensors(folder: HfFolder) -> None:
    shapes = {w.name: w.shape for w in folder.weights}
    wanted = {"model.embed_tokens.weight", "model.norm.weight"}
    wanted |= {f"model.layers.{i}.{part}.weight" for i in range(folder.layers) for part in _PER_LAYER}
    missing = sorted(wanted - shapes.keys())
    if missing:
        raise Refused(
            "weights",
            missing[0],
            f"{len(missing)} of the tensors that config.json implies are missing",
            "fetch all files of the model",
        )
    rows, width = folder.kv_heads * folder.head_dim, int(folder.config["hidden_size"])
    for name, expected in (
        ("model.embed_tokens.weight", (int(folder.config["vocab_size"]), width)),
        ("model.layers.0.self_attn.k_proj.weight", (rows, width)),
    ):
        if shapes[name] != expected:
            raise Refused(
                "weights",
                name,
                f"its shape is {shapes[name]} and config.json says {expected}",
                "take config.json and the weights from the same revision",
            )
