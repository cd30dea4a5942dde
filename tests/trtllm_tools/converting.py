"""What the stand-ins for the families' convert_checkpoint.py do."""

from __future__ import annotations

import argparse
from pathlib import Path

from stand_in import VERSION, checkpoint_config, early, fault, read_model, write_json, write_ranks

_DTYPES = {"default": "auto", "choices": ["auto", "float16", "bfloat16", "float32"]}


def arguments(experts: bool, pipeline: bool, kv: bool) -> argparse.ArgumentParser:
    """The flags that the scripts of llama, qwen and phi share, and those that only some know."""
    made = argparse.ArgumentParser(allow_abbrev=False)
    made.add_argument("--model_dir", required=True)
    made.add_argument("--output_dir", default="tllm_checkpoint")
    for name in ("tp_size", "pp_size", "workers"):
        made.add_argument(f"--{name}", type=int, default=1)
    made.add_argument("--dtype", **_DTYPES)
    made.add_argument("--use_weight_only", action="store_true")
    made.add_argument("--weight_only_precision", default="int8", choices=["int8", "int4"])
    if experts:
        made.add_argument("--moe_tp_size", type=int, default=-1)
        made.add_argument("--moe_ep_size", type=int, default=-1)
    if kv:
        made.add_argument("--int8_kv_cache", action="store_true")
        made.add_argument("--load_model_on_cpu", action="store_true")
    made.set_defaults(pipeline=pipeline)
    return made


def convert(args: argparse.Namespace, architectures: tuple[str, ...]) -> None:
    """Write the checkpoint."""
    print(VERSION)
    early("convert")
    model, weights = read_model(args.model_dir)
    assert model["architectures"][0] in architectures, "Invalid model type"
    assert args.pp_size == 1 or args.pipeline, "Pipeline parallelism is not supported."
    algorithm = {"int8": "W8A16", "int4": "W4A16"}[args.weight_only_precision] if args.use_weight_only else None
    out, world = Path(args.output_dir), args.tp_size * args.pp_size
    write_ranks("convert", out, world, weights)
    tp = 1 if fault("convert") == "wrong_tp" else args.tp_size
    write_json(out / "config.json", checkpoint_config(model, tp, args.pp_size, args.dtype, algorithm, None))
