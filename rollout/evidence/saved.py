"""Evidence as a JSON document and back, to the last bit: Python writes a float so that reading it gives the same."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from rollout.evidence.state import Evidence
from rollout.nouns import Sample


def plain(evidence: Evidence) -> dict[str, Any]:
    """The evidence as JSON-ready values."""
    return {**_plain(evidence), "form": FORM}


def evidence_of(doc: dict[str, Any]) -> Evidence:
    """The evidence in a document. Raises ValueError for one of another form."""
    if doc.get("form") != FORM:
        raise ValueError(f"evidence of form {doc.get('form')}, this is {FORM}")
    return _made(Evidence, {k: v for k, v in doc.items() if k != "form"})  # type: ignore[no-any-return]


FORM = 1  #: grows when saved evidence cannot be read any more


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _made(kind: Any, value: Any) -> Any:
    """The value of that type whose plain form this is."""
    if isinstance(kind, UnionType):
        return None if value is None else _made(next(k for k in get_args(kind) if k is not type(None)), value)
    if is_dataclass(kind):
        hints = _hints(kind)
        return kind(**{name: _made(hints[name], v) for name, v in value.items()})  # type: ignore[operator]
    if kind is Sample:
        return Sample(*value)
    inside = get_args(kind)
    if get_origin(kind) is dict:
        return {inside[0](k): _made(inside[1], v) for k, v in value.items()}
    if get_origin(kind) is tuple:
        kinds = [inside[0]] * len(value) if inside[-1] is Ellipsis else inside
        return tuple(_made(k, v) for k, v in zip(kinds, value, strict=True))
    return value


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)
