"""Steps within a transaction by which a release asks a person, and hears the answer."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from rollout.errors import Conflict
from store import tables as t
from store.port import Event


def ask(c: sa.Connection, release: dict[str, Any], question: str, now: float) -> None:
    """The release waits for an answer, unless it asks this already or was told: a task that was started again."""
    told = release["answer"]
    if release["waiting"] == question or (told and told["question"] == question):
        return
    _set(c, release, waiting=question, answer=None)
    _tell(c, release, now, "question", f"release {release['id']} waits for a person: {question}")


def answer(c: sa.Connection, release: dict[str, Any], yes: bool, who: str, reason: str, now: float) -> None:
    """What a person said. Raises Conflict where nothing is asked."""
    question = release["waiting"]
    if not question:
        raise Conflict(f"release {release['id']} asks nothing now (stage {release['stage']!r}); nothing was changed")
    told = {"question": question, "yes": yes, "who": who, "reason": reason, "at": now}
    _set(c, release, waiting="", answer=told)
    why = f": {reason}" if reason else ""
    _tell(c, release, now, "answer", f"{who} said {'yes' if yes else 'no'} to release {release['id']}{why}", told)


def _set(c: sa.Connection, release: dict[str, Any], **values: Any) -> None:
    c.execute(t.releases.update().where(t.releases.c.id == release["id"]).values(**values))


def _tell(
    c: sa.Connection, release: dict[str, Any], now: float, kind: str, text: str, data: dict[str, Any] | None = None
) -> None:
    event = Event(now, release["service"], kind, text, release["id"], data or {})
    c.execute(t.events.insert().values(**asdict(event)))
