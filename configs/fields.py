"""What fields of several files are: names, shares, and where a named file lies. Percentages here, permille inside."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import Field

from configs.stack import project_directory
from rollout.errors import NotFound, Refused

NAME = r"^[a-z][a-z0-9_-]{1,62}$"
Name = Annotated[str, Field(pattern=NAME)]
Percent = Annotated[float, Field(ge=0, le=100)]


def path_of(folder: str, name: str) -> Path:
    """The file of that name in ``configs/<folder>``. Raises Refused, NotFound."""
    if not re.fullmatch(NAME, name):
        rule = "a name is a lower-case letter, then letters, digits, - or _, 2 to 63 in all"
        raise Refused(folder.rstrip("s"), name, rule, "name a file of configs/" + folder)
    path = project_directory() / "configs" / folder / f"{name}.yaml"
    if not path.exists():
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
        raise NotFound(f"there is no {folder.rstrip('s')} {name!r} in configs/{folder}; there are: {there}")
    return path


def permille(field: str, percent: float) -> int:
    """A share in permille. Raises Refused when it is not one, or not in steps of 0.1 %."""
    if not 0 <= percent <= 100:  # also refuses what is no number
        raise Refused(field, percent, "a share lies between 0 and 100 %", "choose one in that range")
    nearest = round(percent * 10)
    if abs(nearest - percent * 10) > 1e-6:
        raise Refused(field, percent, "shares go in steps of 0.1 %", f"use {nearest / 10:g}")
    return nearest
