"""What a release keeps of compared answers and of vetoes, so that both can be judged again under other limits.

Numbers only: no word of a prompt or of an answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rollout.agreement import Agreement
from rollout.answers import Comparison
from rollout.vetoes import Reading


@dataclass(frozen=True)
class Batch:
    """Comparisons that were made at once: of prompts before any user's request, or of users' requests that began in
    (``after``, ``until``], epoch seconds."""

    comparisons: tuple[Comparison, ...]
    after: float | None = None  # None: of prompts
    until: float = 0.0
    sets: tuple[str, ...] = ()  # which the prompts come from
    prompts: int = 0  # in them
    asked: int = 0  # of those; fewer where the answer was known or the time was up
    pairs: bool = False  # whether answers to mirrored requests could be compared later


@dataclass(frozen=True)
class Readings:
    """What one asking of a release's vetoes gave, by their queries as the policy writes them."""

    at: float  # epoch seconds
    by_query: Mapping[str, Reading]
    begins: bool = False  # the first of a stage, where the time beyond a bound begins anew


@dataclass(frozen=True)
class Recorded:
    """All that is kept of one release beside its requests.

    ``sums`` are what all comparisons came to under the limits of then, from prompts of ``sets``; None: no answers were
    compared, or ``unread`` says why they cannot be read. ``readings`` can be gone through again, in the order of time.
    """

    batches: tuple[Batch, ...] = ()
    sums: Agreement | None = None
    sets: tuple[str, ...] = ()
    unread: str = ""
    readings: Iterable[Readings] = ()


_PLAIN = asdict(Comparison())


def plain_comparison(comparison: Comparison) -> dict[str, Any]:
    """A comparison as JSON-ready values, without what it does not tell."""
    return {name: value for name, value in asdict(comparison).items() if value != _PLAIN[name]}


def comparison_of(doc: Mapping[str, Any]) -> Comparison:
    """The comparison in a document. Raises TypeError, ValueError where it is none.

    A likelihood that is no number in the document was that of an answer which an engine calls impossible.
    """
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in doc.items()}
    if scored := values.get("scored"):
        stable, candidate, tokens = scored
        values["scored"] = (*(-math.inf if score is None else score for score in (stable, candidate)), tokens)
    return Comparison(**values)
