"""Makes the gateway what the store and the token file say, and writes down how far it has come."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from agent.parts import Parts
from agent.routes import Desired, acceptable, gateway_state
from engines.port import Usage, open_engine
from gateway.port import GatewayState, Token
from gateway.rules import check
from rollout.errors import Corrupt, Refused, RoundhouseError
from rollout.nouns import Lease
from store.port import InForce, Observed

log = logging.getLogger("roundhouse.agent")
AGAIN_S = 1.0  # after a refusal, before the same is tried again
Note = Callable[[str, str, str], None]  # service, kind, text


@dataclass(frozen=True)
class _Tokens:
    """Of the token file, when it was last good."""

    serial: int = 0
    doors: Mapping[str, tuple[Token, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Choice:
    """What was wanted, and what of it can be."""

    wanted: tuple[GatewayState, dict[str, str]]
    good: GatewayState | None
    state: GatewayState
    refused: dict[str, str]


class Traffic:
    """One look a tick: nothing is sent unless something is other than what was confirmed."""

    def __init__(self, parts: Parts, note: Note) -> None:
        self._p, self._note = parts, note
        self._good = parts.gateway.confirmed()  # what a refused service falls back to, also after a restart
        self._applied: GatewayState | None = None
        self._refused: tuple[GatewayState, float] | None = None
        self._choice: _Choice | None = None
        self._tokens: _Tokens | None = None
        self._usage: dict[str, Usage] = {}
        self._told: dict[str, str] = {}
        self._observed: dict[str, tuple[int | None, Lease | None]] = {}
        self._in_force: InForce | None = None

    def steer(self) -> None:
        """Make it so, as far as it can be. What cannot is told at its own name, and tried again."""
        now, revision = self._p.clock(), self._p.store.revision()  # first: what is read later is at least as new
        unread = self._read_tokens(now)
        if self._tokens is None:
            return self._tell(None, now, unread)
        choice = self._choose(now)
        mended = bool(self._told.keys() - choice.refused.keys())
        self._tell_refused(choice.refused)
        if self._applied is None or choice.state != self._applied or mended:
            if self._refused and self._refused[0] == choice.state and now < self._refused[1] + AGAIN_S:
                return
            if error := self._apply(choice, now):
                return self._tell(None, now, error)
        self._tell(revision, now, unread)

    def _choose(self, now: float) -> _Choice:
        """As the last time, where nothing has changed: thousands of tokens are checked once."""
        wanted = gateway_state(self._desired(), self._usage_of, int(now * 1000))
        last = self._choice
        if last is None or last.wanted != wanted or last.good is not self._good:
            self._choice = last = _Choice(wanted, self._good, *acceptable(wanted[0], self._good, check, wanted[1]))
        return last

    def _desired(self) -> Desired:
        store, tokens = self._p.store, self._tokens or _Tokens()
        return Desired(
            services=store.services(),
            versions=store.versions(),
            instances=store.instances(),
            leases=store.leases(),
            groups=store.groups(),
            drained=store.drained(),
            tokens=tokens.doors,
        )

    def _read_tokens(self, now: float) -> str:
        """Read them if they are others; those that were last good hold while the file is broken. Why, or empty."""
        try:
            serial = self._p.tokens.serial()  # first: the tokens are then at least as new
            self._tokens = _Tokens(serial, self._p.tokens.doors(now))
        except Corrupt as error:
            return str(error)
        return ""

    def _usage_of(self, kind: str) -> Usage:
        if kind not in self._usage:
            try:
                self._usage[kind] = open_engine(kind, self._p.engines).usage()
            except Refused:  # an engine that this version of ours does not know
                self._usage[kind] = "parsed"
        return self._usage[kind]

    def _apply(self, choice: _Choice, now: float) -> str:
        """Put it in force; why it could not be, or empty."""
        state = choice.state
        try:
            applied = self._p.gateway.apply(state)
        except RoundhouseError as error:
            log.error("%s", error)
            self._refused = (state, now)
            self._observe_error([s.name for s in state.services], str(error))
            return str(error)
        self._observe(state, choice.refused, applied.revision)
        self._applied, self._good, self._refused = state, state, None
        return ""

    def _observe(self, state: GatewayState, refused: Mapping[str, str], revision: str) -> None:
        """What has changed; rows of others stay as they are, so that many services cost nothing."""
        doors = {s.name: (s.stable, s.lease) for s in state.services} | {g.name: (None, None) for g in state.groups}
        for name, (stable, lease) in doors.items():
            if name in refused or self._observed.get(name, ()) == (stable, lease):
                continue
            before = self._p.store.observed(name)
            self._p.store.put_observed(Observed(name, stable, lease, revision, self._p.clock()))
            if before and before.stable != stable:
                self._note(name, "traffic", f"stable is version {stable}")
        self._observed = {name: seen for name, seen in doors.items() if name not in refused}

    def _observe_error(self, names: Iterable[str], error: str) -> None:
        for name in names:
            before = self._p.store.observed(name)
            stable, lease, revision = (before.stable, before.lease, before.revision) if before else (None, None, "")
            self._p.store.put_observed(Observed(name, stable, lease, revision, self._p.clock(), error))
            self._observed.pop(name, None)

    def _tell_refused(self, refused: dict[str, str]) -> None:
        """One service's or group's mistake is told there, and holds up no other."""
        for name, error in refused.items():
            if self._told.get(name) != error:
                log.error("%s", error)
                self._observe_error([name], error)
        self._told = refused

    def _tell(self, revision: int | None, now: float, error: str) -> None:
        """How far the gateway has come (None: no further), and why not all of it; written when it is news."""
        before = self._in_force or self._p.store.in_force() or InForce(0)
        if revision is None:
            told = InForce(before.revision, before.tokens, now, error)
        else:
            told = InForce(revision, self._tokens.serial if self._tokens else 0, now, error)
        if self._in_force is None or _news(self._in_force) != _news(told):
            if error and error != before.error:
                log.error("%s", error)
            self._p.store.put_in_force(told)
            self._in_force = told


def _news(told: InForce) -> tuple[int, int, str]:
    return told.revision, told.tokens, told.error
