"""Warming an instance up: its engine's own requests, again and again, until latency settles.

A first request costs more than those after it: kernels are compiled, memory is taken, caches fill. Each length of
prompt is asked in turn until its own latency has settled. Repeats find the prompt's keys and values in the cache where
the engine keeps them; what is reported as settled is that.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import httpx

from engines.warm_up import WarmUpRequest, settled
from rollout.errors import Unavailable

_PROMPTS = ("The railway line", "Once upon a time there was", "To build an engine you need", "The capital of France is")
PLAIN = tuple(WarmUpRequest(prompt, 8) for prompt in _PROMPTS)  # for an engine directory that has none
MOST_ROUNDS = 16  # of one length, unless more requests are asked for
MOST_S = 180.0  # after which no further request is begun
SILENCE_S = 120.0  # without a byte: the first request may compile kernels


@dataclass(frozen=True)
class Timing:
    """One answer. ``tokens``: of the answer, as the engine counts them, else its pieces; times from the send."""

    ttft_s: float
    total_s: float
    tokens: int
    prompt_tokens: int = 0  # 0: the engine did not tell

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first; None where there was only one."""
        return (self.total_s - self.ttft_s) / (self.tokens - 1) if self.tokens > 1 else None


@dataclass
class _Length:
    """The answers to requests of about one length, in order."""

    requests: list[WarmUpRequest]
    answers: list[Timing] = field(default_factory=list)

    def next(self) -> WarmUpRequest:
        return self.requests[len(self.answers) % len(self.requests)]

    @property
    def settled(self) -> bool:
        """One request's times are compared with its own: of several, their sum over a round."""
        size = len(self.requests)
        totals = [answer.total_s for answer in self.answers]
        rounds = [sum(totals[first : first + size]) for first in range(0, len(totals) - size + 1, size)]
        return settled(rounds)

    @property
    def spent(self) -> bool:
        return len(self.answers) >= MOST_ROUNDS * len(self.requests)


def warm_up(
    samples: Sequence[WarmUpRequest],
    least: int,
    ask: Callable[[WarmUpRequest], Timing],
    clock: Callable[[], float] = time.monotonic,
    most_s: float = MOST_S,
) -> dict[str, float]:
    """Ask until ``least`` requests were answered and each length has settled, or its rounds or ``most_s`` are used up.

    Returns ``numbers_of``. Raises what ``ask`` raises, and Unavailable when no request got a single token.
    """
    began, lengths, asked = clock(), by_length(samples), 0
    while asked < least or _unsettled(lengths):
        for length in _unsettled(lengths) or lengths:
            if asked and clock() - began >= most_s:
                return numbers_of(lengths, clock() - began)
            length.answers.append(ask(length.next()))
            asked += 1
        if asked >= len(samples) and not any(answer.tokens for length in lengths for answer in length.answers):
            raise Unavailable(f"all {asked} answers were empty: the engine generates nothing")
    return numbers_of(lengths, clock() - began)


def _unsettled(lengths: Sequence[_Length]) -> list[_Length]:
    return [length for length in lengths if not (length.settled or length.spent)]


def by_length(samples: Sequence[WarmUpRequest]) -> list[_Length]:
    """Requests whose prompts are of about the same length (within a factor of two) belong together; shortest first."""
    found: dict[int, list[WarmUpRequest]] = {}
    for sample in samples:
        found.setdefault(size_of(sample).bit_length(), []).append(sample)
    return [_Length(found[size]) for size in sorted(found)]


def size_of(request: WarmUpRequest) -> int:
    """Tokens of its prompt; where nobody counted them, a quarter of its letters."""
    return request.tokens or max(1, len(request.prompt or request.messages) // 4)


def numbers_of(lengths: Sequence[_Length], seconds: float) -> dict[str, float]:
    """requests, settled (0 or 1), seconds; then of each length ``p<tokens of the prompt>_`` with requests, first_s,
    last_s (median of the last two), ttft_first_s, ttft_s, tpot_s, settled."""
    asked = [length for length in lengths if length.answers]
    numbers = {"requests": float(sum(len(length.answers) for length in asked)), "seconds": seconds}
    numbers["settled"] = float(all(length.settled for length in lengths))
    numbers["first_s"], numbers["last_s"] = asked[0].answers[0].total_s, asked[-1].answers[-1].total_s
    for length in asked:
        told = max(answer.prompt_tokens for answer in length.answers)
        name, answers = f"p{told or size_of(length.requests[0])}", length.answers
        tpot = [answer.tpot_s for answer in answers[-2:] if answer.tpot_s is not None]
        numbers[f"{name}_requests"] = float(len(answers))
        numbers[f"{name}_first_s"] = answers[0].total_s
        numbers[f"{name}_last_s"] = median(answer.total_s for answer in answers[-2:])
        numbers[f"{name}_ttft_first_s"] = answers[0].ttft_s
        numbers[f"{name}_ttft_s"] = median(answer.ttft_s for answer in answers[-2:])
        numbers[f"{name}_settled"] = float(length.settled)
        if tpot:
            numbers[f"{name}_tpot_s"] = median(tpot)
    return numbers


def ask_over(http: httpx.Client, model: str) -> Callable[[WarmUpRequest], Timing]:
    """One request to an OpenAI server, streamed so that the first token's time is seen.

    What it gives raises Unavailable with the server's own words for anything but a good answer to its end.
    """

    def ask(request: WarmUpRequest) -> Timing:
        path, body = request.sent_as(model)
        streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
        began = time.perf_counter()
        try:
            with http.stream("POST", path, json=streamed) as answer:
                if answer.status_code != 200:
                    answer.read()
                    raise Unavailable(f"{path} answered {answer.status_code}: {answer.text[:300].strip()}")
                return read_stream(answer.iter_lines(), lambda: time.perf_counter() - began)
        except httpx.HTTPError as error:
            raise Unavailable(f"{path}: {type(error).__name__}: {error}") from error

    return ask


def read_stream(lines: Iterator[str], elapsed: Callable[[], float]) -> Timing:
    """The times of one stream of server-sent events. Raises Unavailable for an error in it or an end without [DONE]."""
    ttft, total, pieces, usage = None, 0.0, 0, {}
    for line in lines:
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or not data:
            continue
        if data == "[DONE]":
            total = total or elapsed()
            tokens = int(usage.get("completion_tokens") or pieces)
            return Timing(total if ttft is None else ttft, total, tokens, int(usage.get("prompt_tokens") or 0))
        event = _event(data)
        usage = event.get("usage") or usage
        if any(map(text_of, event.get("choices") or ())):
            pieces, total = pieces + 1, elapsed()
            ttft = total if ttft is None else ttft
    raise Unavailable("the answer ended without [DONE]")


def _event(data: str) -> Mapping[str, Any]:
    try:
        event = json.loads(data)
    except ValueError as error:
        raise Unavailable(f"the answer holds what is no JSON: {data[:100]}") from error
    if not isinstance(event, dict) or event.get("error"):
        raise Unavailable(f"the engine answered with an error: {data[:300]}")
    return event


def text_of(choice: Mapping[str, Any]) -> str:
    """The new text of one choice of a completion or a chat, a model's thoughts included."""
    delta = choice.get("delta") or {}
    return str(choice.get("text") or delta.get("content") or delta.get("reasoning_content") or "")
