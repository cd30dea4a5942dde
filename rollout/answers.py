"""What two engines said to the same prompt, compared: values in, numbers out.

A ``Question`` is a line of an evaluation set, a ``Reply`` what one engine made of it, a ``Comparison`` what both say
together. Logarithms of probabilities are natural ones, of single tokens.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

#: how an answer begins that declines to answer
REFUSALS = (
    r"i(?: am|'m) (?:sorry|unable|not able|afraid)",
    r"sorry,? (?:but )?i",
    r"i (?:cannot|can't|can not|won't|will not|must decline)",
    r"as an ai\b",
    r"i do(?: not|n't) have (?:access|the ability)",
)
_REFUSAL = re.compile(rf"\s*(?:{'|'.join(REFUSALS)})", re.IGNORECASE)
_WINDOW, _MOST_REPEATS = 4, 2  # words of a passage; how often it may occur


@dataclass(frozen=True)
class Question:
    """One prompt, decoded greedily by both engines. ``answer`` is a right one, '' where none is known."""

    prompt: str
    answer: str = ""
    json: bool = False  # asked for in JSON mode: the answer must parse
    id: str = ""  # of a user's request: its words stay in the call records


@dataclass(frozen=True)
class Reply:
    """One engine's answer. ``scored`` are the log-probabilities that it gives to the tokens of the right answer."""

    text: str
    tokens: tuple[str, ...] = ()  # () where the engine does not tell them
    finish: str = ""
    scored: tuple[float, ...] | None = None
    error: str = ""  # why there is no answer


#: what spoils an answer
DEFECTS = ("unanswered", "empty", "not JSON", "refused", "looped")


@dataclass(frozen=True)
class Comparison:
    """Both answers to one prompt. None: not available."""

    same_share: float | None = None  # of the tokens, at the same place
    same_until: float | None = None  # share of the tokens before the first difference
    diverged_at: int | None = None  # the first token that differs; None where all are the same
    length_ratio: float | None = None  # candidate's characters over stable's
    scored: tuple[float, float, int] | None = None  # log-likelihoods of the right answer (stable, candidate), tokens
    stable: tuple[str, ...] = ()  # of DEFECTS
    candidate: tuple[str, ...] = ()
    json: bool = False

    @property
    def gain(self) -> float | None:
        """Log-likelihood of the right answer, candidate's less stable's, per token."""
        return (self.scored[1] - self.scored[0]) / self.scored[2] if self.scored else None


def compare(question: Question, stable: Reply, candidate: Reply, greedy: bool = True) -> Comparison:
    """What the two replies say together. ``greedy`` False: their words are drawn by chance and not comparable."""
    spoilt = (defects(question, stable), defects(question, candidate))
    if stable.error or candidate.error:
        return Comparison(stable=spoilt[0], candidate=spoilt[1], json=question.json)
    share, until, place = overlap(*_words(stable, candidate)) if greedy else (None, None, None)
    ratio = len(candidate.text) / len(stable.text) if stable.text and candidate.text else None
    return Comparison(share, until, place, ratio, _scored(stable, candidate), *spoilt, json=question.json)


def defects(question: Question, reply: Reply) -> tuple[str, ...]:
    """What spoils a reply, of ``DEFECTS``."""
    if reply.error:
        return ("unanswered",)
    if not reply.text.strip():
        return ("empty",)
    found = {
        "not JSON": question.json and not parses(reply.text),
        "refused": is_refusal(reply.text),
        "looped": is_loop(reply.text),
    }
    return tuple(name for name, is_so in found.items() if is_so)


def overlap(a: Sequence[str], b: Sequence[str]) -> tuple[float, float, int | None]:
    """Share of equal tokens at equal places, share before the first difference, and where that is; of the longer one.

    >>> overlap("abcd", "abxd"), overlap("ab", "ab")
    ((0.75, 0.5, 2), (1.0, 1.0, None))
    """
    longest = max(len(a), len(b)) or 1
    pairs = list(zip(a, b, strict=False))
    same = sum(x == y for x, y in pairs)
    if tuple(a) == tuple(b):
        return 1.0, 1.0, None
    place = next((i for i, (x, y) in enumerate(pairs) if x != y), len(pairs))
    return same / longest, place / longest, place


def _words(*replies: Reply) -> list[Sequence[str]]:
    """Their tokens, or words and signs where an engine does not tell tokens."""
    if all(reply.tokens for reply in replies):
        return [reply.tokens for reply in replies]
    return [re.findall(r"\w+|\W", reply.text) for reply in replies]


def _scored(stable: Reply, candidate: Reply) -> tuple[float, float, int] | None:
    """Only where both engines scored the same number of tokens: two tokenizers cannot be compared token by token."""
    if not stable.scored or not candidate.scored or len(stable.scored) != len(candidate.scored):
        return None
    return sum(stable.scored), sum(candidate.scored), len(stable.scored)


def parses(text: str) -> bool:
    """Whether the whole text is one JSON value."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def is_refusal(text: str) -> bool:
    """Whether the text begins as an answer that declines (``REFUSALS``)."""
    return _REFUSAL.match(text.replace("’", "'")) is not None


def is_loop(text: str) -> bool:
    """Whether four words in a row occur more than twice."""
    words = text.split()
    passages = Counter(tuple(words[i : i + _WINDOW]) for i in range(len(words) - _WINDOW + 1))
    return any(count > _MOST_REPEATS for count in passages.values())
