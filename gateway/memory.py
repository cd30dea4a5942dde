"""A gateway in this process, for tests: the same rules and the same leases, no traffic."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator

from gateway.history import changed
from gateway.port import Applied, Change, Cursor, GatewayState, Record
from gateway.rules import check, numbers_only
from gateway.saved import without_tokens
from gateway.shares import WHOLE, apportioned
from rollout.nouns import Split


class MemoryGateway:
    """Holds the last applied state. ``add`` puts in what requests would have left; ``clock`` ends leases."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._state: GatewayState | None = None
        self._records: list[Record] = []
        self._history: list[Change] = []

    def apply(self, state: GatewayState) -> Applied:
        """Hold ``state``. Raises Refused; the old state is then kept."""
        check(state)
        applied = Applied(uuid.uuid4().hex[:12], not numbers_only(self._state, state), 0.0)
        if texts := tuple(changed(self._state or GatewayState(), state)):
            self._history.append(Change(applied.revision, self._clock(), applied.structural, 0.0, texts))
        self._state = state
        return applied

    def confirmed(self) -> GatewayState | None:
        """The last state that was applied, without its tokens; None before the first."""
        return without_tokens(self._state) if self._state else None

    def history(self, limit: int) -> list[Change]:
        """The last changes, oldest first."""
        return self._history[-limit:]

    def read_groups(self) -> dict[str, dict[str, int]]:
        """What each member of each group gets, of 10,000."""
        groups = self._state.groups if self._state else ()
        taking = {g.name: [m for m in g.members if m.weight] for g in groups}
        parts = {name: apportioned([m.weight or 0 for m in members], WHOLE) for name, members in taking.items()}
        return {name: {m.service: n for m, n in zip(taking[name], parts[name], strict=True)} for name in taking}

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
