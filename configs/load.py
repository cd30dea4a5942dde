"""Reads what users write: one YAML or JSON file, an explicit ``kind``, unknown keys refused, all errors at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from rollout.command import is_secret, secret_in
from rollout.errors import NotFound, Refused


class Config(BaseModel):
    """Base of every file's model: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


C = TypeVar("C", bound=Config)
SECRET = "secret"  # the type of an error whose value is not repeated


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML or JSON file. Raises NotFound, Refused (with line and column)."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        beside = sorted(p.stem for p in path.parent.glob("*.yaml"))
        raise NotFound(f"{path} does not exist" + (f"; there are: {', '.join(beside)}" if beside else "")) from None
    except UnicodeDecodeError as error:
        rule = f"it is no text in UTF-8: {error.reason} at byte {error.start}"
        raise Refused(str(path), path.name, rule, "save it in UTF-8") from None
    except OSError as error:
        raise Refused(str(path), path.name, f"it cannot be read: {error.strerror}", "name a readable file") from None
    try:
        value = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (yaml.YAMLError, json.JSONDecodeError) as error:
        raise Refused(str(path), path.name, f"it is not readable: {error}", "correct the syntax there") from None
    if not isinstance(value, dict):
        raise Refused(str(path), value, "a configuration is a mapping of fields", "start it with `kind: ...`")
    return value


def check(model: type[C], values: dict[str, Any], where: str) -> C:
    """``values`` as ``model``. Raises Refused that names every wrong field, value and rule at once."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise Refused(where, _summary(values), _rules(error), "correct these fields and try again") from None


def load(model: type[C], path: Path) -> C:
    """The file as ``model``; its ``kind`` must be the model's. Raises NotFound, Refused."""
    values = read_mapping(path)
    wanted = model.model_fields["kind"].default
    if values.get("kind") != wanted:
        raise Refused(
            f"{path}: kind", values.get("kind"), f"this file must be of kind {wanted!r}", f"write `kind: {wanted}`"
        )
    return check(model, values, str(path))


def _rules(error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        field = ".".join(str(part) for part in item["loc"]) or "(whole)"
        given = "" if item["type"] in ("missing", SECRET) else f" (given: {_masked(item['input'])!r})"
        lines.append(f"{field}: {item['msg']}{given}")
    return "; ".join(lines)


def _summary(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in list(_masked(values).items())[:3]) or "(empty)"


def _masked(value: Any) -> Any:
    """As it was given, without what is named like a secret."""
    if not isinstance(value, dict):
        return "(secret)" if secret_in(value) else value
    return {key: "(secret)" if is_secret(str(key)) else _masked(inner) for key, inner in value.items()}
