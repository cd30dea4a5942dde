"""Long runs, for `make soak`: no test of `make test` is here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from running_envoy import Proxy, an_envoy


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A fresh Envoy."""
    with an_envoy() as running:
        yield running
