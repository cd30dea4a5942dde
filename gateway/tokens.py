"""The keys that open services: one JSON file that only its owner can read (the proxy's filter compares plain keys)."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from gateway.port import Token
from rollout.errors import NotFound


class TokenFile:
    """Tokens by service. Written aside with mode 0600 and renamed, so a reader never sees half of it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def of(self, service: str) -> tuple[Token, ...]:
        """All tokens of a service."""
        return tuple(Token(**entry) for entry in self._read().get(service, []))

    def secret(self, service: str) -> str:
        """The first token's secret, for the owner's own calls. Raises NotFound."""
        for token in self.of(service):
            return token.secret
        raise NotFound(f"service {service!r} has no token yet; a first release makes one")

    def ensure(self, service: str, client: str = "default") -> Token:
        """The client's token of that service, made now if there is none."""
        with self._only_one():
            return self._ensure(service, client)

    def _ensure(self, service: str, client: str) -> Token:
        known = self._read()
        for entry in known.get(service, []):
            if entry["client"] == client:
                return Token(**entry)
        entry = {"client": client, "secret": "rh-" + secrets.token_urlsafe(32)}
        self._write({**known, service: [*known.get(service, []), entry]})
        return Token(**entry)

    @contextlib.contextmanager
    def _only_one(self) -> Iterator[None]:
        """Two that add a token at once would each lose the other's."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(os.open(self._path.with_suffix(".lock"), os.O_WRONLY | os.O_CREAT, 0o600), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _read(self) -> dict[str, list[dict[str, str]]]:
        return json.loads(self._path.read_text()) if self._path.exists() else {}

    def _write(self, tokens: dict[str, list[dict[str, str]]]) -> None:
        aside = self._path.with_suffix(f".{os.getpid()}.new")
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(tokens, file, indent=1)
        aside.rename(self._path)
