"""The files users write, one model each: service, engine, rollout, load. Percentages here, permille inside."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from configs.engine_file import EngineFile
from configs.load import Config, load
from configs.stack import project_directory
from configs.traffic_files import GroupFile, TrafficFields
from rollout.errors import NotFound, Refused
from rollout.limits import LARGEST_BODY, LONGEST_TIMEOUT_S, RESERVED_PORTS, SERVICE_NAME, SHORTEST_TIMEOUT_S
from rollout.policy import ErrorMargin, Margin, OnTimeout, Policy, Stress

NAME = r"^[a-z][a-z0-9_-]{1,62}$"
Name = Annotated[str, Field(pattern=NAME)]
Percent = Annotated[float, Field(ge=0, le=100)]


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


class MarginFile(Config):
    """Bounds on candidate/stable; harm rolls back, allow is good enough."""

    harm: float = 1.25
    allow: float = 1.5


class ErrorMarginFile(Config):
    """Bounds on errors: a ratio that is harm, and what may be added to stable's rate."""

    harm_ratio: float = 1.5
    allow_percent: Percent = 5.0


class MarginsFile(Config):
    """One bound for each metric."""

    ttft: MarginFile = MarginFile()
    tpot: MarginFile = MarginFile(harm=1.2, allow=1.4)
    errors: ErrorMarginFile = ErrorMarginFile()


class LoadFile(Config):
    """``configs/loads/<name>.yaml``: a load test."""

    kind: Literal["load"] = "load"
    users: Annotated[int, Field(ge=1, le=10_000)] = 2
    duration_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = 16
    api: Literal["chat", "completions"] = "completions"


class RolloutFile(Config):
    """``configs/rollouts/<name>.yaml``: how a release goes about it, and what it demands."""

    kind: Literal["rollout"] = "rollout"
    steps_percent: Annotated[tuple[Percent, ...], Field(min_length=1)]
    mirror_percent: Percent = 50.0
    margins: MarginsFile = MarginsFile()
    alpha: float = 0.05
    min_samples: int = 20
    look_s: Annotated[float, Field(ge=0.2, le=3)] = 1.0
    lease_s: float = 6.0
    step_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    on_timeout: OnTimeout = OnTimeout.ROLL_BACK
    warm_up_requests: Annotated[int, Field(ge=1, le=1000)] = 8
    stress: Name | None = "short"
    baseline: bool = False  # judge against a copy of stable of the candidate's size and age
    keep_warm_s: Annotated[float, Field(ge=0, le=86_400)] = 300.0

    def policy(self) -> Policy:
        """As the core knows it. Raises Refused, NotFound."""
        errors = ErrorMargin(self.margins.errors.harm_ratio, self.margins.errors.allow_percent / 100)
        carried = (
            "alpha",
            "min_samples",
            "look_s",
            "lease_s",
            "step_timeout_s",
            "on_timeout",
            "warm_up_requests",
            "keep_warm_s",
            *(("baseline",) if hasattr(Policy, "baseline") else ()),
        )
        return Policy(
            steps=tuple(permille("steps_percent", share) for share in self.steps_percent),
            mirror=permille("mirror_percent", self.mirror_percent),
            ttft=Margin(**self.margins.ttft.model_dump()),
            tpot=Margin(**self.margins.tpot.model_dump()),
            errors=errors,
            stress=_stress(self.stress),
            **{name: getattr(self, name) for name in carried},
        )


def load_service(name: str) -> ServiceFile:
    """The service of that name; its file bears the name too. Raises NotFound, Refused."""
    service = load(ServiceFile, _path("services", name))
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
    group = load(GroupFile, _path("groups", name))
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
    return load(EngineFile, _path("engines", name))


def load_rollout(name: str) -> RolloutFile:
    """The rollout file of that name. Raises NotFound, Refused."""
    return load(RolloutFile, _path("rollouts", name))


def load_load(name: str) -> LoadFile:
    """The load file of that name. Raises NotFound, Refused."""
    return load(LoadFile, _path("loads", name))


def service_for(model: str, alias: str) -> ServiceFile | None:
    """The service that this alias of this registered model releases into, if one is bound to it."""
    for service in load_services():
        if (service.model, service.alias) == (model, alias):
            return service
    return None


def _path(folder: str, name: str) -> Path:
    if not re.fullmatch(NAME, name):
        rule = "a name is a lower-case letter, then letters, digits, - or _, 2 to 63 in all"
        raise Refused(folder.rstrip("s"), name, rule, "name a file of configs/" + folder)
    path = project_directory() / "configs" / folder / f"{name}.yaml"
    if not path.exists():
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
        raise NotFound(f"there is no {folder.rstrip('s')} {name!r} in configs/{folder}; there are: {there}")
    return path


def permille(field: str, percent: float) -> int:
    """A share in permille. Raises Refused when it is not one, or not in steps of 0.1 %."""
    if not 0 <= percent <= 100:  # also refuses what is no number
        raise Refused(field, percent, "a share lies between 0 and 100 %", "choose one in that range")
    nearest = round(percent * 10)
    if abs(nearest - percent * 10) > 1e-6:
        raise Refused(field, percent, "shares go in steps of 0.1 %", f"use {nearest / 10:g}")
    return nearest


def _stress(name: str | None) -> Stress | None:
    if name is None:
        return None
    load_file = load_load(name)
    return Stress(load_file.users, load_file.duration_s, load_file.max_tokens, load_file.api)
