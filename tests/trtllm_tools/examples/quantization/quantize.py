#!/usr/bin/env python3
"""Stand-in for examples/quantization/quantize.py."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from stand_in import checkpoint_config, early, fault, need_gpu, read_model, run, write_json, write_ranks

FORMATS = {
    "full_prec": None,
    "fp8": "FP8",
    "fp8_pc_pt": "FP8_PER_CHANNEL_PER_TOKEN",
    "int8_sq": "W8A8_SQ_PER_CHANNEL",
    "int4_awq": "W4A16_AWQ",
    "w4a8_awq": "W4A8_AWQ",
    "int8_wo": "W8A16",
    "int4_wo": "W4A16",
    "nvfp4": "NVFP4",
}


def parse() -> argparse.Namespace:
    """Flags with their defaults."""
    made = argparse.ArgumentParser(allow_abbrev=False)
    made.add_argument("--model_dir", required=True)
    made.add_argument("--output_dir", default="exported_model")
    made.add_argument("--dtype", default="auto", choices=["auto", "float16", "bfloat16", "float32"])
    made.add_argument("--qformat", default="full_prec", choices=list(FORMATS))
    made.add_argument("--kv_cache_dtype", choices=["int8", "fp8"])
    made.add_argument("--calib_dataset", default="cnn_dailymail")
    for name, default in (
        ("calib_size", 512),
        ("calib_max_seq_length", 512),
        ("tokenizer_max_seq_length", 2048),
        ("batch_size", 1),
        ("awq_block_size", 128),
        ("tp_size", 1),
        ("pp_size", 1),
        ("cp_size", 1),
        ("seed", 1234),
    ):
        made.add_argument(f"--{name}", type=int, default=default)
    return made.parse_args()


def main() -> None:
    """Calibrate (not at all) and write the ranks."""
    need_gpu()
    early("quantize")
    model, weights = read_model(args.model_dir)
    print(f"Inserted quantizers, calibrating with {args.calib_size} samples of {args.calib_dataset}")
    kv = args.kv_cache_dtype.upper() if args.kv_cache_dtype else None
    kv = "FP8" if fault("quantize") == "kv_fp8" else kv
    out, made = Path(args.output_dir), FORMATS[args.qformat]
    write_ranks("quantize", out, args.tp_size * args.pp_size, weights)
    write_json(out / "config.json", checkpoint_config(model, args.tp_size, args.pp_size, args.dtype, made, kv))
    print(f"Quantized model exported to {out}")


if __name__ == "__main__":
    args = parse()
    run(main)
