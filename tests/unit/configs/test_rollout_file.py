"""A rollout file becomes a policy, or is refused with field, value, rule and fix before anything is changed."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import yaml

from configs.load import check
from configs.margins_file import OutputsFile
from configs.order import order
from configs.rollout_file import RolloutFile, read_rollout
from rollout.agreement_limits import OutputLimits
from rollout.errors import Refused
from rollout.evidence import fresh
from rollout.judge import judge
from rollout.nouns import Outcome
from rollout.policy import AutoSteps, ErrorMargin, Margin, Objectives, OnTimeout, Policy, Veto

ROOT = Path(__file__).parents[3]
BASE = {"kind": "rollout", "steps_percent": [5, 50], "stress": None}
AUTO = {"kind": "rollout", "steps": "auto", "stress": None}
VETO = {"name": "gpu errors", "query": "sum(xid_errors)", "above": 0}
ASKED = {"prometheus": "http://127.0.0.1:9091"}


def policy_of(**values) -> Policy:
    return check(RolloutFile, {**BASE, **values}, "r.yaml").policy()


def test_a_file_with_steps_alone_has_the_cores_defaults():
    """What a file leaves out is what the core says, field by field, so that the two never drift apart."""
    assert asdict(policy_of()) == asdict(Policy(steps=(50, 500), stress=None))


def test_what_outputs_may_be_is_what_the_core_judges():
    """Every limit on answers can be written, under the core's name and with its default."""
    assert OutputsFile().limits() == OutputLimits()
    assert set(OutputsFile.model_fields) == {field.name for field in fields(OutputLimits)}


def test_every_field_reaches_the_policy():
    """Percentages become permille, null switches a metric off, and all else arrives as it was written."""
    policy = policy_of(
        mirror_percent=12.5,
        baseline=True,
        margins={
            "ttft": None,
            "e2e": {"harm": 1.2, "allow": 1.4},
            "errors": {"harm_ratio": 2, "allow_percent": 0.5},
            "refusals": None,
            "goodput": {"harm_ratio": 1.3, "allow_percent": 4},
            "abandoned": 0,
        },
        objectives={"ttft_s": 0.5},
        outputs={"same_harm": 0.6, "same_allow": 0.4},
        evaluation="mine.jsonl",
        vetoes=[VETO | {"for_s": 30}],
        **ASKED,
        alpha=0.01,
        beta=0.02,
        min_samples=50,
        min_step_s=60,
        settle_s=2,
        max_s=7200,
        idle_s=60,
        on_timeout="hold",
        on_idle="ask",
        approvals=["canary 50 %", "promote"],
    )
    assert policy == Policy(
        steps=(50, 500),
        mirror=125,
        baseline=True,
        ttft=None,
        e2e=Margin(1.2, 1.4),
        errors=ErrorMargin(2, 0.005),
        refusals=None,
        goodput=ErrorMargin(1.3, 0.04),
        abandoned=0,
        objectives=Objectives(ttft_s=0.5),
        outputs=OutputLimits(same_harm=0.6, same_allow=0.4),
        evaluation=("mine.jsonl",),
        vetoes=(Veto("gpu errors", "sum(xid_errors)", above=0, for_s=30),),
        alpha=0.01,
        beta=0.02,
        min_samples=50,
        min_step_s=60,
        settle_s=2,
        max_s=7200,
        idle_s=60,
        on_timeout=OnTimeout.HOLD,
        on_idle=OnTimeout.ASK,
        approvals=("canary 50 %", "promote"),
        stress=None,
    )


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("model", ("model",)),
        (["bundled", "dvc:evaluation.jsonl@v3"], ("bundled", "dvc:evaluation.jsonl@v3")),
    ],
)
def test_one_evaluation_set_or_a_list_of_them(written, read):
    """In the order in which they are written; a set alone needs no list."""
    assert policy_of(outputs={}, evaluation=written).evaluation == read


