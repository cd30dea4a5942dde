#!/usr/bin/env python3
"""Stand-in for examples/models/core/qwen/convert_checkpoint.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[4]))

from converting import arguments, convert
from stand_in import run

ARCHITECTURES = ("Qwen2ForCausalLM", "Qwen2MoeForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM")

if __name__ == "__main__":
    args = arguments(experts=True, pipeline=True, kv=True).parse_args()
    run(lambda: convert(args, ARCHITECTURES))
