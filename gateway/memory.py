"""A gateway in this process, for tests: the same rules and the same leases, no traffic."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator

from gateway.port import Applied, Cursor, GatewayState, Record
from gateway.rules import check, numbers_only
from rollout.nouns import Split


class MemoryGateway:
    """Holds the last applied state. ``add`` puts in what requests would have left; ``clock`` ends leases."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._state: GatewayState | None = None
        self._records: list[Record] = []

    def apply(self, state: GatewayState) -> Applied:
        """Hold ``state``. Raises Refused; the old state is then kept."""
        check(state)
        structural = not numbers_only(self._state, state)
        self._state = state
        return Applied(uuid.uuid4().hex[:12], structural, 0.0)

    def confirmed(self) -> GatewayState | None:
        """The last state that was applied; None before the first."""
        return self._state

    def read(self) -> dict[str, Split]:
        """The split of each service at this moment of the clock."""
        now_ms = int(self._clock() * 1000)
        services = self._state.services if self._state else ()
        held = {s.name: s.lease for s in services if s.lease and s.lease.from_ms <= now_ms < s.lease.until_ms}
        return {s.name: Split(s.name, s.stable, held.get(s.name)) for s in services}

    def records(self, cursor: Cursor) -> tuple[list[Record], Cursor]:
        """Records added since ``cursor``."""
        return self._records[cursor.offset :], Cursor(1, len(self._records))

    def in_flight(self, service: str, version: int) -> Iterator[tuple[str, int]]:
        """(instance, 0) of each instance: nothing runs here."""
        services = self._state.services if self._state else ()
        backends = [b for s in services if s.name == service for b in s.backends if b.version == version]
        return iter([(endpoint.instance, 0) for backend in backends for endpoint in backend.endpoints])

    def add(self, record: Record) -> None:
        """Let ``record`` be read, as if a request had left it."""
        self._records.append(record)
