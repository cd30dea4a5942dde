"""What one release was asked to do: files and parameters turned into one frozen value, refused early if they clash."""

from __future__ import annotations

from dataclasses import dataclass

from configs.files import ServiceFile, load_engine, load_rollout, load_service
from configs.stack import Stack, load_stack
from engines.port import EngineSpec
from rollout.errors import Refused
from rollout.policy import Policy


@dataclass(frozen=True)
class Order:
    """A release, decided: which model into which service, as which engine, under which policy."""

    stack: Stack
    service: ServiceFile
    model: str
    engine_name: str
    spec: EngineSpec
    policy_name: str
    policy: Policy


def order(service: str, model: str = "", engine: str = "", rollout: str = "") -> Order:
    """The order for a service; empty parameters mean what its file says. Raises NotFound, Refused."""
    file = load_service(service)
    uri = model or f"models:/{file.model}@{file.alias}"
    if not uri.startswith(("models:/", "dvc:")):
        rule = "a model is named models:/NAME/VERSION, models:/NAME@ALIAS or dvc:PATH@REV"
        raise Refused("model", uri, rule, f"use for example models:/{file.model}/1")
    engine_name, policy_name = engine or file.engine, rollout or file.rollout
    spec, policy = load_engine(engine_name).spec(), load_rollout(policy_name).policy()
    return Order(load_stack(), file, uri, engine_name, spec, policy_name, policy)