def test_computed_steps_are_bounded_in_percent():
    """`steps: auto` alone takes the default bounds; with `auto`, the written ones in permille."""
    assert check(RolloutFile, AUTO, "r.yaml").policy().auto == AutoSteps()
    bounds = {"most_harmed": 5, "first_percent": 0.5, "largest_percent": 20}
    assert check(RolloutFile, AUTO | {"auto": bounds}, "r.yaml").policy().auto == AutoSteps(5, 5, 200)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"steps_percent": [50, 5]}, ["steps_percent", "50", "rising"]),
        ({"steps_percent": [5, 60], "baseline": True}, ["steps_percent", "60", "baseline"]),
        ({"steps_percent": [5, 120]}, ["steps_percent", "120"]),
        ({"steps_percent": [0.05]}, ["steps_percent", "0.05", "steps of 0.1 %"]),
        ({"steps_percent": []}, ["steps_percent"]),
        ({"mirror_percent": 101}, ["mirror_percent", "101"]),
        ({"margins": {"ttft": {"harm": 1.5, "allow": 1.25}}}, ["margins.ttft", "harm 1.5, allow 1.25", "<= allow"]),
        ({"margins": {"tpot": {"harm": 0.9}}}, ["margins.tpot", "0.9", "greater than 1"]),
        ({"margins": {"e2e": {"harm": 2, "allow": 1.9}}}, ["margins.e2e", "harm 2"]),
        ({"margins": {"errors": {"harm_ratio": 1}}}, ["margins.errors.harm_ratio", "1"]),
        ({"margins": {"errors": None}}, ["margins.errors", "None"]),
        ({"margins": {"refusals": {"allow_percent": 0}}}, ["margins.refusals.allow_percent", "0"]),
        ({"margins": {"goodput": {"harm_ratio": 2}}}, ["margins.goodput", "objectives"]),
        ({"margins": {"abandoned": 0.5}}, ["margins.abandoned", "0.5", "0 for off"]),
        ({"margins": {"colour": 1}}, ["margins.colour", "not permitted"]),
        ({"objectives": {}}, ["objectives", "without any bound"]),
        ({"objectives": {"ttft_s": 0}}, ["objectives.ttft_s", "0"]),
        ({"outputs": {"perplexity_harm": 3}}, ["outputs.perplexity", "harm 3"]),
        ({"evaluation": "mine.jsonl"}, ["evaluation", "outputs"]),
        ({"outputs": {}, "evaluation": []}, ["evaluation", "at least 1"]),
        ({"outputs": {}, "evaluation": ["bundled", ""]}, ["evaluation.1", "at least 1"]),
        ({"outputs": {}, "evaluation": {"model": "v3"}}, ["evaluation", "valid tuple"]),
        ({"vetoes": [VETO]}, ["vetoes", "prometheus"]),
        ({"vetoes": [VETO, VETO], **ASKED}, ["two vetoes", "gpu errors"]),
        ({"vetoes": [VETO | {"below": 1}], **ASKED}, ["vetoes.gpu errors", "above 0.0, below 1.0", "one bound"]),
        ({"vetoes": [{"name": "x", "query": "up"}], **ASKED}, ["vetoes.x", "one bound"]),
        ({"vetoes": [VETO | {"query": "up{v='$version'}"}], **ASKED}, ["vetoes.gpu errors", "$version", "$candidate"]),
        ({"vetoes": [VETO | {"query": "up{v=~'a$'}"}], **ASKED}, ["vetoes.gpu errors.query", "$$"]),
        ({"vetoes": [VETO | {"query": " "}], **ASKED}, ["vetoes.gpu errors.query", "empty"]),
        ({"vetoes": [VETO | {"for_s": -1}], **ASKED}, ["vetoes.0.for_s", "-1"]),
        ({"prometheus": "127.0.0.1:9091"}, ["prometheus", "http://HOST:PORT"]),
        ({"alpha": 0}, ["alpha", "0"]),
        ({"beta": 0.5}, ["beta", "0.5"]),
        ({"min_samples": 4}, ["min_samples", "4"]),
        ({"look_s": 3}, ["lease_s", "6", "three looks"]),
        ({"lease_s": 11}, ["lease_s", "11"]),
        ({"settle_s": 61}, ["settle_s", "61"]),
        ({"min_step_s": 600, "step_timeout_s": 600}, ["min_step_s", "600", "step_timeout_s"]),
        ({"min_step_s": 100, "max_s": 200}, ["max_s", "200", "3 stages"]),
        ({"max_s": 0}, ["max_s", "0"]),
        ({"idle_s": 0}, ["idle_s", "0"]),
        ({"on_timeout": "explode"}, ["on_timeout", "explode", "roll_back"]),
        ({"approvals": ["canary 7 %"]}, ["approvals", "canary 7 %", "canary 5 %"]),
        ({"steps": "auto"}, ["steps_percent", "both"]),
        ({"steps_percent": None}, ["steps_percent", "required", "none is given"]),
        ({"auto": {}}, ["auto", "steps: auto"]),
    ],
)
def test_what_contradicts_itself_is_refused(values, words):
    """Each rule of a policy is reached from a file; the refusal names the field as written, value, rule and fix."""
    with pytest.raises(Refused) as refused:
        policy_of(**values)
    for word in [*words, "Fix:"]:
        assert word in str(refused.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"auto": {"first_percent": 20, "largest_percent": 10}}, ["auto", "'first_percent': 20.0", "largest"]),
        ({"auto": {"largest_percent": 60}, "baseline": True}, ["auto", "60", "50 %"]),
        ({"auto": {"most_harmed": 0}}, ["auto.most_harmed", "0"]),
        ({"approvals": ["canary 5 %"]}, ["approvals", "canary 5 %", "not known before"]),
    ],
)
def test_what_contradicts_computed_steps_is_refused(values, words):
    """Bounds that cross, and approvals by names that nobody knows yet."""
    with pytest.raises(Refused) as refused:
        check(RolloutFile, AUTO | values, "r.yaml").policy()
    for word in [*words, "Fix:"]:
        assert word in str(refused.value)


