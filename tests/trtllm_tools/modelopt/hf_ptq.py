#!/usr/bin/env python3
"""Stand-in for ModelOpt's examples/llm_ptq/hf_ptq.py as of 0.37."""

import argparse
import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stand_in import early, fault, half_way, need_gpu, read_model, run, write_json, write_tensors

FORMATS = {
    "fp8": "FP8",
    "fp8_pb_wo": "fp8_pb_wo",
    "int8_wo": "W8A16",
    "int4_awq": "W4A16_AWQ",
    "w4a8_awq": "W4A8_AWQ",
    "nvfp4": "NVFP4",
}


def parse() -> argparse.Namespace:
    """Flags with their defaults; keys and values are quantised unless told not to be."""
    made = argparse.ArgumentParser(allow_abbrev=False)
    made.add_argument("--pyt_ckpt_path", required=True)
    made.add_argument("--export_path", default="exported_model")
    made.add_argument("--qformat", default="fp8")
    made.add_argument("--kv_cache_qformat", default="fp8", choices=["none", "fp8", "nvfp4", "nvfp4_affine"])
    made.add_argument("--dataset")
    made.add_argument("--calib_size", default="512")
    made.add_argument("--batch_size", type=int, default=0)
    made.add_argument("--awq_block_size", type=int, default=0)
    made.add_argument("--trust_remote_code", action="store_true")
    return made.parse_args()


def main() -> None:
    """Write a Hugging Face folder in two shards, with hf_quant_config.json and the tokenizer."""
    need_gpu()
    early("hf_ptq")
    assert args.qformat in FORMATS, f"Quantization format {args.qformat} not supported for HF export path"
    model, weights = read_model(args.pyt_ckpt_path)
    out = Path(args.export_path)
    out.mkdir(parents=True, exist_ok=True)
    names = sorted(weights)
    placed = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        write_tensors(out / file, {name: weights[name] for name in part})
        placed |= dict.fromkeys(part, file)
        half_way("hf_ptq")
    write_json(out / "model.safetensors.index.json", {"metadata": {}, "weight_map": placed})
    quantization = {"quant_algo": FORMATS[args.qformat], "group_size": args.awq_block_size or None}
    kv = None if args.kv_cache_qformat == "none" else args.kv_cache_qformat.upper()
    quantization |= {"kv_cache_quant_algo": kv, "exclude_modules": ["lm_head"]}
    write_json(out / "config.json", model)
    write_json(
        out / "hf_quant_config.json",
        {"producer": {"name": "modelopt", "version": "0.37.0"}, "quantization": quantization},
    )
    if fault("hf_ptq") != "no_tokenizer":
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(Path(args.pyt_ckpt_path) / name, out / name)
    if fault("hf_ptq") == "swap":
        first, second = sorted(out.glob("model-*.safetensors"))
        first.rename(out / "aside")
        second.rename(first)
        (out / "aside").rename(second)
    print(f"Quantized model exported to :{out}. Total time used {json.dumps(0.1)}s")


if __name__ == "__main__":
    args = parse()
    run(main)
