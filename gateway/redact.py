"""What must not be written of a body is taken out here. Pure: bytes as they came in, text that may be kept out.

A rule is the name of a JSON field, whose value becomes ``***`` at any depth, or ``/a regular expression/``, whose
matches do. A body in which the named fields cannot be found with certainty is left out, never written raw.
"""

from __future__ import annotations

import codecs
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rollout.errors import Refused

MASK = "***"
STREAM = "text/event-stream"
_LINE_END = re.compile(r"\r\n|\r|\n")


class Unclear(Exception):
    """The rules cannot be applied to this body; the text says why."""


@dataclass(frozen=True)
class Rules:
    """Redaction rules, compiled. Field names are compared without regard to case."""

    fields: frozenset[str] = frozenset()
    patterns: tuple[re.Pattern[str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.fields or self.patterns)


def check_redact(rules: tuple[str, ...]) -> None:
    """Refuse rules that could not be applied. Raises Refused.

    >>> check_redact(("/(/",))
    Traceback (most recent call last):
    ...
    rollout.errors.Refused: redact: '/(/' is refused: it is no regular expression: missing ), unterminated subpattern \
at position 0. Fix: correct it; Python's syntax of the module re holds.
    """
    for rule in rules:
        if not isinstance(rule, str) or not rule.strip():
            raise Refused("redact", rule, "a rule is a field's name or /a regular expression/", "remove it")
        if rule.startswith("/"):
            _check_pattern(rule)


def _check_pattern(rule: str) -> None:
    if len(rule) < 3 or not rule.endswith("/"):
        raise Refused("redact", rule, "a regular expression stands between two slashes", "write it as /.../")
    try:
        matches_nothing = re.compile(rule[1:-1]).search("")
    except re.error as error:
        fix = "correct it; Python's syntax of the module re holds"
        raise Refused("redact", rule, f"it is no regular expression: {error}", fix) from error
    if matches_nothing:
        raise Refused("redact", rule, "it matches empty text, so it would hit everywhere", "let it match a character")


@lru_cache(maxsize=64)
def compiled(rules: tuple[str, ...]) -> Rules:
    """The rules ready for use. Raises Refused."""
    check_redact(rules)
    fields = frozenset(rule.casefold() for rule in rules if not rule.startswith("/"))
    return Rules(fields, tuple(re.compile(rule[1:-1]) for rule in rules if rule.startswith("/")))


def readable(content: bytes, whole: bool) -> str | None:
    """``content`` as text, without a character that the cut broke; None where it is no UTF-8."""
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(content, final=whole)
    except UnicodeDecodeError:
        return None


def redacted(text: str, content_type: str, whole: bool, rules: Rules) -> str:
    """``text`` without what ``rules`` name; ``whole`` says that it was not cut. Raises Unclear."""
    if not rules or not text:
        return text
    if content_type.startswith(STREAM):
        return _stream(text, whole, rules)
    return _document(text, whole, rules)


def _stream(text: str, whole: bool, rules: Rules) -> str:
    """Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html), each by itself."""
    events = "\n".join(_LINE_END.split(text)).split("\n\n")
    if not whole:
        events = events[:-1]  # the cut went through it
    return "".join(f"{_event(event, rules)}\n\n" for event in events if event.strip())


def _event(event: str, rules: Rules) -> str:
    lines = event.split("\n")
    data = [line.removeprefix("data:").removeprefix(" ") for line in lines if line.startswith("data:")]
    others = [_masked(line, rules) for line in lines if line.startswith(("event:", "id:", "retry:"))]
    if not data:
        return "\n".join(others)
    payload = "\n".join(data)
    kept = payload if payload.strip() == "[DONE]" else _document(payload, True, rules)
    return "\n".join([*others, *(f"data: {line}" for line in kept.split("\n"))])


def _document(text: str, whole: bool, rules: Rules) -> str:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        if rules.fields:
            why = "not JSON" if whole else "cut before its end"
            raise Unclear(f"{why}, so the fields to redact cannot be found") from None
        return _masked(text, rules)
    try:
        return _masked(json.dumps(_walk(document, rules), ensure_ascii=False), rules)
    except RecursionError:
        raise Unclear("nested too deeply to redact") from None


def _walk(value: Any, rules: Rules) -> Any:
    match value:
        case dict():
            return {
                _masked(k, rules): MASK if k.casefold() in rules.fields else _walk(v, rules) for k, v in value.items()
            }
        case list():
            return [_walk(entry, rules) for entry in value]
        case str():
            return _string(value, rules)
        case bool() | None:
            return value
    return value if _masked(str(value), rules) == str(value) else MASK


def _string(value: str, rules: Rules) -> str:
    """JSON inside a string is JSON too: the arguments of a tool call come so."""
    if value.lstrip()[:1] in ("{", "["):
        try:
            return json.dumps(_walk(json.loads(value), rules), ensure_ascii=False)
        except ValueError:
            pass
    return _masked(value, rules)


def _masked(text: str, rules: Rules) -> str:
    for pattern in rules.patterns:
        text = pattern.sub(MASK, text)
    return text
