"""The stack with what the tests of the whole ask of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.follow import follow_release
from cli.prefect_api import PrefectApi
from configs.stack import Stack
from model_registry.port import ModelRegistry, open_registry
from store.port import Release, Store, open_store


@dataclass(frozen=True)
class House:
    """One stack, its store, its registry and its Prefect."""

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
