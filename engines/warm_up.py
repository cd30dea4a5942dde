"""What an instance is warmed up with: a few requests of several lengths, and when it has warmed up.

The requests come with the model (``request_samples.jsonl`` among its files, one JSON object a line: an OpenAI body
with ``prompt`` or ``messages``), or are made from its vocabulary. A build writes them into the engine directory.
"""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engines.vocabulary import tokens_of_folder, words_of
from rollout.errors import Corrupt, Refused

SAMPLES_FILE = "request_samples.jsonl"
WARM_UP_FILE = "warm_up.jsonl"
LENGTHS = (8, 32, 128, 512, 2048)  # tokens of the prompts that are made
_ANSWER = 16  # tokens asked for where a sample does not say
_MOST_SAMPLES, _MOST_BYTES, _MOST_ANSWER = 64, 1 << 20, 256
_WINDOW = 2  # rounds that are compared with as many before them
_DRIFT = 0.05  # of the latency: less is no drift
_FIX = "one JSON object a line, {'prompt': 'text'} or {'messages': [...]}, with 'max_tokens' if you like"


@dataclass(frozen=True)
class WarmUpRequest:
    """One request. ``messages`` is a chat as JSON, else ``prompt`` is completed. ``tokens``: of the prompt, about."""

    prompt: str
    max_tokens: int = _ANSWER
    messages: str = ""
    tokens: int = 0

    def sent_as(self, model: str) -> tuple[str, dict[str, Any]]:
        """(path, JSON body) of the OpenAI API, greedy."""
        body = {"model": model, "max_tokens": self.max_tokens, "temperature": 0}
        if self.messages:
            return "/v1/chat/completions", {**body, "messages": json.loads(self.messages)}
        return "/v1/completions", {**body, "prompt": self.prompt}


@dataclass(frozen=True)
class Summary:
    """What a warm-up came to; seconds of its first and of its last rounds' median."""

    rounds: int
    first_s: float
    last_s: float
    settled: bool


def parse_samples(text: str) -> tuple[WarmUpRequest, ...]:
    """Requests from the lines of a samples file. Raises Refused with the line's number."""
    if len(text.encode()) > _MOST_BYTES:
        raise Refused(SAMPLES_FILE, len(text.encode()), f"it may have {_MOST_BYTES} bytes", "keep the shortest samples")
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not 1 <= len(lines) <= _MOST_SAMPLES:
        rule = f"it may have 1 to {_MOST_SAMPLES} requests"
        raise Refused(SAMPLES_FILE, len(lines), rule, "keep samples of different lengths, or remove the file")
    return tuple(_sample(number, line) for number, line in lines)


def _sample(number: int, line: str) -> WarmUpRequest:
    try:
        body = json.loads(line)
    except ValueError as bad:
        raise Refused(f"{SAMPLES_FILE}:{number}", line[:60], f"it is no JSON ({bad})", _FIX) from bad
    if not isinstance(body, dict):
        raise Refused(f"{SAMPLES_FILE}:{number}", line[:60], "it is no JSON object", _FIX)
    prompt, messages, asked = body.get("prompt", ""), body.get("messages", []), body.get("max_tokens", _ANSWER)
    if not isinstance(asked, int) or isinstance(asked, bool) or asked < 1:
        raise Refused(f"{SAMPLES_FILE}:{number}", asked, "max_tokens is a number from 1 on", _FIX)
    answer = min(asked, _MOST_ANSWER)
    if isinstance(prompt, str) and prompt and not messages:
        return WarmUpRequest(prompt, answer)
    if not prompt and messages and isinstance(messages, list) and all(map(_is_message, messages)):
        return WarmUpRequest("", answer, json.dumps(messages, ensure_ascii=False))
    raise Refused(f"{SAMPLES_FILE}:{number}", line[:60], "it has neither a text as prompt nor messages", _FIX)


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and isinstance(message.get("role"), str) and "content" in message


