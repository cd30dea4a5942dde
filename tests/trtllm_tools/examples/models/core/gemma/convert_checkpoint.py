#!/usr/bin/env python3
"""Stand-in for examples/models/core/gemma/convert_checkpoint.py, whose flags are its own."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[4]))

from converting import convert
from stand_in import run

ARCHITECTURES = ("GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM")


def parse() -> argparse.Namespace:
    """``--world-size`` ranks, split by tensors."""
    made = argparse.ArgumentParser(allow_abbrev=False)
    made.add_argument("--ckpt-type", required=True, choices=["jax", "keras", "torch", "hf"])
    made.add_argument("--model-dir", "--model_dir", dest="model_dir", required=True)
    made.add_argument("--output-model-dir", "--output_dir", dest="output_dir", required=True)
    made.add_argument("--world-size", dest="tp_size", type=int, default=1)
    made.add_argument("--dtype", default="auto", choices=["auto", "float16", "bfloat16", "float32"])
    made.add_argument("--use_weight_only", action="store_true")
    made.add_argument("--weight_only_precision", choices=["int8", "int4", "w4a8_awq", "w4a16_awq"])
    made.set_defaults(pp_size=1, pipeline=False)
    args = made.parse_args()
    args.weight_only_precision = args.weight_only_precision or "int8"
    return args


if __name__ == "__main__":
    args = parse()
    run(lambda: convert(args, ARCHITECTURES))
