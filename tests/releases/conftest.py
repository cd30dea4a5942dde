"""The whole stack, for releases that take minutes. Opt-in: `make test-releases`."""

from __future__ import annotations

from house import house as house  # a fixture
