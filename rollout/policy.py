"""What a release demands of a candidate, and how it goes about it. Values only; ``configs/rollouts`` holds presets."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from rollout.errors import Refused
from rollout.nouns import FULL


class OnTimeout(StrEnum):
    """What an undecided step does when its time is up."""

    ROLL_BACK = "roll_back"
    HOLD = "hold"


@dataclass(frozen=True)
class Margin:
    """Bounds on a ratio candidate/stable. Proven above ``harm``: roll back. Proven below ``allow``: good enough.

    ``harm < allow`` overlap on purpose: with enough samples one of the two is always provable, so no step hangs.
    """

    harm: float
    allow: float


@dataclass(frozen=True)
class ErrorMargin:
    """Errors. Proven more than ``harm_ratio`` times stable's rate: roll back. Proven below stable + ``allow``: good."""

    harm_ratio: float
    allow: float


@dataclass(frozen=True)
class Stress:
    """A load test of the candidate before it carries users' requests."""

    users: int = 2
    duration_s: float = 10.0
    max_tokens: int = 16
    api: str = "completions"


@dataclass(frozen=True)
class Policy:
    """How one release goes about it."""

    steps: tuple[int, ...] = (50, 250, 500)  # permille of live traffic
    mirror: int = 500  # permille of live requests copied before the first step; 0: no mirror stage
    ttft: Margin = Margin(1.25, 1.5)
    tpot: Margin = Margin(1.2, 1.4)
    errors: ErrorMargin = ErrorMargin(1.5, 0.05)
    alpha: float = 0.05  # probability of a wrong roll back over the whole release, however often one looks
    min_samples: int = 20  # of each arm, before anything but plain failure is said
    look_s: float = 1.0
    lease_s: float = 6.0
    step_timeout_s: float = 600.0
    on_timeout: OnTimeout = OnTimeout.ROLL_BACK
    warm_up_requests: int = 8
    stress: Stress | None = Stress()
    keep_warm_s: float = 300.0  # the old version stays started so long after a promotion

    def __post_init__(self) -> None:
        check_policy(self)


@dataclass(frozen=True)
class Stage:
    """A planned split: what share of live traffic, what share of copies."""

    name: str
    canary: int
    mirror: int

    @property
    def share(self) -> float:
        """The candidate's part of the requests that are judged: of live ones, or of live ones and their copies."""
        return self.canary / FULL if self.canary else self.mirror / (FULL + self.mirror)


def stages(policy: Policy) -> tuple[Stage, ...]:
    """The planned splits in order; promotion follows the last."""
    first = (Stage("mirror", 0, policy.mirror),) if policy.mirror else ()
    return first + tuple(Stage(f"canary {share / 10:g} %", share, 0) for share in policy.steps)


def check_policy(policy: Policy) -> None:
    """Raises Refused when the numbers contradict each other."""
    steps = list(policy.steps)
    if not steps or steps != sorted(set(steps)) or steps[0] < 1 or steps[-1] >= FULL:
        rule = (
            "steps are rising shares from 0.1 % to 99.9 %: promotion is the last one, and judging needs both versions"
        )
        raise Refused("steps", steps, rule, "write for example steps_percent: [5, 25, 50]")
    if not 0 <= policy.mirror <= FULL:
        raise Refused("mirror", policy.mirror / 10, "a share lies between 0 and 100 %", "choose one in that range")
    for name, margin in (("ttft", policy.ttft), ("tpot", policy.tpot)):
        if not 1.0 < margin.harm <= margin.allow:
            rule = "1 < harm <= allow, or a healthy candidate could never be told from a harmful one"
            raise Refused(
                f"margins.{name}", f"harm {margin.harm}, allow {margin.allow}", rule, "raise allow or lower harm"
            )
    if policy.errors.harm_ratio <= 1.0 or not 0.0 < policy.errors.allow < 1.0:
        rule = "harm_ratio is above 1 and allow lies between 0 and 1"
        raise Refused("margins.errors", policy.errors, rule, "write for example harm_ratio: 1.5, allow: 0.05")
    if not 0.0 < policy.alpha < 0.5:
        raise Refused("alpha", policy.alpha, "it lies between 0 and 0.5", "use 0.05")
    if policy.min_samples < 5:
        raise Refused("min_samples", policy.min_samples, "fewer than 5 requests say nothing", "use at least 5")
    if policy.lease_s < 3 * policy.look_s or policy.lease_s > 10:
        rule = "a lease lasts at least three looks and at most 10 s, so that one late look does not end it"
        raise Refused("lease_s", policy.lease_s, rule, f"use {max(3 * policy.look_s, 6):g}")
