"""What a candidate's answers may differ by. Values only, with the figures that the defaults were chosen from.

Measured on SmolLM2 135M (a file in Q4_1) with the bundled prompts, greedy decoding by llama.cpp, candidate against
stable: perplexity of the right answers over stable's, and share of equal tokens.

    Q8_0 against F16    1.00    0.82        Q4_0 against Q8_0    1.28    0.18
    Q4_1 against Q8_0   1.02    0.44        Q2_K against Q8_0    7.3     0.03

One early token that differs changes all that follow, so equal tokens are told and, unless asked for, not judged.
"""

from __future__ import annotations

from dataclasses import dataclass

from rollout.errors import Refused


@dataclass(frozen=True)
class OutputLimits:
    """Proven beyond a ``harm``: roll back. Proven within every ``allow``: good. Two zeros switch a pair off."""

    perplexity_harm: float = 1.5  # perplexity of the right answers, candidate's over stable's, per token
    perplexity_allow: float = 2.0
    defects_harm: float = 0.1  # share of answers that only the candidate spoils, less those that only stable spoils
    defects_allow: float = 0.3  # 40 prompts cannot prove much less
    length_harm: float = 1.5  # geometric mean of the answers' length over stable's, or its inverse
    length_allow: float = 2.0
    same_harm: float = 0.0  # mean share of equal tokens of greedy answers, proven below
    same_allow: float = 0.0  # proven above
    budget_s: float = 600.0  # for asking both engines; it ends sooner once the answer is known

    def __post_init__(self) -> None:
        check_limits(self)


def check_limits(limits: OutputLimits) -> None:
    """Raises Refused where the numbers contradict each other."""
    for name in ("perplexity", "length"):
        harm, allow = getattr(limits, f"{name}_harm"), getattr(limits, f"{name}_allow")
        if (harm or allow) and not 1 < harm <= allow:
            _refuse(name, harm, allow, "1 < harm <= allow, or what is equally good could not pass", "1.5 and 2")
    harm, allow = limits.defects_harm, limits.defects_allow
    if (harm or allow) and not 0 < harm <= allow < 1:
        _refuse("defects", harm, allow, "0 < harm <= allow < 1, as shares of the answers", "0.1 and 0.3")
    if not 1 <= limits.budget_s <= 86_400:
        raise Refused("outputs.budget_s", limits.budget_s, "1 to 86400 seconds", "leave it out for 600")
    harm, allow = limits.same_harm, limits.same_allow
    if (harm or allow) and not 0 < allow <= harm < 1:
        _refuse(
            "same", harm, allow, "0 < allow <= harm < 1: a small share of equal tokens is the bad one", "0.5 and 0.4"
        )


def _refuse(name: str, harm: float, allow: float, rule: str, good: str) -> None:
    fix = f"write for example {name}_harm and {name}_allow as {good}, or 0 for both to switch them off"
    raise Refused(f"outputs.{name}", f"harm {harm:g}, allow {allow:g}", rule, fix)
