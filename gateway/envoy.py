"""The gateway on Envoy, steered by files and confirmed over its admin socket; Envoy needs nobody to stay as it is."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator

from gateway import command, files, saved
from gateway.admin import Admin
from gateway.names import LISTENER, version_cluster
from gateway.port import Applied, Cursor, EnvoySettings, GatewayRefused, GatewayState, Record
from gateway.push import Push
from gateway.records import read_records
from gateway.render import Layout, render
from gateway.rules import check, hidden, numbers_only
from gateway.splits import splits_in_force
from rollout.nouns import Split

_LOCK_WAIT_S = 10.0


class EnvoyGateway:
    """One Envoy on this machine. Any number of processes may hold one; changes happen one after another."""

    def __init__(self, settings: EnvoySettings, clock: Callable[[], float] = time.time) -> None:
        self._settings, self._clock = settings, clock
        self._layout = Layout.of(settings)
        self._admin = Admin(self._layout.admin)

    def apply(self, state: GatewayState) -> Applied:
        """Make ``state`` so, as a whole, and return when Envoy holds it.

        Structure is first validated by the binary; a change of leases alone by our rules. Raises Refused,
        GatewayRefused (the old state is in force again), Unavailable, Conflict (another writer does not end).
        """
        check(state)
        begun = time.perf_counter()
        with files.locked(self._layout.lock, _LOCK_WAIT_S):
            old = self.confirmed()
            structural = not numbers_only(old, state)
            try:
                if structural:
                    command.validate(state, self._settings)
                revision = self._push(state)
            except GatewayRefused as refused:
                raise GatewayRefused(hidden(refused.reason, old, state)) from None
            files.put(self._layout.confirmed, files.as_json(saved.to_json(state)))
        return Applied(revision, structural, time.perf_counter() - begun)

    def confirmed(self) -> GatewayState | None:
        """The last state that Envoy confirmed; None before the first."""
        return saved.from_json(files.parsed(files.read(self._layout.confirmed)))

    def read(self) -> dict[str, Split]:
        """What Envoy has in force at this moment, by service, from its own mouth. Raises Unavailable."""
        return splits_in_force(self._admin.routes(LISTENER), int(self._clock() * 1000))

    def records(self, cursor: Cursor) -> tuple[list[Record], Cursor]:
        """Records written since ``cursor``, rotated files included; about 0.1 s after the request's end."""
        return read_records(self._layout.records, cursor)

    def in_flight(self, service: str, version: int) -> Iterator[tuple[str, int]]:
        """(instance, open requests) of each instance that Envoy knows of the version. Raises Unavailable."""
        hosts = self._admin.hosts(version_cluster(service, version))
        return iter([(host.get("hostname", ""), _open_requests(host)) for host in hosts])

    def _push(self, state: GatewayState) -> str:
        revision = f"{int(self._clock() * 1000)}-{uuid.uuid4().hex[:6]}"
        push = Push(self._layout, self._admin, self._settings.confirm_timeout_s)
        try:
            push.make(render(state, self._settings, revision))
        except BaseException:
            push.undo()
            raise
        return revision


def _open_requests(host: dict) -> int:
    return next((int(s.get("value", 0)) for s in host.get("stats", []) if s["name"] == "rq_active"), 0)
