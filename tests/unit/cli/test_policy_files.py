"""`roundhouse policy ls, show, schema, check`: the rollout files of a project, told to people and scripts."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from cli import policy_files
from configs.load import check
from configs.rollout_file import RolloutFile
from configs.schema import schema_text
from rollout.errors import NotFound, Refused

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "policies.md").read_text()
BAD = "kind: rollout\nsteps_percent: [50, 5]\nstress: null\n"


@pytest.fixture
def project(tmp_path):
    """A project folder of its own with this project's files."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    before = os.environ.get("ROUNDHOUSE_PROJECT")
    os.environ["ROUNDHOUSE_PROJECT"] = str(tmp_path)
    yield tmp_path
    os.environ.pop("ROUNDHOUSE_PROJECT")
    if before is not None:
        os.environ["ROUNDHOUSE_PROJECT"] = before


@pytest.fixture
def run():
    """A command line of these commands; errors come as they are raised."""
    app = typer.Typer(pretty_exceptions_enable=False)
    for command in (policy_files.ls, policy_files.show, policy_files.schema, policy_files.check):
        app.command()(command)

    def invoke(*words: str) -> str:
        result = CliRunner().invoke(app, list(words))
        if result.exception:
            raise result.exception
        return result.stdout

    return invoke


def test_all_files_are_listed_with_their_purpose(project, run):
    """By name, with the first sentence of the file's comment; one that makes no sense with the reason."""
    (project / "configs" / "rollouts" / "mine.yaml").write_text(f"# My own.\n{BAD}")
    rows = {row["name"]: row for row in json.loads(run("ls", "--json"))}
    assert {"cautious", "standard", "fast", "direct", "patient", "mine"} == set(rows)
    assert rows["standard"]["for"] == "For a service with some requests a second"
    assert rows["standard"]["stages"] == "mirror, canary 1 %, canary 5 %, canary 25 %, canary 50 %"
    assert rows["mine"]["for"] == "My own" and "rising" in rows["mine"]["stages"]
    assert "standard" in run("ls")


def test_all_values_in_force_are_shown(project, run):
    """Defaults included, each with who said it; margins as sentences; the same as JSON."""
    text = run("show", "fast")
    assert "TTFT: proven over 1.5x stable's, roll back; proven under 2.5x, good" in text
    lines = {words[0]: words for line in text.splitlines() if (words := line.split())}
    assert lines["margins.ttft.harm"] == ["margins.ttft.harm", "1.5", "file"]
    assert lines["alpha"] == ["alpha", "0.05", "default"]
    shown = json.loads(run("show", "fast", "--json"))
    assert shown["values"]["margins"]["ttft"] == {"harm": 1.5, "allow": 2.5} and shown["values"]["beta"] == 0.05
    assert any("TTFT" in sentence for sentence in shown["sentences"])


def test_what_is_not_there_is_told_with_what_is(project, run):
    """A wrong name, and a wrong path."""
    with pytest.raises(NotFound, match="standard"):
        run("show", "nosuch")
    with pytest.raises(NotFound, match="does not exist"):
        run("check", str(project / "nosuch.yaml"))


def test_a_file_is_checked_before_it_is_used(project, run):
    """One line for a good one, field, value, rule and fix for another."""
    assert "makes sense: stages: mirror 20 %" in run("check", str(project / "configs" / "rollouts" / "standard.yaml"))
    bad = project / "bad.yaml"
    bad.write_text(BAD)
    with pytest.raises(Refused, match=r"bad\.yaml: steps_percent: .*rising"):
        run("check", str(bad))
    bad.write_text("kind: rollout\nsteps_percent: [5, 25]\noutputs: {}\nevaluation: configs/nope.jsonl\n")
    with pytest.raises(Refused, match=r"evaluation: 'configs/nope\.jsonl' is refused: there is no such file"):
        run("check", str(bad))


def test_a_list_of_evaluation_sets_is_checked_and_shown(project, run):
    """Each that is there already; the model's own is known when a release begins."""
    mine = project / "configs" / "rollouts" / "mine.yaml"
    policy = "kind: rollout\nsteps_percent: [5, 25]\nstress: null\noutputs: {}\nevaluation: [bundled, model%s]\n"
    mine.write_text(policy % "")
    assert "makes sense" in run("check", str(mine))
    assert "answers to the same prompts (bundled, model): proven harm" in run("show", "mine")
    mine.write_text(policy % ", nope.jsonl")
    with pytest.raises(Refused, match=r"evaluation: 'nope\.jsonl' is refused: there is no such file"):
        run("check", str(mine))


def test_a_policy_that_compares_nothing_needs_no_stack(project, run):
    """Only prompts are looked for in a project."""
    (project / "configs" / "stack.yaml").unlink()
    mine = project / "mine.yaml"
    mine.write_text("kind: rollout\nsteps_percent: [5, 25]\nstress: null\n")
    assert "makes sense" in run("check", str(mine))


def test_how_long_comparing_may_take_is_checked_and_shown(project, run):
    """As any other value: named when it is refused, and told with its default or the file's."""
    mine = project / "configs" / "rollouts" / "mine.yaml"
    policy = "kind: rollout\nsteps_percent: [5, 25]\noutputs: {budget_s: %s}\n"
    mine.write_text(policy % "0.5")
    with pytest.raises(Refused, match=r"outputs\.budget_s.*greater than or equal to 1.*0\.5"):
        run("check", str(mine))
    mine.write_text(policy % "900")
    lines = {words[0]: words for line in run("show", "mine").splitlines() if (words := line.split())}
    assert lines["outputs.budget_s"] == ["outputs.budget_s", "900", "file"]


def test_the_schema_is_printed_as_it_is_kept(run):
    """So that it can be written over the kept one."""
    assert run("schema") == schema_text("rollout") and run("schema", "service") == schema_text("service")


def test_the_page_shows_what_the_commands_print(project, run):
    """docs/policies.md: up to the dots, where it leaves lines out."""
    shown = re.findall(r"```console\n\$ roundhouse policy (.*)\n((?:.*\n)*?)```", PAGE)
    for command, output in shown:
        words = [str(ROOT / word) if word.startswith("configs/") else word for word in command.split()]
        printed = run(*words).replace(f"{ROOT}/", "")
        assert printed.startswith(output.removesuffix("...\n"))
    assert len(shown) == 2


def test_the_examples_on_the_page_make_sense():
    """Each policy in docs/policies.md is one."""
    examples = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    policies = [check(RolloutFile, yaml.safe_load(text), "docs/policies.md").policy() for text in examples]
    assert len(policies) == 3 and policies[1].auto and len(policies[2].vetoes) == 2
