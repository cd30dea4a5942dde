"""JSON that every parser reads: RFC 8259 (section 6) knows neither infinity nor NaN, which Python would write."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any


def finite(value: Any) -> Any:
    """The same mappings, sequences and values, with None for each number that is infinite or none.

    >>> finite({"candidate": float("inf"), "worst": [(0.5, float("nan"))]})
    {'candidate': None, 'worst': [[0.5, None]]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    return [finite(part) for part in value] if isinstance(value, list | tuple) else value


def json_text(value: Any, indent: int | None = None, default: Callable[[Any], Any] | None = None) -> str:
    """``value`` as JSON, made ``finite``. Raises TypeError for what JSON cannot hold and ``default`` does not turn."""
    return json.dumps(finite(value), indent=indent, default=default, allow_nan=False)
