"""A policy with `evaluation: model`: the set that a version in a real MLflow names, out of a real DVC repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from model_samples import tiny_gguf
from running_mlflow import Server
from typer.testing import CliRunner

from cli.model_commands import app
from configs.evaluation import load_evaluation
from configs.order import order
from configs.stack import load_stack
from model_registry.mlflow_registry import MlflowRegistry
from model_registry.port import EVALUATION, MlflowSettings, Registered
from rollout.answers import Question
from rollout.errors import NotFound, Refused, Unavailable

ROOT = Path(__file__).parents[3]


def quiet(what: str, share: float) -> None:
    """Nobody waits for it."""


def git_and_dvc(folder: Path, *words: str) -> None:
    lean = {"DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "true", "DVC_SITE_CACHE_DIR": str(folder / ".site")}
    author = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    command = ("git", *author, *words[1:]) if words[0] == "git" else (sys.executable, "-m", *words)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, **lean})
    assert done.returncode == 0, done.stderr


@pytest.fixture
def project(mlflow: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of one's own, whose evaluation set DVC tracks in two revisions, with the registry's address."""
    folder = tmp_path / "project"
    shutil.copytree(ROOT / "configs", folder / "configs", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    stack = {"kind": "stack", "ports": {"mlflow": urlsplit(mlflow.uri).port}}
    (folder / "configs" / "stack.yaml").write_text(yaml.safe_dump(stack))
    for name, sets in (("own", "model"), ("both", ["bundled", "model"])):
        policy = {"kind": "rollout", "steps_percent": [50], "stress": None, "outputs": {}, "evaluation": sets}
        (folder / "configs" / "rollouts" / f"{name}.yaml").write_text(yaml.safe_dump(policy))
    git_and_dvc(folder, "git", "init", "-q")
    git_and_dvc(folder, "dvc", "init", "-q")
    for revision in ("v1", "v2"):
        (folder / "evaluation.jsonl").write_text(f'{{"prompt": "{revision}", "answer": "yes"}}\n')
        git_and_dvc(folder, "dvc", "add", "-q", "evaluation.jsonl")
        git_and_dvc(folder, "git", "add", "-A", ".")
        git_and_dvc(folder, "git", "commit", "-qm", revision)
        git_and_dvc(folder, "git", "tag", revision)
    monkeypatch.setenv("ROUNDHOUSE_PROJECT", str(folder))
    monkeypatch.setenv("ROUNDHOUSE_HOME", str(tmp_path / "home"))
    return folder


@pytest.fixture
def registry(mlflow: Server, tmp_path: Path) -> MlflowRegistry:
    return MlflowRegistry(MlflowSettings(mlflow.uri, str(tmp_path / "cache")))


@pytest.fixture
def made(registry: MlflowRegistry, tmp_path: Path) -> Registered:
    """A version that the alias `candidate` names."""
    folder = tiny_gguf(tmp_path / "tiny" / "tiny.gguf").parent
    version = registry.register(f"m-{uuid.uuid4().hex[:8]}", str(folder), "a test", quiet)
    registry.set_alias(version.name, "candidate", version.version)
    return version


def asked(rollout: str, model: str) -> tuple[str, tuple[Question, ...]]:
    """The model that is ordered, and the questions that its release will ask."""
    wanted = order("chat", model, rollout=rollout)
    return wanted.model, load_evaluation(wanted.policy.evaluation, wanted.stack)


def test_a_tagged_version_is_asked_its_own_prompts(project: Path, registry: MlflowRegistry, made: Registered) -> None:
    """Those of the tag's revision, also through an alias, which is settled to the version; with others in their order.

    What was named for all versions holds where the version names nothing itself.
    """
    registry.tag(made.name, "", {EVALUATION: "dvc:evaluation.jsonl@v1"})
    assert asked("own", f"models:/{made.name}@candidate") == (made.uri, (Question("v1", "yes"),))
    registry.tag(made.name, made.version, {EVALUATION: "dvc:evaluation.jsonl@v2"})
    assert asked("own", made.uri) == (made.uri, (Question("v2", "yes"),))
    bundled = load_evaluation("bundled", load_stack())
    assert asked("both", made.uri) == (made.uri, (*bundled, Question("v2", "yes")))


@pytest.mark.parametrize("rollout", ["own", "both"])
def test_a_version_without_a_set_is_refused_before_anything_is_changed(
    project: Path, made: Registered, rollout: str
) -> None:
    """With the command that names one, beside other sets too; nothing was fetched or written."""
    way = rf"run: roundhouse model evaluation {made.name} dvc:PATH@REVISION"
    with pytest.raises(
        Refused, match=rf"^evaluation: 'model' is refused: {made.uri} names no evaluation set\. Fix: {way}"
    ):
        order("chat", made.uri, rollout=rollout)
    assert not (project.parent / "home").exists()


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("model", r"^evaluation: 'model' is refused: {uri} names itself"),
        ("dvc:evaluation.jsonl@v9", r"^evaluation \(named by {uri}\): 'dvc:evaluation\.jsonl@v9' is refused: "),
        ("none.jsonl", r"^evaluation \(named by {uri}\): 'none\.jsonl' is refused: there is no such file"),
        ("configs/stack.yaml", r"^evaluation configs/stack\.yaml, line 1 \(named by {uri}\): "),
    ],
)
def test_a_tag_that_leads_nowhere_is_refused_with_the_version_that_bears_it(
    project: Path, registry: MlflowRegistry, made: Registered, source: str, told: str
) -> None:
    """Whoever reads the refusal finds the tag, the source and the line."""
    registry.tag(made.name, made.version, {EVALUATION: source})
    with pytest.raises(Refused, match=told.format(uri=made.uri)):
        order("chat", made.uri, rollout="own")


def test_the_command_names_a_set_that_it_has_read(project: Path, registry: MlflowRegistry, made: Registered) -> None:
    """The fix that a refusal tells works; a set that is not there is not named, nor a version that is not there."""
    ran = CliRunner().invoke(app, ["evaluation", made.name, "dvc:evaluation.jsonl@v1", "--version", made.version])
    assert (ran.exit_code, ran.stdout) == (0, f"dvc:evaluation.jsonl@v1: 1 prompts for {made.uri}\n")
    assert asked("own", made.uri)[1] == (Question("v1", "yes"),)
    wrong = (("none.jsonl", "1", Refused), ("model", "1", Refused), ("bundled", "9", NotFound))
    for source, version, error in wrong:
        ran = CliRunner().invoke(app, ["evaluation", made.name, source, "--version", version])
        assert isinstance(ran.exception, error)
    assert registry.resolve(made.uri).evaluation == "dvc:evaluation.jsonl@v1"


def test_without_a_registry_the_order_says_so(project: Path, made: Registered, free_port: int) -> None:
    """At once, and not in the middle of a release; a policy that does not ask for it needs no registry."""
    (project / "configs" / "stack.yaml").write_text(yaml.safe_dump({"kind": "stack", "ports": {"mlflow": free_port}}))
    with pytest.raises(Unavailable, match=str(free_port)):
        order("chat", made.uri, rollout="own")
    assert order("chat", made.uri, rollout="standard").policy.evaluation == ("bundled",)
