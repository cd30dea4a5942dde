"""Facts about public models, as tests read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

_DATA = Path(__file__).parent.parent / "data"


def facts(name: str) -> dict[str, dict[str, Any]]:
    """Model -> config, parameters and the tensor parallelisms that work, of one page of data."""
    return yaml.safe_load((_DATA / f"{name}.yaml").read_text(encoding="utf-8"))


MODELS = facts("models")
QUANTISED = facts("quantised_models")
VARIANTS = facts("variants")
