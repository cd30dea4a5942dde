"""``configs/loads/<name>.yaml``: a load test, of one instance or of a candidate before it carries users' requests."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from configs.fields import path_of
from configs.load import Config, load


class LoadFile(Config):
    """A load test: so many users, each of whom asks again as soon as it is answered."""

    kind: Literal["load"] = "load"
    users: Annotated[int, Field(ge=1, le=10_000)] = 2
    duration_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = 16
    api: Literal["chat", "completions"] = "completions"


def load_load(name: str) -> LoadFile:
    """The load file of that name. Raises NotFound, Refused."""
    return load(LoadFile, path_of("loads", name))
