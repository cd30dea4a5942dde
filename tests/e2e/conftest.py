"""A service with a version in service, for the tests that go on from there."""

from __future__ import annotations

import pytest
from house import House
from house import house as house  # a fixture
from whole_stack import until

from cli.follow import follow_release
from rollout.nouns import Phase
from store.port import Release


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
