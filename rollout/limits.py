"""Bounds that more than one room must agree on, so that what one accepts no other refuses."""

from __future__ import annotations

SERVICE_NAME = r"^[a-z][a-z0-9-]{0,38}[a-z0-9]$"  # also a path of the gateway, part of an instance's id, a Prefect key
RESERVED_PORTS = frozenset({8080, 9090})  # the sidecar of the managed service that we match has them
SHORTEST_TIMEOUT_S, LONGEST_TIMEOUT_S = 0.05, 3600.0
LARGEST_BODY = 16 << 20  # bytes; Envoy's own cap before a service's limit