def made_requests(tokens: Iterable[str], longest: int, seed: int = 1) -> tuple[WarmUpRequest, ...]:
    """Prompts of about LENGTHS tokens, up to half of ``longest`` (0: unknown), of words that are one token each.

    The same for the same vocabulary. Words follow no grammar: what counts is the work, not the answer.
    """
    words = words_of(tuple(tokens)) or ("the",)
    chance = random.Random(seed)
    lengths = [length for length in LENGTHS if not longest or length <= longest // 2] or [LENGTHS[0]]
    return tuple(WarmUpRequest(" ".join(chance.choices(words, k=n)), _ANSWER, tokens=n) for n in lengths)


def check_samples(model_directory: str | Path) -> int:
    """How many samples come with a model, 0 for none. Raises Refused for a file that cannot be used."""
    path = Path(model_directory) / SAMPLES_FILE
    if not path.is_file():
        return 0
    try:
        return len(parse_samples(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as bad:
        raise Refused(SAMPLES_FILE, str(bad), "it cannot be read as UTF-8 text", _FIX) from bad


def write_requests(
    model_directory: str | Path, tokens: Sequence[str] | None, out: Path, longest: int = 0, samples: bool = True
) -> tuple[WarmUpRequest, ...]:
    """Write an engine directory's requests to ``out``: those that come with the model, else made from ``tokens`` (None:
    those of its tokenizer.json) for a model of at most ``longest`` tokens. ``samples``: whether a file of samples that
    lies there is one of the model's. Raises Refused, OSError."""
    directory = Path(model_directory)
    if samples and check_samples(directory):
        requests = parse_samples((directory / SAMPLES_FILE).read_text(encoding="utf-8"))
    else:
        requests = made_requests(tokens_of_folder(directory) if tokens is None else tokens, longest)
    lines = [json.dumps(vars(request), ensure_ascii=False, sort_keys=True) for request in requests]
    out.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return requests


def read_requests(engine_directory: str, context: int = 0) -> tuple[WarmUpRequest, ...]:
    """An engine's requests; none where an older build wrote none. With ``context`` (tokens of one request) those that
    fit; the first prompt that is too long is cut to it, a chat is left out. Raises Corrupt."""
    path = Path(engine_directory) / WARM_UP_FILE
    if not path.is_file():
        return ()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        requests = tuple(WarmUpRequest(**json.loads(line)) for line in lines)
    except (OSError, ValueError, TypeError) as bad:
        raise Corrupt(f"{WARM_UP_FILE} of {path.parent.name} cannot be read: {bad}; build it again") from bad
    return _fitting(requests, context) if context else requests


def _fitting(requests: Sequence[WarmUpRequest], context: int) -> tuple[WarmUpRequest, ...]:
    """Those that leave a tenth of the context free, since lengths are estimates; the first longer one, cut."""
    fitting: list[WarmUpRequest] = []
    for request in sorted(requests, key=size_of):
        answer = max(1, min(request.max_tokens, context // 4))
        room = context - context // 10 - answer
        if size_of(request) <= room:
            fitting.append(replace(request, max_tokens=answer))
        elif request.prompt and room > (size_of(fitting[-1]) if fitting else 0):
            fitting.append(WarmUpRequest(_cut(request, room), answer, tokens=room))
            break
    return tuple(fitting)


def _cut(request: WarmUpRequest, tokens: int) -> str:
    if request.tokens:  # as it was made: of words that are one token each
        return " ".join(request.prompt.split(" ")[:tokens])
    return request.prompt[: len(request.prompt) * tokens // size_of(request)]


def size_of(request: WarmUpRequest) -> int:
    """Tokens of its prompt; where nobody counted them, a quarter of its bytes, which is near for English text."""
    return request.tokens or max(1, len((request.prompt or request.messages).encode()) // 4)


def settled(times: Sequence[float], window: int = _WINDOW, drift: float = _DRIFT) -> bool:
    """Whether the latest rounds (seconds each, in order) are no longer faster or slower than those before them.

    The medians of the last ``window`` rounds and of the ``window`` before must differ by no more than ``drift`` of
    their size, or than the latest rounds differ among themselves: noise alone never keeps an instance waiting.
    """
    if len(times) < 2 * window:
        return False
    latest, before = times[-window:], times[-2 * window : -window]
    now = statistics.median(latest)
    return abs(statistics.median(before) - now) <= max(drift * now, max(latest) - min(latest))


def summary(times: Sequence[float], window: int = _WINDOW) -> Summary:
    """What to report of a warm-up; ``times`` must not be empty."""
    return Summary(len(times), times[0], statistics.median(times[-window:]), settled(times, window))
