"""Warming an instance up: its engine's own requests, again and again, until latency settles.

A first request costs more than those after it: kernels are compiled, memory is taken, caches fill. Each length of
prompt is asked in turn until its own latency has settled. Repeats find the prompt's keys and values in the cache where
the engine keeps them; what is reported as settled is that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from time import monotonic

from agent.asking import NotAccepted, Timing
from engines.warm_up import WarmUpRequest, settled, size_of
from rollout.errors import Unavailable
from rollout.nouns import Health
from store.port import InstanceState

_PROMPTS = ("The railway line", "Once upon a time there was", "To build an engine you need", "The capital of France is")
PLAIN = tuple(WarmUpRequest(prompt, 8) for prompt in _PROMPTS)  # for an engine directory that has none
MOST_ROUNDS = 16  # of one length, unless more requests are asked for
MOST_S = 180.0  # after which no further request is begun
RETURN_S = 2.0  # the same for an instance that was ready before: users wait, and its machine is warm


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
    clock: Callable[[], float] = monotonic,
    most_s: float = MOST_S,
) -> dict[str, float]:
    """Ask until ``least`` requests were answered and each length has settled, or its rounds or ``most_s`` are used up.

    Returns ``numbers_of``. A request that the engine does not accept is left out. Raises NotAccepted when it accepts
    none, Unavailable when no request got a single token, and what else ``ask`` raises.
    """
    began, lengths, asked, skipped = clock(), by_length(samples), 0, 0
    while asked < least or _unsettled(lengths):
        for length in _unsettled(lengths) or list(lengths):
            if asked and clock() - began >= most_s:
                return numbers_of(lengths, clock() - began, skipped)
            try:
                length.answers.append(ask(length.next()))
            except NotAccepted:
                skipped += 1
                _leave_out(length, lengths)
                if not lengths:
                    raise
            asked = sum(len(length.answers) for length in lengths)
        if asked >= len(samples) - skipped and not any(a.tokens for length in lengths for a in length.answers):
            raise Unavailable(f"all {asked} answers were empty: the engine generates nothing")
    return numbers_of(lengths, clock() - began, skipped)


def _leave_out(length: _Length, lengths: list[_Length]) -> None:
    """The request that comes next in a length; what was measured of its others began in other rounds."""
    length.requests.remove(length.next())
    length.answers.clear()
    if not length.requests:
        lengths.remove(length)


def _unsettled(lengths: Sequence[_Length]) -> list[_Length]:
    return [length for length in lengths if not (length.settled or length.spent)]


def by_length(samples: Sequence[WarmUpRequest]) -> list[_Length]:
    """Requests whose prompts are of about the same length (within a factor of two) belong together; shortest first."""
    found: dict[int, list[WarmUpRequest]] = {}
    for sample in samples:
        found.setdefault(size_of(sample).bit_length(), []).append(sample)
    return [_Length(found[size]) for size in sorted(found)]


def unsettled(instance: InstanceState) -> str:
    """What is to be said of the warm-up of an instance that is ready: that it did not settle, or was not accepted."""
    numbers, told = instance.warm_up, []
    if instance.health is not Health.READY:
        return ""
    if numbers.get("settled") == 0:
        asked = f"{numbers.get('requests', 0):.0f} requests in {numbers.get('seconds', 0):.0f} s"
        told.append(f"its latency had not settled after {asked}")
    if skipped := numbers.get("skipped"):
        told.append(f"it does not accept {skipped:.0f} of its model's request samples")
    return f"({'; '.join(told)})" if told else ""


def numbers_of(lengths: Sequence[_Length], seconds: float, skipped: int = 0) -> dict[str, float]:
    """requests, settled (0 or 1), seconds, skipped (requests that were not accepted, where there were any).

    Then of each length ``p<tokens of the prompt>_`` with requests, first_s, last_s (median of the last two),
    ttft_first_s, ttft_s, tpot_s, settled.
    """
    asked = [length for length in lengths if length.answers]
    numbers = {"requests": float(sum(len(length.answers) for length in asked)), "seconds": seconds}
    numbers["settled"] = float(all(length.settled for length in lengths))
    numbers["first_s"], numbers["last_s"] = asked[0].answers[0].total_s, asked[-1].answers[-1].total_s
    if skipped:
        numbers["skipped"] = float(skipped)
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
