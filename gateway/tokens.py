"""The keys that open services and groups: one JSON file that only its owner can read.

They lie there in plain text because the proxy's filter compares plain keys. Each change grows the file's ``serial``,
so that one can wait until the gateway has taken it over.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from gateway.port import Token
from rollout.errors import Conflict, Corrupt, NotFound, Refused

OWN = "default"  # the client that the stack itself calls as
CLIENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}")


@dataclass(frozen=True)
class Listed:
    """A token as it may be shown: never its secret. Times are epoch seconds."""

    client: str
    fingerprint: str  # the first 8 hex digits of the secret's SHA-256
    may_pin: bool
    until: float | None
    created_at: float | None  # None: by a version that did not note it


@dataclass(frozen=True)
class _Entry:
    token: Token
    created_at: float | None = None


@dataclass(frozen=True)
class _Content:
    serial: int = 0
    doors: Mapping[str, tuple[_Entry, ...]] = field(default_factory=dict)


class TokenFile:
    """Tokens by door. Written aside with mode 0600 and renamed, so a reader never sees half of it.

    Read again only when the file is another one; thousands of tokens cost nothing while nobody changes them.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = path, clock
        self._seen: tuple[int, int, int] | None = None
        self._content = _Content()

    def of(self, door: str, now: float | None = None) -> tuple[Token, ...]:
        """The tokens that open ``door`` at ``now`` (epoch seconds, None: now). Raises Corrupt."""
        return self.doors(now).get(door, ())

    def doors(self, now: float | None = None) -> dict[str, tuple[Token, ...]]:
        """All tokens that open something at ``now``, by door. Raises Corrupt."""
        at = self._clock() if now is None else now
        return {door: _live(entries, at) for door, entries in self._read().doors.items()}

    def serial(self) -> int:
        """Grows with every change of the file; 0 while there is none. Raises Corrupt."""
        return self._read().serial

    def secret(self, door: str) -> str:
        """The secret of the stack's own newest token, for its own calls. Raises NotFound, Corrupt."""
        own = [token for token in self.of(door) if token.client == OWN]
        if not own:
            fix = f"a first release makes one, or `roundhouse token create {door} --client {OWN}`"
            raise NotFound(f"{door!r} has no token of the stack's own: {fix}")
        return own[-1].secret

    def listed(self, door: str) -> tuple[Listed, ...]:
        """The tokens of a door, the ended ones too, without their secrets. Raises Corrupt."""
        return tuple(_listed(entry) for entry in self._read().doors.get(door, ()))

    def ensure(self, door: str, client: str = OWN) -> Token:
        """The client's token of that door, made now if there is none. Raises Corrupt."""
        with self._changing(door) as entries:
            return self._of_client(entries, client) or self._add(entries, Token(client, _secret()))

    def create(self, door: str, client: str, may_pin: bool = False, until: float | None = None) -> Token:
        """A new token, whose secret is shown this once. Raises Refused, Conflict if the client has one, Corrupt."""
        _check(client, until, self._clock())
        with self._changing(door) as entries:
            if self._of_client(entries, client):
                told = f"client {client!r} of {door!r} has a token already"
                raise Conflict(f"{told}; replace it with `roundhouse token rotate {door} --client {client}`")
            return self._add(entries, Token(client, _secret(), may_pin, until))

    def rotate(self, door: str, client: str, overlap_s: float) -> Token:
        """A new token like the client's newest, which opens the door for ``overlap_s`` seconds more.

        Raises NotFound, Refused, Corrupt.
        """
        if not 0 <= overlap_s <= 366 * 86_400:
            raise Refused("overlap", overlap_s, "it lies between 0 s and a year", "use for example 1h")
        end = self._clock() + overlap_s
        with self._changing(door) as entries:
            old = self._of_client(entries, client)
            if old is None:
                raise NotFound(f"{door!r} has no token of client {client!r}; its clients: {_clients(entries)}")
            for at, entry in enumerate(entries):
                if entry.token.client == client:
                    earlier = end if entry.token.until is None else min(end, entry.token.until)
                    entries[at] = replace(entry, token=replace(entry.token, until=earlier))
            return self._add(entries, replace(old, secret=_secret()))

    def revoke(self, door: str, named: str) -> int:
        """End the tokens of a client, or the one with that fingerprint; how many. Raises NotFound, Corrupt."""
        with self._changing(door) as entries:
            gone = [e for e in entries if named in (e.token.client, fingerprint(e.token.secret))]
            if not gone:
                told = f"{door!r} has no token of client or fingerprint {named!r}"
                raise NotFound(f"{told}; its clients: {_clients(entries)}")
            entries[:] = [e for e in entries if e not in gone]
            return len(gone)

    def drop(self, door: str) -> None:
        """Forget all tokens of a door that is no more. Raises Corrupt."""
        with self._changing(door) as entries:
            entries.clear()

    def _of_client(self, entries: list[_Entry], client: str) -> Token | None:
        """The client's newest token that still opens the door."""
        return next((t for t in reversed(_live(entries, self._clock())) if t.client == client), None)

    def _add(self, entries: list[_Entry], token: Token) -> Token:
        entries.append(_Entry(token, self._clock()))
        return token

    @contextlib.contextmanager
    def _changing(self, door: str) -> Iterator[list[_Entry]]:
        """The door's entries, to be changed in place; written back if they are others then. One at a time."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(os.open(self._path.with_suffix(".lock"), os.O_WRONLY | os.O_CREAT, 0o600), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            before, now = self._read(), self._clock()
            entries = list(before.doors.get(door, ()))
            yield entries
            if entries != list(before.doors.get(door, ())):
                kept = tuple(e for e in entries if e.token.until is None or e.token.until > now)
                others = {name: has for name, has in before.doors.items() if name != door}
                doors = {**others, door: kept} if kept else others
                self._write(_Content(max(before.serial + 1, int(now * 1e6)), doors))

    def _read(self) -> _Content:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            self._seen, self._content = None, _Content()
            return self._content
        seen = (found.st_mtime_ns, found.st_ino, found.st_size)
        if seen != self._seen:
            self._content, self._seen = _parsed(self._path), seen
        return self._content

    def _write(self, content: _Content) -> None:
        doors = {
            door: [asdict(e.token) | {"created_at": e.created_at} for e in entries]
            for door, entries in content.doors.items()
        }
        aside = self._path.with_suffix(f".{os.getpid()}.new")
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump({"serial": content.serial, "doors": doors}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(self._path)


def fingerprint(secret: str) -> str:
    """What tells a token from another without telling it: 8 hex digits of its SHA-256."""
    return hashlib.sha256(secret.encode()).hexdigest()[:8]


def _parsed(path: Path) -> _Content:
    """The file's content; the first form of it was the doors alone. Raises Corrupt, which shows none of it."""
    try:
        doc = json.loads(path.read_text())
        doors = doc["doors"] if "serial" in doc else doc
        read = {door: tuple(_entry(value) for value in values) for door, values in doors.items()}
        return _Content(int(doc["serial"]) if "serial" in doc else 1, read)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Corrupt(f"the tokens in {path} cannot be read ({type(error).__name__}); restore that file") from None


def _entry(value: dict[str, Any]) -> _Entry:
    fields = {k: v for k, v in value.items() if k != "created_at"}
    return _Entry(Token(**fields), value.get("created_at"))


def _live(entries: Sequence[_Entry], now: float) -> tuple[Token, ...]:
    return tuple(e.token for e in entries if e.token.until is None or e.token.until > now)


def _clients(entries: list[_Entry]) -> str:
    return ", ".join(sorted({e.token.client for e in entries})) or "none"


def _listed(entry: _Entry) -> Listed:
    token = entry.token
    return Listed(token.client, fingerprint(token.secret), token.may_pin, token.until, entry.created_at)


def _secret() -> str:
    return "rh-" + secrets.token_urlsafe(32)


def _check(client: str, until: float | None, now: float) -> None:
    if not CLIENT.fullmatch(client):
        rule = "a client's name is 1 to 100 letters, digits and . _ @ -"
        raise Refused("client", client, rule, "choose a name such as 'demo'")
    if until is not None and until <= now:
        raise Refused("until", until, "it has passed already", "choose a moment to come")
