"""How long, as people write it: ``90s``, ``15m``, ``1h``, ``30d``."""

from __future__ import annotations

import re

from rollout.errors import Refused

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def seconds(field: str, text: str) -> float:
    """``text`` in seconds. Raises Refused.

    >>> seconds("--for", "1.5h"), seconds("--for", "90")
    (5400.0, 90.0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if not found:
        raise Refused(field, text, "a duration is a number with s, m, h or d behind it", "write for example 30d")
    return float(found[1]) * UNITS[found[2] or "s"]
