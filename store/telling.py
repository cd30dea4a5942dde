"""What the store's numbers say to a person, in one line. Pure."""

from __future__ import annotations

from collections.abc import Mapping


def warm_up_told(numbers: Mapping[str, float]) -> str:
    """A warm-up (``InstanceState.warm_up``), first against settled times; empty where there was none yet.

    >>> warm_up_told({"requests": 9, "seconds": 2.5, "settled": 1, "p8_ttft_first_s": 0.31, "p8_ttft_s": 0.021,
    ...     "p8_tpot_s": 0.011, "p512_ttft_first_s": 1.2, "p512_ttft_s": 0.25})
    '9 requests in 2.5 s, settled; TTFT of 8 tokens 310 -> 21 ms, TPOT 11 ms; TTFT of 512 tokens 1200 -> 250 ms'
    """
    if not numbers:
        return ""
    seconds = f" in {numbers['seconds']:.1f} s" if "seconds" in numbers else ""
    settled = "settled" if numbers.get("settled") else "not settled"
    lengths = sorted(int(name[1 : -len("_ttft_s")]) for name in numbers if name.endswith("_ttft_s"))
    head = f"{numbers['requests']:.0f} requests{seconds}, {settled}"
    return "; ".join([head, *(_length(numbers, tokens) for tokens in lengths)])


def _length(numbers: Mapping[str, float], tokens: int) -> str:
    first, last = (numbers[f"p{tokens}_{name}"] * 1000 for name in ("ttft_first_s", "ttft_s"))
    tpot = numbers.get(f"p{tokens}_tpot_s")
    told = f"TTFT of {tokens} tokens {first:.0f} -> {last:.0f} ms"
    return told if tpot is None else f"{told}, TPOT {tpot * 1000:.0f} ms"
