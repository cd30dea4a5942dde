"""A real Envoy in a folder of its own, and small real servers behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from running_envoy import Proxy, Upstream, an_envoy


@pytest.fixture(scope="module")
def v1() -> Iterator[Upstream]:
    """Version 1, for the tests of a module that let it live."""
    upstream = Upstream(1).start()
    yield upstream
    upstream.stop()


@pytest.fixture(scope="module")
def v2() -> Iterator[Upstream]:
    """Version 2, likewise."""
    upstream = Upstream(2).start()
    yield upstream
    upstream.stop()


@pytest.fixture
def mortal() -> Iterator[Callable[[int], Upstream]]:
    """Makes upstreams that a test may kill."""
    made: list[Upstream] = []

    def make(version: int) -> Upstream:
        made.append(Upstream(version).start())
        return made[-1]

    yield make
    for upstream in made:
        upstream.stop()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A fresh Envoy."""
    with an_envoy() as running:
        yield running
