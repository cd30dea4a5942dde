"""Token counts of an answer, read off its end, and how they are told: ``x-usage: <tokens in>,<tokens out>``."""

from __future__ import annotations

import json
from typing import Any

HEADER = "x-usage"
KEPT = 4096  # bytes of an answer's end that hold the last event's counts, whatever came before
_JSON = json.JSONDecoder()


def tokens_told(end: bytes) -> tuple[int, int] | None:
    """Tokens in (the whole prompt, cached or not) and out, from the last ``KEPT`` bytes of an answer or a stream.

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


def _from_usage(usage: dict[str, Any]) -> tuple[int, int]:
    if "prompt_tokens" in usage:
        return int(usage["prompt_tokens"]), int(usage["completion_tokens"])
    return int(usage["input_tokens"]) + int(usage.get("cache_read_input_tokens", 0)), int(usage["output_tokens"])


def _from_timings(timings: dict[str, Any]) -> tuple[int, int]:
    return int(timings["cache_n"]) + int(timings["prompt_n"]), int(timings["predicted_n"])  # prompt_n leaves out cached


def as_value(counts: tuple[int, int]) -> str:
    """The value of the header or trailer."""
    return f"{counts[0]},{counts[1]}"
