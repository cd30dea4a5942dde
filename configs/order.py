"""What one release was asked to do: files and parameters turned into one frozen value, refused early if they clash."""

from __future__ import annotations

from dataclasses import dataclass

from configs.evaluation import check_evaluation, with_models_own
from configs.files import ServiceFile, load_engine, load_rollout, load_service
from configs.load_file import load_load
from configs.stack import Stack, load_stack
from engines.port import EngineSpec, open_engine
from loadtest.port import LoadPlan
from model_registry.port import open_registry
from rollout.errors import NotFound, Refused, RoundhouseError
from rollout.nouns import Health
from rollout.policy import Policy
from store.port import open_store


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
    prometheus: str = ""  # whom the policy's vetoes ask; $NAME: the value of that variable


def order(service: str, model: str = "", engine: str = "", rollout: str = "") -> Order:
    """The order for a service; empty parameters mean what its file says.

    Where the policy asks for the model's own evaluation set, the registry is asked now, and the order names that
    version in place of an alias. Raises NotFound, Refused, Unavailable.
    """
    file = load_service(service)
    uri = model or f"models:/{file.model}@{file.alias}"
    if not uri.startswith(("models:/", "dvc:", "hf:")):
        rule = "a model is named models:/NAME/VERSION, models:/NAME@ALIAS, dvc:PATH@REV or hf:ORG/NAME"
        raise Refused("model", uri, rule, f"use for example models:/{file.model}/1")
    engine_name, policy_name = engine or file.engine, rollout or file.rollout
    spec, rules = load_engine(engine_name).spec(), load_rollout(policy_name)
    stack, policy = load_stack(), rules.policy()
    check_evaluation(policy, stack)
    open_engine(spec.kind, stack.engines()).check(spec)
    policy, uri = with_models_own(policy, uri, stack)
    return Order(stack, file, uri, engine_name, spec, policy_name, policy, rules.prometheus or "")


def load_order(stack: Stack, service: str, version: int, load: str, now: float) -> tuple[LoadPlan, str]:
    """The load test of one ready instance of a version (0: the one in service), and where its files go.

    Raises NotFound when the version has no ready instance.
    """
    file, store = load_load(load), open_store(stack.store())
    number = version or store.service(service).stable
    ready = [i for i in store.instances(service) if i.health is Health.READY]
    target = next((i for i in ready if i.version == number), None)
    if target is None:
        running = ", ".join(str(n) for n in sorted({i.version for i in ready})) or "none"
        raise NotFound(f"version {number} of {service!r} has no ready instance; versions that have one: {running}")
    plan = LoadPlan(f"http://{target.host}:{target.port}", file.users, file.duration_s, file.max_tokens, file.api)
    return plan, str(stack.home / "reports" / f"stress-{service}-v{number}-{int(now)}")


def champion_of(service: str) -> str:
    """The alias that names the model version in service. Raises NotFound, Refused."""
    return load_service(service).champion


def crown(stack: Stack, service: str, model_uri: str) -> str:
    """Move the champion alias to the model that was put in service by hand; a sentence when it could not be done."""
    if not model_uri.startswith("models:/"):
        return ""
    name, version = model_uri.removeprefix("models:/").split("/")
    try:
        open_registry(stack.registry()).set_alias(name, champion_of(service), version)
    except RoundhouseError as error:
        return f" (the registry's champion alias could not be moved: {error})"
    return ""
