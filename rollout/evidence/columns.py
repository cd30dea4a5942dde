"""Samples as columns of numbers: what the tests take in, a hundred thousand requests at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from rollout.evidence.wagers import Floats
from rollout.nouns import ERRORS, Sample

CODES = {"": 0, **{name: code for code, name in enumerate(ERRORS, 1)}}
REFUSED, LEFT = CODES["refused"], CODES["left"]
_CACHE = {None: 0, True: 1, False: 2}
_PROMPTS = (512, 2048, 8192, 32768)  # bytes of the request's body
_PROMPT_NAMES = ("prompts below 0.5 kB", "of 0.5 to 2 kB", "of 2 to 8 kB", "of 8 to 32 kB", "above 32 kB")
_CACHE_NAMES = ("", ", in the prefix cache", ", not in the prefix cache")
_ANSWERS = (16, 64, 256, 1024)  # tokens
_ANSWER_NAMES = ("below 16", "16 to 64", "64 to 256", "256 to 1024", "above 1024")
_PER_ANSWER = len(_PROMPT_NAMES) * len(_CACHE_NAMES)


@dataclass(frozen=True)
class Columns:
    """Requests in the order in which they began, one row each. Seconds; NaN where there is no number."""

    at: Floats
    candidate: NDArray[np.bool_]
    weight: Floats  # the candidate's share of the judged requests in force
    error: NDArray[np.int8]  # index into ERRORS, from 1; 0: nothing went wrong
    ttft: Floats  # of answers that were streamed
    tpot: Floats
    e2e: Floats
    tokens_out: Floats
    bytes_in: Floats
    cached: NDArray[np.int8]  # 0 not told, 1 in the cache, 2 not
    streamed: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.at)

    def rows(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> Columns:
        """Some of the rows."""
        return Columns(*(getattr(self, f.name)[which] for f in fields(self)))

    @property
    def failed(self) -> NDArray[np.bool_]:
        """What counts as an error: neither a refusal nor a client that left."""
        return (self.error > 0) & (self.error != REFUSED) & (self.error != LEFT)

    @property
    def strata(self) -> NDArray[np.int64]:
        """Number of the stratum of prompt length and cache state."""
        return np.searchsorted(_PROMPTS, self.bytes_in, side="right") * len(_CACHE_NAMES) + self.cached

    @property
    def answer_strata(self) -> NDArray[np.int64]:
        """The same, by length of the answer as well."""
        answers = np.searchsorted(_ANSWERS, np.nan_to_num(self.tokens_out), side="right")
        return self.strata + _PER_ANSWER * answers


def stratum_name(number: int, answers: bool = False) -> str:
    """What a stratum is called."""
    prompt, cache = divmod(number % _PER_ANSWER, len(_CACHE_NAMES))
    name = _PROMPT_NAMES[prompt] if prompt == 0 else f"prompts {_PROMPT_NAMES[prompt]}"
    told = f", answers of {_ANSWER_NAMES[number // _PER_ANSWER]} tokens" if answers else ""
    return f"{name}{_CACHE_NAMES[cache]}{told}"


def columns(stable: Sequence[Sample], candidate: Sequence[Sample]) -> Columns:
    """Both arms' samples as columns, in the order in which they began."""
    rows = [*stable, *candidate]
    if not rows:
        return _empty()
    at, _, _, failed, ttft, total, tokens, cut, streamed, error, bytes_in, cached, weight, *_ = zip(*rows, strict=True)
    codes = np.fromiter((CODES[e] for e in error), np.int8, len(rows))
    codes = np.where((codes == 0) & np.array(failed), CODES["5xx"], codes)
    codes = np.where((codes == 0) & np.array(cut), CODES["cut"], codes).astype(np.int8)
    well, flowing = codes == 0, np.array(streamed, bool)
    first, whole, out = (_floats(values, well) for values in (ttft, total, tokens))
    with np.errstate(divide="ignore", invalid="ignore"):
        later = np.where(out > 1, (whole - first) / (out - 1), np.nan)
        tpot = np.where(flowing, later, np.where(out > 0, whole / out, np.nan))
    moments = np.array(at, float)
    found = Columns(
        at=moments,
        candidate=np.arange(len(rows)) >= len(stable),
        weight=np.array(weight, float),
        error=codes,
        ttft=np.where(flowing, first, np.nan),
        tpot=np.where(tpot > 0, tpot, np.nan),
        e2e=whole,
        tokens_out=out,
        bytes_in=np.array(bytes_in, float),
        cached=np.fromiter((_CACHE[c] for c in cached), np.int8, len(rows)),
        streamed=flowing,
    )
    return found.rows(np.argsort(moments, kind="stable"))


def _floats(values: Sequence[float | None], well: NDArray[np.bool_]) -> Floats:
    """Numbers above 0 of the requests that went well, else NaN."""
    found = np.array(values, float)
    with np.errstate(invalid="ignore"):
        return np.where(well & (found > 0), found, np.nan)


def _empty() -> Columns:
    none = np.empty(0)
    return Columns(
        at=none,
        candidate=none.astype(bool),
        weight=none,
        error=none.astype(np.int8),
        ttft=none,
        tpot=none,
        e2e=none,
        tokens_out=none,
        bytes_in=none,
        cached=none.astype(np.int8),
        streamed=none.astype(bool),
    )
