"""Models of a few hundred bytes that are whole in every respect but size."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file


def tiny_gguf(path: Path, seed: int = 0, tokens: int = 3) -> Path:
    """A GGUF file with two tensors of 64 values each, one of them quantised, and a vocabulary of ``tokens``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(1)
    writer.add_token_list([f"t{n}" for n in range(tokens)])
    values = np.random.default_rng(seed).standard_normal((2, 32)).astype(np.float32)
    writer.add_tensor("token_embd.weight", values)
    quantized = gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("output.weight", quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tiny_folder(folder: Path, shards: int = 1) -> Path:
    """A Hugging Face folder with safetensors; with ``shards`` > 1 there is an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}))
    (folder / "tokenizer.json").write_text("{}")
    names = [f"model-{n:05}-of-{shards:05}.safetensors" for n in range(1, shards + 1)]
    names = names if shards > 1 else ["model.safetensors"]
    for number, name in enumerate(names):
        save_file({f"w{number}": np.ones((4, 8), np.float16)}, folder / name)
    if shards > 1:
        index = {"weight_map": {f"w{n}": name for n, name in enumerate(names)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
