"""What policies may ask for, with real traffic: people, a copy of stable, computed steps, mirrored answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from house import House
from whole_stack import until
from witness import Witness, witness

from cli.follow import follow_release
from configs.evaluation import load_evaluation
from rollout.nouns import Phase
from store.port import Release

pytestmark = pytest.mark.timeout(1800)  # the waits inside are what bounds it

SERVICE, MODEL, ENGINE = "asking", "smollm2-asking", "asking"
#: Three engines share two processors: what differs between equal ones is not what these tests are about.
_LOOSE = {
    "kind": "rollout",
    "mirror_percent": 0,
    "margins": {
        "ttft": {"harm": 4.0, "allow": 16.0},
        "tpot": {"harm": 4.0, "allow": 16.0},
        "errors": {"harm_ratio": 1.5, "allow_percent": 25},
        "refusals": {"harm_ratio": 1.5, "allow_percent": 25},
    },
    "min_samples": 12,
    "step_timeout_s": 600,
    "on_timeout": "roll_back",
    "stress": None,
    "warm_up_requests": 2,
    "keep_warm_s": 0,
}
_POLICIES = {
    "asking-computed": {"steps": "auto", "auto": {"most_harmed": 50}},
    "asking": {"baseline": True, "steps_percent": [25], "approvals": ["mirror", "promote"]}
    | {"mirror_percent": 100, "outputs": {}, "min_step_s": 15},
    "asking-plainly": {"steps_percent": [25], "approvals": ["canary 25 %"]},
    "asking-copied": {"baseline": True, "steps_percent": [25], "min_samples": 100_000},
}


@pytest.fixture(scope="module")
def first(house: House) -> Release:
    """A service with its policies, and its first version in service."""
    configs = house.stack.project / "configs"
    engine = {"kind": "engine", "engine": "llama_cpp", "quantization": "Q8_0", "slots": 2, "context": 512, "threads": 1}
    files: dict[str, Any] = {f"rollouts/{name}": _LOOSE | policy for name, policy in _POLICIES.items()}
    files |= {f"engines/{ENGINE}": engine}
    files |= {f"services/{SERVICE}": {"kind": "service", "name": SERVICE, "model": MODEL, "engine": ENGINE}}
    files[f"services/{SERVICE}"] |= {"rollout": "asking-computed", "instances": 1, "call_records": {}}
    for name, content in files.items():
        (configs / f"{name}.yaml").write_text(yaml.safe_dump(content))
    release = house.release(SERVICE, house.register(MODEL), ENGINE, "asking-computed")
    assert release.phase is Phase.PROMOTED, release.reason
    return release


@pytest.fixture(scope="module")
def users(first: Release, house: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Witness]:
    """Requests all the time."""
    with witness(house.stack, SERVICE, tmp_path_factory.mktemp("users")) as client:
        until(lambda: client.facts()["requests_ended"] > 100, 90, "enough requests of stable to compare with")
        yield client
        assert client.stop()["failures"] == []


def begun(house: House, model: str, rollout: str) -> tuple[str, str]:
    """A release that is on its way: the run's id and its own."""
    run = house.start(SERVICE, model, ENGINE, rollout)
    return run, until(lambda: house.release_of(run), 60, "the release").id


def answered(house: House, word: str, release: str, reason: str = "") -> subprocess.CompletedProcess[str]:
    """What ``roundhouse release approve|reject`` does."""
    asked = str(house.store.release(release).asked)
    command = [sys.executable, "-m", "cli.main", "release", word, release, "--question", asked, "--reason", reason]
    env = os.environ | {"ROUNDHOUSE_HOME": str(house.stack.home), "ROUNDHOUSE_PROJECT": str(house.stack.project)}
    return subprocess.run(command, env=env | {"PYTHONPATH": "."}, capture_output=True, text=True, timeout=60)


