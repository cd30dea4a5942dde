"""What users write, as the store keeps it and as the gateway understands it."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError

from configs.files import ServiceFile
from configs.traffic_files import GroupFile
from gateway.port import Sticky, Traffic
from rollout.errors import Refused
from store.port import Group, GroupMember, ServiceState

_TRAFFIC = TypeAdapter(Traffic)
_STICKY = TypeAdapter(Sticky)


def service_state(file: ServiceFile) -> ServiceState:
    """A service's settings for the store. Raises NotFound, Refused (its key set)."""
    return ServiceState(
        file.name, None, file.response_timeout_s, file.body_limit_bytes, file.port, traffic_mapping(file)
    )


def traffic_mapping(file: ServiceFile) -> dict[str, Any]:
    """How a service is called, as the store keeps it: without defaults, and ``usage`` only if the file says it."""
    kept = _TRAFFIC.dump_python(file.as_traffic(), mode="json", exclude_defaults=True)
    return kept | ({"usage": file.usage} if file.usage else {})


def traffic_of(mapping: dict[str, Any]) -> Traffic:
    """The way back. Raises Refused for what is no such mapping."""
    try:
        return _TRAFFIC.validate_python(mapping)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in ("traffic", *first["loc"]))
        fix = "mend its file in configs/services and `roundhouse apply`"
        raise Refused(field, first["input"], first["msg"], fix) from None


def group_state(file: GroupFile) -> Group:
    """A group for the store."""
    members = tuple(GroupMember(m.service, m.weight) for m in file.members)
    return Group(file.name, members, file.mode, file.sticky.model_dump() if file.sticky else None)


def sticky_of(mapping: dict[str, str] | None) -> Sticky | None:
    """How a group knows a session. Raises Refused for what is no such mapping."""
    if mapping is None:
        return None
    try:
        return _STICKY.validate_python(mapping)
    except ValidationError as error:
        rule = error.errors()[0]["msg"]
        raise Refused("sticky", mapping, rule, "write for example sticky: {by: header, name: x-session-id}") from None
