"""The last confirmed state as JSON, for a restarted process to know what the proxy holds. Tokens are not in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from gateway.port import GatewayState


@dataclass(frozen=True)
class Saved:
    """A confirmed state and its number, counted up from 1."""

    revision: int
    at: float
    state: GatewayState


_FORM = TypeAdapter(Saved)


def to_json(saved: Saved) -> dict[str, Any]:
    """``saved`` without any token: those lie in the proxy's own file and in their owner's."""
    return _FORM.dump_python(replace(saved, state=without_tokens(saved.state)), mode="json")


def from_json(doc: Any) -> Saved | None:
    """What is in ``doc``; None for anything else, which makes the next change a structural one."""
    try:
        return _FORM.validate_python(doc)
    except ValidationError:
        return None


def without_tokens(state: GatewayState) -> GatewayState:
    """``state`` as anybody may see it."""
    return GatewayState(
        tuple(replace(service, tokens=()) for service in state.services),
        tuple(replace(group, tokens=()) for group in state.groups),
    )