def waits(house: House, release: str, stage: str) -> str:
    """The question that a release asks before a stage, once it does."""
    return until(
        lambda: stage in (asked := house.store.release(release).waiting) and asked, 600, f"to be asked: {stage}"
    )


def served(house: House) -> set[int]:
    """Which versions have instances."""
    return {instance.version for instance in house.store.instances(SERVICE)}


def test_steps_are_computed_from_the_traffic(first: Release, users: Witness, house: House) -> None:
    """Without a list of shares a release finds its own, keeps to the largest allowed, and decides."""
    release = house.release(SERVICE, first.model_uri, ENGINE, "asking-computed")
    assert release.phase is Phase.PROMOTED, release.reason
    shares = [float(stage["stage"].split()[1]) for stage in release.evidence["stages"]]
    assert shares == sorted(shares)
    assert shares[0] >= 1
    assert shares[-1] <= 50


def test_people_are_asked_before_traffic_and_before_the_end(first: Release, users: Witness, house: House) -> None:
    """Nothing goes on without an answer; with two of them a candidate that was compared with a copy is promoted.

    What both said to mirrored requests goes on with the evidence of the bundled prompts.
    """
    stable = house.store.service(SERVICE).stable
    run, release = begun(house, first.model_uri, "asking")
    assert answered(house, "approve", release).returncode != 0  # before it asks
    waits(house, release, "mirror")
    candidate = house.store.release(release).candidate
    (copy,) = served(house) - {stable, candidate}
    wanted = {version.number: version for version in house.store.versions(SERVICE)}
    assert wanted[copy].engine == wanted[stable].engine
    assert answered(house, "approve", release, "the logs are clean").returncode == 0
    waits(house, release, "promot")
    assert house.store.service(SERVICE).stable == stable
    assert answered(house, "approve", release).returncode == 0
    ended = follow_release(house.stack, run, quiet=True)
    assert ended.phase is Phase.PROMOTED, ended.reason
    assert "said yes" in ended.reason
    assert house.store.service(SERVICE).stable == candidate
    until(lambda: served(house) == {candidate}, 60, "the end of the copy and of the old version")
    told = [(word["yes"], word["reason"]) for word in ended.evidence["answers"]]
    assert told == [(True, "the logs are clean"), (True, "")]
    kept = json.loads((house.stack.home / "reports" / release / "outputs.json").read_text())
    assert kept["agreement"]["totals"]["prompts"] > len(load_evaluation("bundled", house.stack))
    assert not any(example["prompt"] for example in kept["agreement"]["examples"] if example["id"])


def test_a_no_turns_it_back(first: Release, users: Witness, house: House) -> None:
    """A person's no is the reason, and no user ever saw the candidate."""
    stable = house.store.service(SERVICE).stable
    run, release = begun(house, first.model_uri, "asking-plainly")
    waits(house, release, "canary 25 %")
    assert answered(house, "reject", release, "not on a Friday").returncode == 0
    ended = follow_release(house.stack, run, quiet=True)
    assert ended.phase is Phase.ROLLED_BACK
    assert "said no: not on a Friday" in ended.reason
    assert house.store.service(SERVICE).stable == stable
    until(lambda: served(house) == {stable}, 60, "the end of the candidate")
    assert answered(house, "approve", release).returncode != 0


def test_a_cancelled_release_leaves_no_copy(first: Release, users: Witness, house: House) -> None:
    """Who cancels in the middle gets stable back alone: neither candidate nor the copy stay."""
    stable = house.store.service(SERVICE).stable
    run, release = begun(house, first.model_uri, "asking-copied")
    until(lambda: "canary" in house.store.release(release).stage, 120, "the canary")
    assert len(served(house)) == 3
    house.prefect.cancel(run)
    ended = follow_release(house.stack, run, quiet=True)
    assert ended.phase is Phase.FAILED, ended.reason
    assert "cancel" in ended.reason
    assert house.store.service(SERVICE).stable == stable
    until(lambda: served(house) == {stable}, 60, "their end")
