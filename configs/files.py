"""The files users write, by their names: services, groups, engines, rollouts."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from configs.engine_file import EngineFile
from configs.fields import Name, path_of
from configs.load import load
from configs.rollout_file import RolloutFile, read_rollout
from configs.stack import project_directory
from configs.traffic_files import GroupFile, TrafficFields
from rollout.errors import Refused
from rollout.limits import LARGEST_BODY, LONGEST_TIMEOUT_S, RESERVED_PORTS, SERVICE_NAME, SHORTEST_TIMEOUT_S


class ServiceFile(TrafficFields):
    """``configs/services/<name>.yaml``: what users call, how, and which registry alias releases into it."""

    kind: Literal["service"] = "service"
    name: Annotated[str, Field(pattern=SERVICE_NAME)]
    model: Annotated[str, Field(min_length=1)]
    alias: Name = "candidate"
    champion: Name = "champion"
    engine: Name = "q8_0"
    rollout: Name = "standard"
    instances: Annotated[int, Field(ge=1, le=64)] = 1
    port: Annotated[int, Field(ge=1024, le=65535)] | None = None  # of its first instance; else from the stack's range
    response_timeout_s: Annotated[float, Field(ge=SHORTEST_TIMEOUT_S, le=LONGEST_TIMEOUT_S)] = 5.0
    body_limit_bytes: Annotated[int, Field(ge=1024, le=LARGEST_BODY)] = 1 << 20

    @field_validator("alias", "champion")
    @classmethod
    def _free_alias(cls, value: str) -> str:
        if value == "latest" or re.fullmatch(r"v\d+", value):
            raise ValueError("`latest` and `v<number>` are reserved by MLflow; choose another alias")
        return value

    @field_validator("port")
    @classmethod
    def _not_reserved(cls, value: int | None) -> int | None:
        if value in RESERVED_PORTS:
            raise ValueError(
                f"{value} is reserved (8080 and 9090 are); choose another, for example 18100, or leave it out"
            )
        return value


def load_service(name: str) -> ServiceFile:
    """The service of that name; its file bears the name too. Raises NotFound, Refused."""
    service = load(ServiceFile, path_of("services", name))
    if service.name != name:
        raise Refused(
            "name", service.name, f"the file {name}.yaml holds another service", f"name it {service.name}.yaml"
        )
    return service


def load_services() -> list[ServiceFile]:
    """All services of this project, by name. Raises Refused when two are bound to the same alias of a model."""
    files = sorted((project_directory() / "configs" / "services").glob("*.yaml"))
    services, bound = [load_service(p.stem) for p in files], {}
    for service in services:
        other = bound.setdefault((service.model, service.alias), service.name)
        if other != service.name:
            rule = f"service {other} is bound to this alias of {service.model} already"
            raise Refused(f"{service.name}.yaml: alias", service.alias, rule, "give it another alias")
    return services


def load_group(name: str) -> GroupFile:
    """The group of that name; its file bears the name too. Raises NotFound, Refused."""
    group = load(GroupFile, path_of("groups", name))
    if group.name != name:
        raise Refused("name", group.name, f"the file {name}.yaml holds another group", f"name it {group.name}.yaml")
    return group


def load_groups() -> list[GroupFile]:
    """All groups of this project, by name. Raises Refused when one bears a service's name or has unknown members."""
    folder = project_directory() / "configs"
    services = {p.stem for p in (folder / "services").glob("*.yaml")}
    groups = [load_group(p.stem) for p in sorted((folder / "groups").glob("*.yaml"))]
    for group in groups:
        if group.name in services:
            rule = "a service has this name, and both are paths of the gateway"
            raise Refused(f"groups/{group.name}.yaml: name", group.name, rule, "give the group another name")
        for member in group.members:
            if member.service not in services:
                rule = f"there is no such service; there are: {', '.join(sorted(services)) or 'none'}"
                raise Refused(f"groups/{group.name}.yaml: members", member.service, rule, "name one of them")
    return groups


def load_engine(name: str) -> EngineFile:
    """The engine file of that name. Raises NotFound, Refused."""
    return load(EngineFile, path_of("engines", name))


def load_rollout(name: str) -> RolloutFile:
    """The rollout file of that name. Raises NotFound, Refused."""
    return read_rollout(path_of("rollouts", name))


def service_for(model: str, alias: str) -> ServiceFile | None:
    """The service that this alias of this registered model releases into, if one is bound to it."""
    for service in load_services():
        if (service.model, service.alias) == (model, alias):
            return service
    return None
