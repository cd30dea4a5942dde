"""A service with a version in service, for the tests that go on from there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli.follow import follow_release
from cli.prefect_api import PrefectApi
from configs.stack import Stack
from model_registry.port import ModelRegistry, open_registry
from rollout.nouns import Phase
from store.port import Release, Store, open_store
from whole_stack import until


@dataclass(frozen=True)
class House:
    """The stack with what tests ask of it."""

    stack: Stack
    store: Store
    registry: ModelRegistry
    prefect: PrefectApi
    sample: Path

    def register(self, model: str) -> str:
        """A new version of the sample under that name; its address."""
        return self.registry.register(model, str(self.sample.parent), "sample", lambda what, share: None).uri

    def start(self, service: str, model: str, engine: str, rollout: str) -> str:
        """Start a release through Prefect; the run's id."""
        asked = {"service": service, "model": model, "engine": engine, "rollout": rollout}
        return self.prefect.start("release", asked).id

    def release(self, service: str, model: str, engine: str, rollout: str) -> Release:
        """A release from its start to its end."""
        return follow_release(self.stack, self.start(service, model, engine, rollout), quiet=True)

    def release_of(self, run: str) -> Release | None:
        """The release that a run began, once it did."""
        return next((r for r in self.store.releases() if r.flow_run == run), None)


@pytest.fixture(scope="session")
def house(stack: Stack, sample_gguf: Path) -> House:
    """The stack, its store, its registry and its Prefect."""
    return House(stack, open_store(stack.store()), open_registry(stack.registry()), PrefectApi(stack), sample_gguf)


@pytest.fixture(scope="session")
def chat(house: House) -> Release:
    """The service `chat` with its first version, released by nothing but an alias set in the registry."""
    model: Any = house.register("smollm2").removeprefix("models:/").split("/")
    house.registry.set_alias(model[0], "candidate", model[1])
    release = until(lambda: next(iter(house.store.releases("chat")), None), 60, "a release after setting the alias")
    return follow_release(house.stack, release.flow_run, quiet=True)


@pytest.fixture
def stable(house: House, chat: Release) -> int:
    """The version of `chat` that is in service."""
    assert chat.phase is Phase.PROMOTED, chat.reason
    return house.store.service("chat").stable or 0
