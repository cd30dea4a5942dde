"""The gateway on Envoy, steered by files and confirmed over its admin socket; Envoy needs nobody to stay as it is."""

from __future__ import annotations

import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator

from gateway import command, files, saved
from gateway.admin import admin_at
from gateway.history import note, read_history
from gateway.names import LISTENER, instance_of, version_cluster
from gateway.port import Applied, Change, Cursor, EnvoySettings, GatewayRefused, GatewayState, Record
from gateway.push import Push
from gateway.records import read_records
from gateway.render import Layout, render
from gateway.rules import check, hidden, numbers_only
from gateway.saved import Saved
from gateway.slots import admins
from gateway.splits import groups_in_force, splits_in_force
from rollout.errors import Unavailable
from rollout.nouns import Split

_LOCK_WAIT_S = 10.0


class EnvoyGateway:
    """One Envoy on this machine. Any number of processes may hold one; changes happen one after another."""

    def __init__(self, settings: EnvoySettings, clock: Callable[[], float] = time.time) -> None:
        self._settings, self._clock = settings, clock
        self._layout = Layout.of(settings)
        self._admin = admin_at(self._layout.admin)
        self._checked: GatewayState | None = None

    def apply(self, state: GatewayState) -> Applied:
        """Make ``state`` so, as a whole, and return when Envoy holds it.

        Structure is first validated by the binary; a change of numbers alone by our rules. Raises Refused,
        GatewayRefused (the old state is in force again), Unavailable, Conflict (another writer does not end).
        """
        begun = time.perf_counter()
        check(state, self._checked)
        self._checked = state
        with files.locked(self._layout.lock, _LOCK_WAIT_S):
            try:
                return self._apply(state, begun)
            except GatewayRefused as refused:
                raise GatewayRefused(hidden(refused.reason, state)) from None
            except OSError as error:
                told = f"the gateway's files cannot be written, the old state stays: {error.strerror}"
                raise Unavailable(told) from error

    def _apply(self, state: GatewayState, begun: float) -> Applied:
        last = self._last()
        old = last.state if last else None
        structural = not numbers_only(old, state)
        if structural:
            command.validate(state, self._settings)
        now = Saved((last.revision if last else 0) + 1, self._clock(), state)
        # Written before anything is changed: a disk that has no room for it refuses the change now.
        aside = files.stage(self._layout.confirmed, files.as_json(saved.to_json(now)))
        revision = f"{now.revision}.{uuid.uuid4().hex[:6]}"  # never one that Envoy has held before
        try:
            self._push(state, revision)
            os.rename(files.synced(aside), self._layout.confirmed)
        finally:
            aside.unlink(missing_ok=True)
        applied = Applied(revision, structural, time.perf_counter() - begun)
        note(self._layout.history, old, now, applied)
        return applied

    def confirmed(self) -> GatewayState | None:
        """The last state that Envoy confirmed, without its tokens; None before the first."""
        last = self._last()
        return last.state if last else None

    def history(self, limit: int) -> list[Change]:
        """The last confirmed changes of more than a lease's end, oldest first."""
        return read_history(self._layout.history, limit)

    def _last(self) -> Saved | None:
        return saved.from_json(files.parsed(files.read(self._layout.confirmed)))

    def read(self) -> dict[str, Split]:
        """What Envoy has in force at this moment, by service, from its own mouth. Raises Unavailable."""
        return splits_in_force(self._admin.routes(LISTENER), int(self._clock() * 1000))

    def read_groups(self) -> dict[str, dict[str, int]]:
        """What Envoy gives each member of each group, of 10,000. Raises Unavailable."""
        return groups_in_force(self._admin.routes(LISTENER))

    def records(self, cursor: Cursor) -> tuple[list[Record], Cursor]:
        """Records written since ``cursor``, rotated files included; about 0.1 s after the request's end."""
        return read_records(self._layout.records, cursor)

    def in_flight(self, service: str, version: int) -> Iterator[tuple[str, int]]:
        """(instance, open requests) of each instance that Envoy knows of the version. Raises Unavailable."""
        found: Counter[str] = Counter()
        for admin in admins(self._layout):
            for host in admin.hosts(version_cluster(service, version)):
                found[instance_of(host.get("hostname", ""))] += _open_requests(host)
        return iter(found.items())

    def _push(self, state: GatewayState, revision: str) -> None:
        push = Push(self._layout, admins(self._layout), self._settings.confirm_timeout_s)
        try:
            push.make(render(state, self._settings, revision))
        except BaseException:
            push.undo()
            raise
        push.done()


def _open_requests(host: dict) -> int:
    return next((int(s.get("value", 0)) for s in host.get("stats", []) if s["name"] == "rq_active"), 0)
