"""A policy in sentences: what is harm, what is good enough, and what happens otherwise."""

from __future__ import annotations

from rollout.agreement_limits import OutputLimits
from rollout.evidence import fresh
from rollout.policy import ErrorMargin, Margin, OnTimeout, Policy, Veto, stages

_OTHERWISE = {
    OnTimeout.ROLL_BACK: "it is rolled back",
    OnTimeout.HOLD: "it waits",
    OnTimeout.ASK: "a person decides",
}


def told(policy: Policy) -> tuple[str, ...]:
    """One sentence for each thing that a policy demands or does, in the order of a release."""
    return (_way(policy), *_latencies(policy), *_counted(policy), *_others(policy), *_levels(policy), *_ends(policy))


def _way(policy: Policy) -> str:
    if policy.auto:
        auto = policy.auto
        mirror = f"mirror {policy.mirror / 10:g} %, then " if policy.mirror else ""
        steps = (
            f"{mirror}computed steps from {auto.first / 10:g} % to {auto.largest / 10:g} %, such that at most "
            f"{auto.most_harmed} requests suffer before harm is found"
        )
    else:
        steps = ", ".join(f"mirror {stage.mirror / 10:g} %" if stage.mirror else stage.name for stage in stages(policy))
    against = "a copy of stable of the candidate's age and share" if policy.baseline else "stable"
    asked = f"; a person says yes before: {', '.join(policy.approvals)}" if policy.approvals else ""
    return f"stages: {steps}, then promotion; compared with {against}{asked}"


def _latencies(policy: Policy) -> list[str]:
    named = (("TTFT", policy.ttft), ("TPOT", policy.tpot), ("E2E of answers of the same length", policy.e2e))
    return [_latency(name, margin) for name, margin in named]


def _latency(name: str, margin: Margin | None) -> str:
    if margin is None:
        return f"{name}: not judged"
    return f"{name}: proven over {margin.harm:g}x stable's, roll back; proven under {margin.allow:g}x, good"


def _counted(policy: Policy) -> list[str]:
    judged = {test.name: test.margin for test in fresh(policy).counts}
    named = {
        "errors": "errors",
        "refusals": "refusals (429, 450, 503)",
        "goodput": "requests that miss the objectives",
        "abandoned": "clients that leave",
    }
    return [_events(told, judged.get(name)) for name, told in named.items()]


def _events(name: str, margin: ErrorMargin | None) -> str:
    if margin is None:
        return f"{name}: not judged"
    ratio = f"{margin.harm_ratio:g}x stable's rate"
    return (
        f"{name}: proven over {ratio}, roll back; proven under it, or to add less than "
        f"{100 * margin.allow:g} % of the requests, good"
    )


def _others(policy: Policy) -> list[str]:
    return [_outputs(policy.outputs, policy.evaluation), *(_veto(veto) for veto in policy.vetoes)]


def _outputs(limits: OutputLimits | None, evaluation: tuple[str, ...]) -> str:
    if limits is None:
        return "answers to the same prompts: not compared"
    pairs = (
        ("perplexity", "over", limits.perplexity_harm, limits.perplexity_allow, "x"),
        ("spoiled answers", "over", limits.defects_harm, limits.defects_allow, " of all"),
        ("length", "over", limits.length_harm, limits.length_allow, "x"),
        ("equal tokens", "under", limits.same_harm, limits.same_allow, " of all"),
    )
    said = [f"{name} {side} {harm:g}{unit} ({allow:g})" for name, side, harm, allow, unit in pairs if harm or allow]
    sets, harm = ", ".join(evaluation), ", ".join(said) or "none"
    return f"answers to the same prompts ({sets}): proven harm (in brackets what is allowed): {harm}"


def _veto(veto: Veto) -> str:
    bound = f"above {veto.above:g}" if veto.above is not None else f"below {veto.below:g}"
    long = f" for {veto.for_s:g} s" if veto.for_s else ""
    return f"veto {veto.name}: {bound}{long}, roll back; no data, neither good nor bad"


def _levels(policy: Policy) -> list[str]:
    return [
        f"wrong roll back of an equal version: at most {100 * policy.alpha:g} % of the releases, however often looked",
        f"promotion of one that is worse than allowed: at most {100 * policy.beta:g} %",
        f"each stage: at least {policy.min_samples} requests of each version and {policy.min_step_s:g} s",
    ]


def _ends(policy: Policy) -> list[str]:
    late, quiet = _OTHERWISE[policy.on_timeout], _OTHERWISE[policy.on_idle]
    return [
        f"undecided after {policy.step_timeout_s:g} s of a stage or {policy.max_s:g} s of all: {late}",
        f"no request of the candidate for {policy.idle_s:g} s: {quiet}",
        f"after a promotion the old version stays started for {policy.keep_warm_s:g} s",
    ]
