"""Watches whether the traffic goes where it was asked to go, from the records; an alarm becomes an event, once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from gateway.observed import CopiesSeen, Observer, ShareSeen, TrafficSeen
from gateway.port import Cursor, Gateway, GatewayState
from rollout.errors import NotFound, RoundhouseError
from store.port import Event, Store

LOOK_S = 1.0
log = logging.getLogger("roundhouse.agent")


class TrafficWatch:
    """Reads on in the records at each ``look``. ``dropped`` gives the proxy's counters of dropped copies."""

    def __init__(
        self,
        store: Store,
        gateway: Gateway,
        dropped: Callable[[], Mapping[str, int]],
        cursor: Cursor,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._gateway, self._dropped, self._clock = store, gateway, dropped, clock
        self._cursor, self._observer, self._told = cursor, Observer(), set[tuple[str, ...]]()
        self._seen = TrafficSeen()
        self._first = True

    def look(self) -> TrafficSeen:
        """What the records up to now show; new alarms are noted. Raises Unavailable."""
        state, now = self._gateway.confirmed() or GatewayState(), self._clock()
        self._observer.ask(state, self._began(state), now)
        if self._first or any(s.lease and (s.lease.mirror_permille or s.lease.mirrors) for s in state.services):
            self._observer.dropped(self._dropped())
            self._first = False
        records, self._cursor = self._gateway.records(self._cursor)
        self._observer.see(records)
        self._seen = self._observer.seen(now)
        self._tell(now)
        return self._seen

    def page(self) -> dict[str, Any]:
        """The last look as a mapping, for scripts and ``roundhouse traffic show``."""
        return asdict(self._seen)

    def keep_looking(self) -> None:
        """Look again and again, in a thread of its own; a look that fails is told once and tried again."""
        failing = ""
        while True:
            try:
                self.look()
                failing = ""
            except Exception as error:  # whatever it is: traffic does not depend on being watched
                if str(error) != failing:
                    log.warning("traffic is not watched: %s", error, exc_info=not isinstance(error, RoundhouseError))
                failing = str(error)
            time.sleep(LOOK_S)

    def _began(self, state: GatewayState) -> dict[str, float]:
        began: dict[str, float] = {}
        for service in state.services:
            if service.lease:
                try:
                    began[service.name] = self._store.release(service.lease.release).created_at
                except NotFound:  # of a store that was lost; what is seen from now on counts
                    continue
        return began

    def _tell(self, now: float) -> None:
        """An alarm is told when it first stands; a later lease may raise it anew."""
        standing = {_key(seen): seen for seen in self._seen.alarms}
        for key, seen in standing.items():
            if key not in self._told:
                door, subject = key[:2]
                log.error("%s: %s: %s", door, subject, seen.text)
                self._store.note(Event(now, door, "alarm", f"{subject}: {seen.text}", seen.release))
        self._told = set(standing)


def _key(seen: ShareSeen | CopiesSeen) -> tuple[str, ...]:
    if isinstance(seen, ShareSeen):
        return seen.door, seen.arm, seen.release
    return seen.source, f"copies for {seen.target}", seen.release
