"""JSON Schemas of the files that users write: editors complete and check by them. Kept in ``configs/schemas``."""

from __future__ import annotations

import json
from typing import Any

from pydantic import AliasChoices

from configs.engine_file import EngineFile
from configs.files import ServiceFile
from configs.load import Config
from configs.load_file import LoadFile
from configs.rollout_file import RolloutFile
from configs.stack import StackFile
from configs.traffic_files import GroupFile
from rollout.errors import NotFound

KINDS: dict[str, type[Config]] = {
    "rollout": RolloutFile,
    "service": ServiceFile,
    "group": GroupFile,
    "engine": EngineFile,
    "load": LoadFile,
    "stack": StackFile,
}


def schema_of(kind: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a kind of file. Raises NotFound."""
    if kind not in KINDS:
        raise NotFound(f"there is no kind of file {kind!r}; there are: {', '.join(KINDS)}")
    model = KINDS[kind]
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
    schema["required"] = ["kind", *(name for name in schema.get("required", ()) if name != "kind")]
    schema["properties"] |= _other_names(model, schema["properties"])
    return schema


def schema_text(kind: str) -> str:
    """As it is kept in ``configs/schemas/<kind>.schema.json``. Raises NotFound."""
    return json.dumps(schema_of(kind), indent=1, ensure_ascii=False) + "\n"


def _other_names(model: type[Config], properties: dict[str, Any]) -> dict[str, Any]:
    """A field that has several names is told by pydantic under the first alone."""
    found = {}
    for field in model.model_fields.values():
        if isinstance(field.validation_alias, AliasChoices):
            first, *others = (str(name) for name in field.validation_alias.choices)
            found.update(dict.fromkeys(others, properties[first]))
    return found
