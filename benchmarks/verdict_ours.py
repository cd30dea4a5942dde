"""Our own settings: the shipped policy, and the few that a user might choose for the same traffic as the peers'."""

from __future__ import annotations

from itertools import product

from rollout.policy import ErrorMargin, Margin, Policy

STANDARD = "standard"
HARMS = ((1.02, 1.05), (1.05, 1.1), (1.1, 1.25))  # of latency, of errors: proven so many times stable's, roll back


def _policy(latency: float, errors: float, every: bool) -> Policy:
    slow, bad = Margin(latency, 1.25), ErrorMargin(errors)
    if every:
        return Policy(ttft=slow, tpot=slow, errors=bad, refusals=bad)
    return Policy(ttft=slow, tpot=None, errors=bad, refusals=None, abandoned=0.0)


def _name(latency: float, errors: float, every: bool) -> str:
    return f"{'all metrics' if every else 'TTFT and errors'}, harm {latency:g}x and {errors:g}x"


#: By name. The last pair, with all metrics, is what ``standard`` says.
OURS = {STANDARD: Policy()} | {
    _name(*harm, every): _policy(*harm, every)
    for every, harm in product((True, False), HARMS)
    if _policy(*harm, every) != Policy()
}
