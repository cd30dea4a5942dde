"""What the stand-ins for TensorRT-LLM's tools share: reading a model, writing ranks, failing on demand.

docs/trtllm-contract.md is the page that they are written against. The environment steers them:
STAND_IN_VERSION (1.2.1), STAND_IN_FAULT and STAND_IN_AT (which fault, in which tool), STAND_IN_GPUS (8; 0: none).
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import safetensors

Weight = dict[str, Any]  # dtype, shape, data
VERSION = os.environ.get("STAND_IN_VERSION", "1.2.1")


def fault(tool: str) -> str:
    """The fault that this tool is to have."""
    return os.environ.get("STAND_IN_FAULT", "") if os.environ.get("STAND_IN_AT", "") in ("", tool) else ""


def need_gpu() -> None:
    """As PyTorch says it where it sees none."""
    if int(os.environ.get("STAND_IN_GPUS", "8")) == 0:
        raise OSError("GPU is required for inference.")


def early(tool: str) -> None:
    """Faults that come before a file is written."""
    kind = fault(tool)
    if kind == "gpu_memory":
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB")
    if kind == "disk":
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    if kind == "secret":
        print(f"logging in with {os.environ['HF_TOKEN']}", flush=True)


def half_way(tool: str) -> None:
    """Faults that come when some files are written: it dies, or works on for a minute."""
    kind = fault(tool)
    if kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "hang":
        print("half way", flush=True)
        time.sleep(60)


def read_model(directory: str) -> tuple[dict[str, Any], dict[str, Weight]]:
    """config.json and all weights; raises what transformers and safetensors raise."""
    path = Path(directory) / "config.json"
    if not path.is_file():
        raise OSError(f"{directory} does not appear to have a file named config.json.")
    weights: dict[str, Weight] = {}
    for file in sorted(Path(directory).glob("*.safetensors")):
        weights |= dict(safetensors.deserialize(file.read_bytes()))
    return json.loads(path.read_text()), weights


def write_tensors(path: Path, weights: dict[str, Weight]) -> None:
    """One safetensors file: length, header, data."""
    header, data = {}, b""
    for name, weight in weights.items():
        end = len(data) + len(weight["data"])
        header[name] = {"dtype": weight["dtype"], "shape": weight["shape"], "data_offsets": [len(data), end]}
        data += bytes(weight["data"])
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write_ranks(tool: str, out: Path, world: int, weights: dict[str, Weight]) -> None:
    """rank0.safetensors ..., each with its share of every tensor's bytes."""
    out.mkdir(parents=True, exist_ok=True)
    for rank in range(world):
        if rank == world // 2:
            half_way(tool)
        parts = {name: bytes(weight["data"])[rank::world] for name, weight in weights.items()}
        part = {name: {"dtype": "U8", "shape": [len(data)], "data": data} for name, data in parts.items()}
        write_tensors(out / f"rank{rank}.safetensors", part)
    if fault(tool) == "truncate":
        whole = out / f"rank{world - 1}.safetensors"
        os.truncate(whole, whole.stat().st_size - 7)


def checkpoint_config(
    model: dict[str, Any], tp: int, pp: int, dtype: str, algorithm: str | None, kv: str | None
) -> dict[str, Any]:
    """config.json of a checkpoint, with the keys that matter."""
    heads = model["num_attention_heads"]
    return {
        "architecture": model["architectures"][0],
        "dtype": model.get("dtype", "bfloat16") if dtype == "auto" else dtype,
        "logits_dtype": "float32",
        "num_hidden_layers": model["num_hidden_layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": model.get("num_key_value_heads", heads),
        "hidden_size": model["hidden_size"],
        "intermediate_size": model["intermediate_size"],
        "vocab_size": model["vocab_size"],
        "max_position_embeddings": model["max_position_embeddings"],
        "mapping": {"world_size": tp * pp, "tp_size": tp, "pp_size": pp, "cp_size": 1, "gpus_per_node": 8},
        "quantization": {"quant_algo": algorithm, "kv_cache_quant_algo": kv, "group_size": 128},
    }


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=4))


def run(main: Any) -> None:
    """Run a tool: an exception is printed as Python prints it, exit 1."""
    started = time.time()
    main()
    print(f"Total time: {time.strftime('%H:%M:%S', time.gmtime(time.time() - started))}")
    sys.exit(0)
