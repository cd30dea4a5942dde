#!/usr/bin/env python3
"""Stand-in for examples/models/core/phi/convert_checkpoint.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[4]))

from converting import arguments, convert
from stand_in import run

ARCHITECTURES = ("PhiForCausalLM", "Phi3ForCausalLM", "PhiMoEForCausalLM")

if __name__ == "__main__":
    args = arguments(experts=True, pipeline=False, kv=False).parse_args()
    run(lambda: convert(args, ARCHITECTURES))
