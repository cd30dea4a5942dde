"""What a release demands of a candidate, and how it goes about it. Values only; ``configs/rollouts`` holds presets."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from rollout.agreement_limits import OutputLimits
from rollout.nouns import FULL


class OnTimeout(StrEnum):
    """What happens where the evidence does not come: the step's time is up, or nobody calls."""

    ROLL_BACK = "roll_back"
    HOLD = "hold"
    ASK = "ask"  # a person decides; until then all stays as it is


@dataclass(frozen=True)
class Margin:
    """Bounds on a latency's ratio candidate/stable. Proven above ``harm``: roll back. Proven below ``allow``: good.

    ``harm < allow`` overlap on purpose: with enough samples one of the two is always provable, so no step hangs.
    """

    harm: float
    allow: float


@dataclass(frozen=True)
class ErrorMargin:
    """Counted events. Proven more than ``harm_ratio`` times stable's rate: roll back.

    Proven either fewer than ``harm_ratio`` times, or below stable's rate + ``allow`` (a share of the requests): good.
    """

    harm_ratio: float = 1.25
    allow: float = 0.01


@dataclass(frozen=True)
class Objectives:
    """What the service promises of each request, seconds; None: nothing. A request that keeps all of it is goodput."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None


@dataclass(frozen=True)
class AutoSteps:
    """Steps that are computed: as fast as possible while at most so many requests suffer before harm is found."""

    most_harmed: int = 50
    first: int = 10  # permille
    largest: int = 500


@dataclass(frozen=True)
class Veto:
    """A Prometheus query whose value ends a release when it is above or below a bound for so long."""

    name: str
    query: str
    above: float | None = None
    below: float | None = None
    for_s: float = 0.0


@dataclass(frozen=True)
class Stress:
    """A load test of the candidate before it carries users' requests."""

    users: int = 2
    duration_s: float = 10.0
    max_tokens: int = 16
    api: str = "completions"


@dataclass(frozen=True)
class Policy:
    """How one release goes about it. Shares in permille, times in seconds."""

    steps: tuple[int, ...] = (10, 50, 250, 500)  # of live traffic
    auto: AutoSteps | None = None  # computed steps take the place of ``steps``
    mirror: int = 200  # of live requests copied before the first step; 0: no mirror stage
    baseline: bool = False  # compare with a copy of stable of the candidate's size, age and share
    ttft: Margin | None = Margin(1.1, 1.25)
    tpot: Margin | None = Margin(1.1, 1.25)
    e2e: Margin | None = None  # among answers of the same length
    errors: ErrorMargin = ErrorMargin()
    refusals: ErrorMargin | None = ErrorMargin()
    goodput: ErrorMargin = ErrorMargin(1.25, 0.02)  # of the requests that miss the objectives
    objectives: Objectives | None = None
    abandoned: float = 2.0  # proven so many times stable's rate of clients that leave: roll back; 0: not judged
    outputs: OutputLimits | None = None  # what answers to the same prompts may differ by
    evaluation: tuple[str, ...] = ("bundled",)  # the prompts: that, a file, dvc:PATH@REV, or the model's own: model
    vetoes: tuple[Veto, ...] = ()
    alpha: float = 0.05  # probability of a wrong roll back over the whole release, however often one looks
    beta: float = 0.05  # probability of promoting what is beyond what is allowed
    min_samples: int = 20  # of each arm in each stage, before it may end well
    min_step_s: float = 0.0
    settle_s: float = 1.0  # a request is judged so long after it began, so that slow ones are not missing
    look_s: float = 1.0
    lease_s: float = 6.0
    step_timeout_s: float = 28_800.0  # a step of 1 % takes long where few call
    max_s: float = 86_400.0  # of all stages together
    idle_s: float = 300.0  # without a request of the candidate
    on_timeout: OnTimeout = OnTimeout.ROLL_BACK
    on_idle: OnTimeout = OnTimeout.HOLD
    approvals: tuple[str, ...] = ()  # stages before which a person says yes; "promote" is one too
    warm_up_requests: int = 8
    stress: Stress | None = Stress()
    keep_warm_s: float = 300.0  # the old version stays started so long after a promotion

    def __post_init__(self) -> None:
        from rollout.policy_rules import check_policy

        check_policy(self)


@dataclass(frozen=True)
class Stage:
    """A planned split: what share of live traffic, what share of copies."""

    name: str
    canary: int
    mirror: int


def stages(policy: Policy) -> tuple[Stage, ...]:
    """The planned splits in order; promotion follows the last."""
    first = (Stage("mirror", 0, policy.mirror),) if policy.mirror else ()
    return first + tuple(Stage(f"canary {share / 10:g} %", share, 0) for share in policy.steps)


def judged_weight(canary: int, baseline: bool) -> float:
    """The candidate's part of the requests that are compared, 0..1, where it gets ``canary`` permille of all."""
    return 0.5 if baseline and canary else canary / FULL
