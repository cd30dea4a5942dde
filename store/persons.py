"""Steps within a transaction by which a release asks a person, and hears the answer."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from rollout.errors import Conflict
from store import tables as t
from store.port import Event


def ask(c: sa.Connection, release: dict[str, Any], question: str, key: str, now: float) -> None:
    """The release waits for an answer, unless it asks this already or was told: a task that was started again."""
    told = release["answer"]
    if release["waiting_key"] == key or (told and told["key"] == key):
        return
    number = release["asked"] + 1
    _set(c, release, waiting=question, waiting_key=key, asked=number, answer=None)
    asked = {"number": number, "key": key, "question": question}
    _tell(c, release, now, "question", f"release {release['id']} waits for a person: {question}", asked)


def withdraw(c: sa.Connection, release: dict[str, Any], now: float) -> dict[str, Any] | None:
    """What was asked is not asked any more; the answer to it, if there was one already."""
    question, told = release["waiting"], release["answer"]
    if question or told:
        _set(c, release, waiting="", waiting_key="", answer=None)
    if question:
        text = f"release {release['id']} asks no longer: {question}"
        _tell(c, release, now, "withdrawn", text, {"number": release["asked"], "question": question})
    return told


def answer(c: sa.Connection, release: dict[str, Any], number: int, said: dict[str, Any]) -> None:
    """What a person said (``yes``, ``who``, ``reason``, ``at``). Raises Conflict where that question is not asked."""
    question = release["waiting"]
    if not question:
        raise Conflict(f"release {release['id']} asks nothing now (stage {release['stage']!r}); nothing was changed")
    if release["asked"] != number:
        now = f"question {release['asked']}: {question}"
        raise Conflict(f"release {release['id']} does not ask question {number} but {now}; nothing was changed")
    told = {"number": number, "key": release["waiting_key"], "question": question} | said
    _set(c, release, waiting="", waiting_key="", answer=told)
    why = f": {said['reason']}" if said["reason"] else ""
    text = f"{said['who']} said {'yes' if said['yes'] else 'no'} to release {release['id']}{why}"
    _tell(c, release, said["at"], "answer", text, told)


def _set(c: sa.Connection, release: dict[str, Any], **values: Any) -> None:
    c.execute(t.releases.update().where(t.releases.c.id == release["id"]).values(**values))


def _tell(c: sa.Connection, release: dict[str, Any], now: float, kind: str, text: str, data: dict[str, Any]) -> None:
    event = Event(now, release["service"], kind, text, release["id"], data)
    c.execute(t.events.insert().values(**asdict(event)))
