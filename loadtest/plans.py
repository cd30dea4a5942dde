"""A load plan: what makes one impossible, and the bytes of its requests. Pure, but for the token's file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from loadtest.port import LoadPlan
from rollout.errors import NotFound, Refused

MOST_USERS = 1000  # one Locust process follows about this many streams before it is short of time itself
PROMPTS = (  # unfinished sentences: asked to complete a finished one, many models end their answer at once
    "The steam locomotive changed the way people travelled because",
    "Dear friend, last week I walked along the river in autumn and saw",
    "To bake a loaf of bread at home, one first has to",
    "In Python, the difference between a list and a tuple is that",
    "Once upon a time a lighthouse keeper found a map in a bottle, and",
    "The industrial revolution began in the eighteenth century when",
    "There are three good reasons to work from home. The first is",
    "Water rises from the sea as vapour, forms clouds, and then",
)

_Rule = tuple[str, Callable[[LoadPlan], bool], str, str]
_RULES: tuple[_Rule, ...] = (
    ("users", lambda p: 1 <= p.users <= MOST_USERS, f"must be 1 to {MOST_USERS}", "give --users 2, for example"),
    ("duration_s", lambda p: 0 < p.duration_s <= 86400, "must be above 0 and at most a day", "give 10, for example"),
    ("max_tokens", lambda p: 1 <= p.max_tokens <= 131072, "must be 1 to 131072", "give 16, for example"),
    ("api", lambda p: p.api in ("chat", "completions"), "is no API that is known", "use 'chat' or 'completions'"),
    ("ramp_s", lambda p: 0 <= p.ramp_s <= p.duration_s, "must be 0 to duration_s", "ramp within the duration"),
    ("timeout_s", lambda p: 0 < p.timeout_s <= 3600, "must be above 0 and at most 3600", "give 60, for example"),
    ("prompts", lambda p: all(isinstance(x, str) and x.strip() for x in p.prompts), "holds an empty one", "remove it"),
)


def checked(plan: LoadPlan) -> LoadPlan:
    """The plan itself. Raises Refused for the first field that cannot work."""
    target(plan.url)
    for field, holds, rule, fix in _RULES:
        value = getattr(plan, field)
        if (isinstance(value, float) and not math.isfinite(value)) or not holds(plan):
            raise Refused(field, value, rule, fix)
    for name, value in plan.headers.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or not re.fullmatch(r"[\t\x20-\x7e]*", value):
            raise Refused("headers", name, "name or value cannot stand in an HTTP head", "use one line of plain ASCII")
    return plan


def target(url: str) -> SplitResult:
    """The parts of a base URL; raises Refused unless it is ``http://host[:port][/path]``."""
    try:
        parts = urlsplit(url)
        good = parts.scheme == "http" and parts.hostname and (parts.port or 80) > 0
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment or parts.username or re.search(r"[^\x21-\x7e]", url):
        fix = "give the base of an OpenAI API, for example http://127.0.0.1:8800/api/predict/chat"
        raise Refused("url", url, "must be a plain http:// address without query or user", fix)
    return parts


def path_of(plan: LoadPlan) -> str:
    """The path that requests go to. A base that already ends with ``/v1`` is taken as such."""
    base = target(plan.url).path.rstrip("/").removesuffix("/v1")
    return base + ("/v1/chat/completions" if plan.api == "chat" else "/v1/completions")


def request_bytes(plan: LoadPlan, number: int) -> bytes:
    """The whole request with this number. Bundled prompts begin with it, so that no two share a prefix."""
    prompts = plan.prompts or PROMPTS
    prompt = prompts[number % len(prompts)]
    text = prompt if plan.prompts else f"({number:06d}) {prompt}"
    body: dict[str, object] = {"max_tokens": plan.max_tokens, "stream": plan.stream}
    body |= {"messages": [{"role": "user", "content": text}]} if plan.api == "chat" else {"prompt": text}
    body |= {"model": plan.model} if plan.model else {}
    body |= {"stream_options": {"include_usage": True}} if plan.stream else {}
    content = json.dumps(body).encode()
    parts = target(plan.url)
    fields = {"Host": parts.netloc, "Content-Type": "application/json", "Content-Length": str(len(content))}
    fields |= {"Accept": "text/event-stream" if plan.stream else "application/json"} | plan.headers
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {path_of(plan)} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + content


def authorization(token_file: str | None) -> dict[str, str]:
    """The header with the token that a file holds; none without a file. Raises NotFound."""
    if not token_file:
        return {}
    try:
        return {"Authorization": f"Bearer {Path(token_file).read_text().strip()}"}
    except OSError as error:
        raise NotFound(f"token file {token_file}: {error.strerror}") from error


def written(plan: LoadPlan) -> dict[str, object]:
    """The plan as JSON types for a file, without its headers: they may hold a token."""
    return {name: value for name, value in asdict(plan).items() if name != "headers"}


def read_plan(text: str, headers: dict[str, str]) -> LoadPlan:
    """The inverse of ``written`` and ``json.dumps``."""
    values = json.loads(text)
    return LoadPlan(**(values | {"prompts": tuple(values["prompts"]), "headers": headers}))