def test_an_address_with_a_password_is_refused_and_not_repeated():
    """Files are kept: a secret is named by its variable, and no refusal shows it."""
    for address in ("http://me:hunter2secret@host:9090", "https://hunter2secret@host"):
        with pytest.raises(Refused) as refused:
            policy_of(prometheus=address)
        assert "$NAME" in str(refused.value) and "hunter2" not in str(refused.value)
    assert check(RolloutFile, {**BASE, "prometheus": "$PROMETHEUS_URL"}, "r.yaml").prometheus == "$PROMETHEUS_URL"


def test_a_refusal_names_the_file(tmp_path):
    """A contradiction between fields is told with the file's path, as a wrong field is."""
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**BASE, "min_step_s": 900, "step_timeout_s": 600}))
    with pytest.raises(Refused, match=r"mine\.yaml: min_step_s: 900"):
        read_rollout(path)


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "rollouts").glob("*.yaml")), ids=lambda path: path.stem)
def test_no_preset_calls_silence_good(path):
    """Each file of this project makes a policy that can be judged by, and without a request nothing is decided."""
    policy = read_rollout(path).policy()
    assert judge(fresh(policy), policy).outcome is Outcome.UNDECIDED


@pytest.fixture
def project(tmp_path):
    """A project of one's own with this one's files, by its ``configs/rollouts``."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    before = os.environ.get("ROUNDHOUSE_PROJECT")
    os.environ["ROUNDHOUSE_PROJECT"] = str(tmp_path)
    yield tmp_path / "configs" / "rollouts"
    os.environ.pop("ROUNDHOUSE_PROJECT")
    if before is not None:
        os.environ["ROUNDHOUSE_PROJECT"] = before


def test_an_order_is_refused_for_prompts_that_are_not_there(project):
    """Before anything is fetched, built or started."""
    policy = {**BASE, "outputs": {}, "evaluation": "configs/nope.jsonl"}
    (project / "comparing.yaml").write_text(yaml.safe_dump(policy))
    with pytest.raises(Refused, match=r"evaluation: 'configs/nope\.jsonl'.*there is no such file"):
        order("chat", rollout="comparing")


def test_an_order_knows_whom_the_vetoes_ask(project):
    """The address goes with the release, a reference to a variable as it was written; empty where nobody is asked."""
    asking = {**BASE, "prometheus": "$PROMETHEUS_URL", "vetoes": [VETO]}
    (project / "asking.yaml").write_text(yaml.safe_dump(asking))
    made, plain = order("chat", rollout="asking"), order("chat")
    assert (made.prometheus, plain.prometheus) == ("$PROMETHEUS_URL", "")
    assert made.policy.vetoes == (Veto("gpu errors", "sum(xid_errors)", above=0),) and not plain.policy.vetoes
