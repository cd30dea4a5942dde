"""A service with a version in service, for the tests that go on from there."""

from __future__ import annotations

from pathlib import Path

import pytest
from house import House
from whole_stack import until

from cli.follow import follow_release
from cli.prefect_api import PrefectApi
from configs.stack import Stack
from model_registry.port import open_registry
from rollout.nouns import Phase
from store.port import Release, open_store


@pytest.fixture(scope="session")
def house(stack: Stack, sample_gguf: Path) -> House:
    """The stack, its store, its registry and its Prefect."""
    return House(stack, open_store(stack.store()), open_registry(stack.registry()), PrefectApi(stack), sample_gguf)


@pytest.fixture(scope="session")
def chat(house: House) -> Release:
    """The service `chat` with its first version, released by nothing but an alias set in the registry."""
    model = house.register("smollm2").removeprefix("models:/").split("/")
    house.registry.set_alias(model[0], "candidate", model[1])
    release = until(lambda: next(iter(house.store.releases("chat")), None), 60, "a release after setting the alias")
    return follow_release(house.stack, release.flow_run, quiet=True)


@pytest.fixture
def stable(house: House, chat: Release) -> int:
    """The version of `chat` that is in service."""
    assert chat.phase is Phase.PROMOTED, chat.reason
    return house.store.service("chat").stable or 0
