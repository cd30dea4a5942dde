"""Makes the gateway what the store and the token file say, and writes down how far it has come."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field

from agent.parts import Parts
from agent.routes import Desired, acceptable, gateway_state
from agent.sift import Door, changed_doors, refused_doors
from engines.port import Usage, open_engine
from gateway.port import GatewayRefused, GatewayState, Token
from gateway.rules import check
from rollout.errors import Corrupt, Refused, RoundhouseError
from rollout.nouns import Lease
from store.port import InForce, Observed

log = logging.getLogger("roundhouse.agent")
AGAIN_S = 1.0  # after a refusal, before the same is tried again
DOOR_AGAIN_S = 10.0  # the same of one door that the proxy refuses: each try has it read the whole state
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
    blamed: dict[str, str]
    state: GatewayState
    refused: dict[str, str]


@dataclass(frozen=True)
class _Blame:
    """A door that the proxy refused, and why; until then it is not tried again, unless it is changed."""

    door: Door
    reason: str
    until: float


class Traffic:
    """One look a tick: nothing is sent unless something is other than what was confirmed."""

    def __init__(self, parts: Parts, note: Note) -> None:
        self._p, self._note = parts, note
        self._good = parts.gateway.confirmed()  # what a refused service falls back to, also after a restart
        self._applied: GatewayState | None = None
        self._refused: tuple[GatewayState, float] | None = None
        self._choice: _Choice | None = None
        self._blamed: dict[str, _Blame] = {}
        self._revision = ""  # of what is in force
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
        last, blamed = self._choice, self._still_blamed(wanted[0], now)
        if last is None or last.wanted != wanted or last.good is not self._good or last.blamed != blamed:
            unreadable = {**blamed, **wanted[1]}
            self._choice = last = _Choice(
                wanted, self._good, blamed, *acceptable(wanted[0], self._good, check, unreadable)
            )
        return last

    def _still_blamed(self, wanted: GatewayState, now: float) -> dict[str, str]:
        if self._blamed:
            doors = changed_doors(wanted, None)
            self._blamed = {n: b for n, b in self._blamed.items() if doors.get(n) == b.door and now < b.until}
        return {name: blame.reason for name, blame in self._blamed.items()}

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
        refused = choice.refused
        try:
            if error := self._put(choice.state):
                refused = refused | self._blame(choice, error, now)
        except RoundhouseError as error:
            log.error("%s", error)
            self._applied, self._refused = None, (choice.state, now)  # what is in force was told wrong: say it again
            self._observe_error([s.name for s in choice.state.services], str(error))
            return str(error)
        self._tell_refused(refused)
        self._observe(self._good or choice.state, refused, self._revision)
        self._refused = None
        return ""

    def _put(self, state: GatewayState) -> RoundhouseError | None:
        """In force, or why it was refused. Raises Unavailable, Conflict."""
        try:
            self._revision = self._p.gateway.apply(state).revision
        except (Refused, GatewayRefused) as error:
            self._applied = None
            return error
        self._applied = self._good = state
        return None

    def _blame(self, choice: _Choice, error: RoundhouseError, now: float) -> dict[str, str]:
        """Put in force all but the doors that are refused; why, by door. Raises ``error`` when it is none of them."""
        wanted = choice.wanted[0]

        def put(held_back: Set[str]) -> RoundhouseError | None:
            left = dict.fromkeys(held_back, str(error)) | choice.refused
            return self._put(acceptable(wanted, self._good, check, left)[0])

        changed = changed_doors(choice.state, self._good)
        reasons = refused_doors(list(changed), error, put)
        doors = changed_doors(wanted, None)
        self._blamed |= {name: _Blame(doors[name], why, now + DOOR_AGAIN_S) for name, why in reasons.items()}
        return reasons

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
