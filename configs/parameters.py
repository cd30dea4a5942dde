"""Types of the flows' parameters: the Prefect server checks them before a run, and its UI draws its form from them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from configs.fields import NAME
from rollout.limits import SERVICE_NAME

FileName = rf"^$|{NAME}"

Service = Annotated[str, Field(pattern=SERVICE_NAME)]
Model = Annotated[str, Field(pattern=r"^$|^models:/[^/@]+(/[0-9]+|@[^/@]+)$|^dvc:.+$|^hf:.+$")]
Engine = Annotated[str, Field(pattern=FileName)]
Rollout = Annotated[str, Field(pattern=FileName)]
Load = Annotated[str, Field(pattern=NAME)]
Number = Annotated[int, Field(ge=0)]
