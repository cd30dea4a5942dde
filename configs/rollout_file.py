"""``configs/rollouts/<name>.yaml``: how a release goes about it, and what it demands of a candidate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from configs.fields import Name, Percent, permille
from configs.load import SECRET, load
from configs.load_file import load_load
from configs.margins_file import AutoFile, Documented, MarginsFile, ObjectivesFile, OutputsFile
from rollout.command import referred
from rollout.errors import Refused
from rollout.policy import AutoSteps, OnTimeout, Policy, Stress, Veto
from rollout.policy_rules import LARGEST_LEASE_S
from rollout.vetoes import check_query

Level = Annotated[float, Field(gt=0, lt=0.5)]
Positive = Annotated[float, Field(gt=0, le=2_592_000)]  # seconds, a month at most
Steps = Annotated[tuple[Percent, ...], Field(min_length=1, examples=[[1, 5, 25, 50], [25, 50]])]
PromptSet = Annotated[str, Field(min_length=1)]
_Listed = Annotated[tuple[PromptSet, ...], Field(min_length=1, max_length=100)]
_AS_LIST = BeforeValidator(lambda v: (v,) if isinstance(v, str) else v, json_schema_input_type=PromptSet | _Listed)
PromptSets = Annotated[_Listed, _AS_LIST]  # one may be written without a list
VetoName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9 _-]{0,62}$")]
_PLAIN = (  # of the same name and unit in file and policy
    *("baseline", "evaluation", "alpha", "beta", "min_samples", "min_step_s", "settle_s", "look_s", "lease_s"),
    *("step_timeout_s", "max_s", "idle_s", "on_timeout", "on_idle", "approvals", "warm_up_requests", "keep_warm_s"),
)


def _one_of(*names: str) -> dict[str, Any]:
    """For a JSON Schema: exactly one of these fields."""
    return {"oneOf": [{"required": [name]} for name in names]}


class VetoFile(Documented):
    """A Prometheus query whose value ends a release. One bound: `above` or `below`."""

    model_config = ConfigDict(json_schema_extra=_one_of("above", "below"))

    name: VetoName
    """What people read: "veto <name>"."""
    query: Annotated[str, Field(min_length=1, max_length=4000)]
    """PromQL that gives a number, or one for each series (the worst counts). $service, $candidate, $stable (version
    numbers) and $release are filled in; $$ is a plain $."""
    above: float | None = None
    """Bad above this value."""
    below: float | None = None
    """Bad below this value."""
    for_s: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    """Bad for so long at every look: roll back, seconds. 0: at once."""

    def veto(self) -> Veto:
        """As the core knows it. Raises Refused where its query cannot be filled in."""
        veto = Veto(**self.model_dump())
        check_query(veto)
        return veto


class RolloutFile(Documented):
    """How a release goes about it, and what it demands of a candidate. Every field but the steps has a default."""

    model_config = ConfigDict(json_schema_extra=_one_of("steps_percent", "steps"))

    kind: Literal["rollout"] = "rollout"
    steps_percent: Steps | None = None
    """Rising shares of live traffic, in percent, in steps of 0.1. Promotion follows the last. Or `steps: auto`."""
    steps: Literal["auto"] | None = None
    """`auto`: steps are computed from the service's traffic, in place of `steps_percent`; 1, 5, 25, 50 where there has
    been none."""
    auto: AutoFile | None = None
    """Bounds of computed steps."""
    mirror_percent: Percent = Policy.mirror / 10
    """Share of live requests that are copied to the candidate before the first step; nobody sees those answers. 0: no
    such stage."""
    baseline: bool = False
    """Compare with a copy of stable, started when the candidate is and given the same share: costs one more set of
    instances, and takes cold caches and young processes out of the comparison."""
    margins: MarginsFile = MarginsFile()
    """From where on a difference is harm, and up to where it is allowed."""
    objectives: ObjectivesFile | None = None
    """What the service promises of each request; where given, goodput is judged too."""
    outputs: OutputsFile | None = None
    """What answers to the same prompts may differ by; {}: the defaults; null: they are not compared."""
    evaluation: Annotated[PromptSets, Field(examples=["bundled", "model", ["bundled", "dvc:evaluation.jsonl@v3"]])] = (
        Policy.evaluation
    )
    """The prompts for `outputs`, one set or a list: bundled, a .jsonl file, dvc:PATH@REVISION, or model (the set that
    the model version names)."""
    prometheus: Annotated[str, Field(examples=["http://127.0.0.1:9091", "$PROMETHEUS_URL"])] | None = None
    """Address of the Prometheus that vetoes ask. `$NAME`: the value of that variable where flows run, for an address
    with a password."""
    vetoes: tuple[VetoFile, ...] = ()
    """Queries whose values end a release."""
    alpha: Level = Policy.alpha
    """At most this probability of rolling back a candidate as good as stable, over the whole release."""
    beta: Level = Policy.beta
    """At most this probability of promoting a candidate that is beyond what is allowed."""
    min_samples: Annotated[int, Field(ge=5, le=100_000_000)] = Policy.min_samples
    """Requests of each version in each stage, before the stage may end well."""
    min_step_s: Annotated[float, Field(ge=0, le=604_800)] = Policy.min_step_s
    """A stage lasts at least so long before it ends well, seconds."""
    settle_s: Annotated[float, Field(ge=0, le=60)] = Policy.settle_s
    """A request is judged so long after it began, seconds, so that slow ones are not missing."""
    look_s: Annotated[float, Field(ge=0.2, le=3)] = Policy.look_s
    """Between two looks at the evidence, seconds."""
    lease_s: Annotated[float, Field(gt=0, le=LARGEST_LEASE_S)] = Policy.lease_s
    """Without a renewal all traffic is back on stable after so long, seconds. At least three looks."""
    step_timeout_s: Positive = Policy.step_timeout_s
    """A stage that is not decided by then does what `on_timeout` says, seconds."""
    max_s: Positive = Policy.max_s
    """All stages together, seconds; then `on_timeout`."""
    idle_s: Positive = Policy.idle_s
    """Without a request of the candidate for so long, seconds: `on_idle`."""
    on_timeout: OnTimeout = Policy.on_timeout
    """What happens when the time is up, or the gateway does not deliver the split that was asked for."""
    on_idle: OnTimeout = Policy.on_idle
    """What happens when nobody calls."""
    approvals: Annotated[tuple[str, ...], Field(examples=[["promote"], ["canary 50 %", "promote"]])] = ()
    """Stages before which a person says yes: "mirror", "canary 5 %" ..., "promote"."""
    warm_up_requests: Annotated[int, Field(ge=1, le=1000)] = Policy.warm_up_requests
    """Real requests to a new instance before it counts as ready."""
    stress: Name | None = "short"
    """Load test of the candidate before it carries users' requests: a file of configs/loads; null: none."""
    keep_warm_s: Annotated[float, Field(ge=0, le=86_400)] = Policy.keep_warm_s
    """The old version stays started so long after a promotion, seconds."""

    @model_validator(mode="after")
    def _says_one_thing(self) -> RolloutFile:
        if (self.steps_percent is None) == (self.steps is None):
            given = "both are given" if self.steps else "none is given"
            raise _refusal(f"steps_percent or `steps: auto` is required, and {given}: write one, as [5, 25, 50]")
        if self.auto and self.steps is None:
            raise _refusal("auto bounds computed steps, and these are given: write `steps: auto`, or leave auto out")
        if self.objectives is None and "goodput" in self.margins.model_fields_set:
            raise _refusal("margins.goodput has no objectives to count by: write `objectives: {ttft_s: 0.5}`")
        if self.outputs is None and "evaluation" in self.model_fields_set:
            raise _refusal("evaluation has prompts for nothing: write `outputs: {}` too, or leave it out")
        if self.vetoes and not self.prometheus:
            raise _refusal("vetoes have nobody to ask: write `prometheus: http://HOST:PORT`, or leave them out")
        names = [veto.name for veto in self.vetoes]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise _refusal(f"two vetoes are named {twice[0]!r}: give each a name of its own")
        return self

    @field_validator("prometheus")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value is None or referred(value):
            return value
        parts = urlsplit(value)
        if parts.username or parts.password:
            raise _refusal("an address with a password is a secret, and files are kept: write $NAME and export it")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("an address is http://HOST:PORT, https://HOST/PATH or $NAME")
        return value

    def policy(self) -> Policy:
        """As the core knows it. Raises Refused, NotFound."""
        try:
            return Policy(**self._shape(), **{name: getattr(self, name) for name in _PLAIN})
        except Refused as refused:
            field, value = self._as_written(refused)
            raise Refused(field, value, refused.rule, refused.fix) from None

    def _shape(self) -> dict[str, Any]:
        margins, auto = self.margins, self.auto or AutoFile()
        shares = [permille("steps_percent", share) for share in self.steps_percent or ()]
        return {
            **({"steps": tuple(shares)} if shares else {}),
            "auto": _auto(auto) if self.steps else None,
            "mirror": permille("mirror_percent", self.mirror_percent),
            "ttft": margins.ttft and margins.ttft.margin(),
            "tpot": margins.tpot and margins.tpot.margin(),
            "e2e": margins.e2e and margins.e2e.margin(),
            "errors": margins.errors.margin(),
            "refusals": margins.refusals and margins.refusals.margin(),
            "goodput": margins.goodput.margin(),
            "abandoned": margins.abandoned,
            "objectives": self.objectives and self.objectives.objectives(),
            "outputs": self.outputs and self.outputs.limits(),
            "vetoes": tuple(veto.veto() for veto in self.vetoes),
            "stress": _stress(self.stress),
        }

    def _as_written(self, refused: Refused) -> tuple[str, object]:
        """Field and value of a refusal, as they stand in the file."""
        if refused.field == "steps" and self.steps_percent:
            return "steps_percent", [f"{share:g}" for share in self.steps_percent]
        if refused.field == "auto":
            return "auto", (self.auto or AutoFile()).model_dump()
        written = {"mirror": "mirror_percent", "abandoned": "margins.abandoned"}
        return written.get(refused.field, refused.field), refused.value


def read_rollout(path: Path) -> RolloutFile:
    """The rollout file at ``path``, whose policy makes sense. Raises NotFound, Refused."""
    file = load(RolloutFile, path)
    try:
        file.policy()
    except Refused as refused:
        raise Refused(f"{path}: {refused.field}", refused.value, refused.rule, refused.fix) from None
    return file


def _auto(auto: AutoFile) -> AutoSteps:
    return AutoSteps(
        auto.most_harmed,
        permille("auto.first_percent", auto.first_percent),
        permille("auto.largest_percent", auto.largest_percent),
    )


def _stress(name: str | None) -> Stress | None:
    if name is None:
        return None
    load_file = load_load(name)
    return Stress(load_file.users, load_file.duration_s, load_file.max_tokens, load_file.api)


def _refusal(why: str) -> PydanticCustomError:
    """Of this type ``configs.load`` does not repeat the value, which is a secret or the whole file."""
    return PydanticCustomError(SECRET, "{why}", {"why": why})
