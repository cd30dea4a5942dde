"""Fixtures that many folders of tests share. They choose settings and files; they patch nothing."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from whole_stack import stack as stack  # a fixture: one stack a session, for all folders

from model_registry.sample import sample_model_file

#: The same examples in each run, and no clock over any: a machine that stalls for a moment proves nothing.
settings.register_profile(
    "same", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("same")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the whole stack run last, so that it does not idle beside others; those of e2e after the idle one's."""
    items.sort(key=lambda item: ("stack" in getattr(item, "fixturenames", ())) + ("e2e" in item.path.parts))


@pytest.fixture(scope="session")
def cache() -> Path:
    """Where what is fetched once is kept."""
    return Path(os.environ.get("ROUNDHOUSE_CACHE", Path(__file__).parent.parent / ".roundhouse" / "cache"))


@pytest.fixture(scope="session")
def sample_gguf(cache: Path) -> Path:
    """The sample model's one file, fetched once into the cache and checked by its digest."""
    return sample_model_file(cache, lambda what, share: None)


@pytest.fixture
def free_port() -> int:
    """A port that nobody holds at this moment."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
