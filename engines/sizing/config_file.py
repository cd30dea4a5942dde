"""A model's shape from its files: ``config.json`` and, of a checkpoint made by ModelOpt, ``hf_quant_config.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engines.sizing.shape import ModelShape, read_shape
from rollout.errors import Refused

CONFIG, QUANTIZATION = "config.json", "hf_quant_config.json"


def shape_at(path: Path) -> ModelShape:
    """The shape of the model in a folder, or of a ``config.json`` by itself. Raises Refused."""
    file = path / CONFIG if path.is_dir() else path
    if not file.is_file():
        held = ", ".join(sorted(p.name for p in path.glob("*.gguf"))) if path.is_dir() else ""
        rule = f"there is no {CONFIG} in it" + (f" but {held}, which llama.cpp serves" if held else "")
        raise Refused("model", str(path), rule, f"name a Hugging Face folder or its {CONFIG}")
    beside = file.with_name(QUANTIZATION)
    return read_shape(_mapping(file), _mapping(beside) if beside.is_file() else None)


def _mapping(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Refused("model", str(file), f"it cannot be read: {error}", "fetch the model again") from None
    if not isinstance(value, dict):
        raise Refused("model", str(file), "a configuration is a JSON object", "fetch the model again")
    return value
