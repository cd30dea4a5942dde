"""Token counts of an answer, read off its end, and how they are told: ``x-usage: <in>,<out>,<cached>``."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

HEADER = "x-usage"
KEPT = 4096  # bytes of an answer's end that hold the last event's counts, whatever came before
_JSON = json.JSONDecoder()


class Counts(NamedTuple):
    """Tokens of an answer. ``cached`` of those in were in the prefix cache; None where it is not told."""

    tokens_in: int | None  # the whole prompt, cached or not
    tokens_out: int
    cached: int | None = None


def tokens_told(end: bytes) -> Counts | None:
    """Tokens of an answer, from the last ``KEPT`` bytes of an answer or a stream.

    None where llama.cpp does not tell them. ``usage`` (OpenAI's API, in some streams too) goes before ``timings``
    (llama.cpp's own, at the end of all streams). A quote within a JSON string is escaped, so text that a user or
    the model wrote never looks like either. Of several choices llama.cpp counts one.
    """
    for name, read in (("usage", _from_usage), ("timings", _from_timings)):
        start = end.rfind(b'"%s":{' % name.encode())
        if start >= 0:
            try:
                return read(_JSON.raw_decode(end[start:].decode(errors="replace"), len(name) + 3)[0])
            except (ValueError, KeyError):
                continue
    return None


def _from_usage(usage: dict[str, Any]) -> Counts:
    if "prompt_tokens" in usage:
        return _counts(usage["prompt_tokens"], usage["completion_tokens"], _told(usage, "prompt_tokens_details"))
    if "input_tokens" not in usage:  # a stream of Anthropic's API: it told them at its beginning
        return _counts(None, usage["output_tokens"], None)
    if "cache_read_input_tokens" in usage:
        cached = int(usage["cache_read_input_tokens"])
        return _counts(int(usage["input_tokens"]) + cached, usage["output_tokens"], cached)
    return _counts(usage["input_tokens"], usage["output_tokens"], _told(usage, "input_tokens_details"))


def _told(usage: dict[str, Any], details: str) -> Any:
    return (usage.get(details) or {}).get("cached_tokens")


def _from_timings(timings: dict[str, Any]) -> Counts:
    cached = int(timings["cache_n"])
    return _counts(cached + int(timings["prompt_n"]), timings["predicted_n"], cached)  # prompt_n leaves out cached


def _counts(tokens_in: Any, tokens_out: Any, cached: Any) -> Counts:
    whole, part = (None if count is None else int(count) for count in (tokens_in, cached))
    return Counts(whole, int(tokens_out), part)


def as_value(counts: Counts) -> str:
    """The value of the header or trailer.

    >>> as_value(Counts(11, 7)), as_value(Counts(11, 7, 9)), as_value(Counts(None, 7))
    ('11,7', '11,7,9', ',7')
    """
    tokens_in = "" if counts.tokens_in is None else counts.tokens_in
    return f"{tokens_in},{counts.tokens_out}" + ("" if counts.cached is None else f",{counts.cached}")
