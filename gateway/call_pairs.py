"""Call records as pairs of answers: what stable told a user, and what the candidate made of the copied request."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from gateway.calls import CallRecord
from rollout.answers import Question, Reply

Pair = tuple[Question, Reply, Reply, bool]  # the last: whether both were decoded greedily


def pairs_of(
    records: Iterable[CallRecord], stable: int, candidate: int, after: float, until: float
) -> tuple[Pair, ...]:
    """The pairs whose user's request began in (after, until], epoch seconds, in that order.

    A body that was cut, left out or is no text is not compared, nor is a request whose client left.
    """
    live, copies = {}, {}
    for record in records:
        if record.kind == "live" and record.version == stable and after < record.at <= until:
            live[record.request_id] = record
        elif record.kind == "mirror" and record.version == candidate:
            copies[record.request_id] = record
    both = [(live[name], copies[name]) for name in sorted(live, key=lambda n: (live[n].at, n)) if name in copies]
    return tuple(pair for records_ in both if (pair := _pair(*records_)))


def _pair(live: CallRecord, copy: CallRecord) -> Pair | None:
    asked = _object(live.request.text)
    replies = [_reply(record) for record in (live, copy)]
    if asked is None or None in replies or live.request.cut:
        return None
    form = asked.get("response_format")
    kind = form.get("type") if isinstance(form, dict) else ""
    question = Question("", json=kind in ("json_object", "json_schema"), id=live.request_id)
    return question, replies[0], replies[1], asked.get("temperature") == 0  # type: ignore[return-value]


def _reply(record: CallRecord) -> Reply | None:
    """What an answer says; None where it is not known."""
    if record.status is None:
        return None
    if record.status >= 400:
        return Reply("", error=f"HTTP {record.status}")
    body = record.answer
    if body.text is None or body.cut or body.base64:
        return None
    events = _events(body.text) if "event-stream" in body.type else [_object(body.text)]
    if None in events:
        return None
    return Reply("".join(_said(event) for event in events if event))


def _events(text: str) -> Sequence[dict[str, Any] | None]:
    lines = [line[5:].strip() for line in text.splitlines() if line.startswith("data:")]
    return [_object(line) for line in lines if line != "[DONE]"]


def _said(event: dict[str, Any]) -> str:
    choices = event.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = choice.get("message") or choice.get("delta") or {}
    text = message.get("content") if isinstance(message, dict) else None
    return str(text or choice.get("text") or "")


def _object(text: str | None) -> dict[str, Any] | None:
    try:
        value = json.loads(text or "")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
