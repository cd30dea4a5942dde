"""The last confirmed state as JSON, for a restarted process to know what the proxy holds."""

from __future__ import annotations

import dataclasses
from typing import Any

from gateway.port import Backend, Endpoint, GatewayState, ServiceRoute, Token
from rollout.nouns import Lease


def to_json(state: GatewayState) -> dict[str, Any]:
    """``state`` with its secrets: for a file that only the gateway's user can read."""
    return dataclasses.asdict(state)


def from_json(doc: Any) -> GatewayState | None:
    """The state in ``doc``; None for anything else, which makes the next change a structural one."""
    try:
        return GatewayState(tuple(_service(service) for service in doc["services"]))
    except (KeyError, TypeError):
        return None


def _service(doc: dict[str, Any]) -> ServiceRoute:
    tokens = tuple(Token(**token) for token in doc["tokens"])
    backends = tuple(Backend(b["version"], tuple(Endpoint(**e) for e in b["endpoints"])) for b in doc["backends"])
    lease = Lease(**doc["lease"]) if doc["lease"] else None
    return ServiceRoute(**{**doc, "tokens": tokens, "backends": backends, "lease": lease})
