"""``roundhouse policy replay`` of compared answers and vetoes: judged again where they are kept, told where not."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "reports"))
from past_release import T0, past_release

from cli.policy_replay import replay
from reports.comparisons_file import FILE as COMPARISONS
from reports.comparisons_file import keep_comparisons
from reports.vetoes_file import FILE as VETOES
from reports.vetoes_file import VetoFile
from rollout.agreement import fresh, plain, with_measured
from rollout.agreement_limits import OutputLimits
from rollout.answers import Comparison
from rollout.json_text import json_text
from rollout.nouns import Phase
from rollout.recorded import Batch
from rollout.vetoes import Reading
from store.port import Release, ServiceState, StoreSettings, open_store

app = typer.Typer()
app.command()(replay)
WIDE = (
    "margins: {ttft: {harm: 2, allow: 3}, tpot: {harm: 2, allow: 3}, errors: {harm_ratio: 2, allow_percent: 25},"
    " refusals: null, abandoned: 0}\n"
)
LOSS = Comparison(1.0, 1.0, None, 1.0, (-10.0, -13.0, 10))  # 1.35 times the perplexity
ANSWERS = Batch((LOSS,) * 40, sets=("bundled",), prompts=40, asked=40)


@pytest.fixture
def home(tmp_path) -> Path:
    """A stack's, with a release of good requests, of an age that kept neither comparisons nor values of vetoes."""
    store = open_store(StoreSettings(f"sqlite:///{tmp_path / 'roundhouse.db'}"))
    store.put_service(ServiceState("chat"))
    store.begin_release(Release("chat-1", "chat", "models:/m/2", Phase.PENDING), 1.0, 60.0)
    store.update_release("chat-1", candidate=2, stable_before=1)
    folder(tmp_path).mkdir(parents=True)
    store.finish_release("chat-1", Phase.PROMOTED, "all good", 900.0, past_release(folder(tmp_path)))
    (folder(tmp_path) / "outputs.json").unlink()
    return tmp_path


def folder(home: Path) -> Path:
    return home / "reports" / "chat-1"


def replayed(home: Path, rules: str, *words: str) -> str:
    """What the command writes to stdout, under a policy of these lines."""
    (home / "other.yaml").write_text(f"kind: rollout\nsteps_percent: [5, 25]\n{WIDE}{rules}")
    called = ["chat", "--policy", str(home / "other.yaml"), *words]
    done = CliRunner().invoke(app, called, env={"ROUNDHOUSE_HOME": str(home), "COLUMNS": "240"})
    if done.exception is not None:
        raise done.exception
    return done.stdout


def test_what_an_older_release_does_not_tell_is_told_and_promotes_nobody(home):
    """In words and for a script, part by part; the same policy without them promotes."""
    assert "promote after" in replayed(home, "")
    asks = "outputs: {}\nprometheus: http://127.0.0.1:9\nvetoes: [{name: hot gpu, query: temp, above: 80}]\n"
    shown = replayed(home, asks)
    assert "not judged again: outputs: no answers were compared in it" in shown
    assert "not judged again: veto hot gpu: the release keeps no values of vetoes" in shown
    assert "not yet decidable after" in shown and "outputs, veto hot gpu could not be judged again" in shown
    told = json.loads(replayed(home, asks, "--json"))["replay"]
    assert [part["what"] for part in told["not_judged"]] == ["outputs", "veto hot gpu"]
    assert told["outcome"] == "not yet decidable"


def test_kept_answers_and_values_decide_under_the_other_policys_limits(home):
    """The files of the release itself: good by some limits, ended by others."""
    keep_comparisons(folder(home) / COMPARISONS, ANSWERS)
    values = VetoFile(folder(home) / VETOES)
    values.begin(["temp"])
    for n in range(400):
        values.append(T0 + 2 * n, [Reading({"gpu=0": 75.0, "gpu=1": 60.0})])
    veto = "prometheus: http://127.0.0.1:9\nvetoes: [{name: hot gpu, query: temp, above: %d}]\n"
    good = replayed(home, "outputs: {}\n" + veto % 80)
    assert "promote after" in good and "not judged again" not in good
    assert "veto hot gpu: 75 at gpu=0, the worst of 2 series, above 70" in replayed(home, veto % 70)
    ended = replayed(home, "outputs: {perplexity_harm: 1.1, perplexity_allow: 1.2}\n")
    assert "roll back after 0 requests" in ended and "before traffic" in ended


def test_a_release_that_ended_before_any_request_is_judged_by_its_answers(home):
    """It kept no sample at all; a file of sums that is no JSON is told."""
    for path in folder(home).iterdir():
        path.unlink()
    keep_comparisons(folder(home) / COMPARISONS, ANSWERS)
    assert "no users' requests were compared in it" in replayed(home, "outputs: {}\n")
    (folder(home) / COMPARISONS).unlink()
    sums = with_measured(fresh(OutputLimits()), ANSWERS.comparisons)
    (folder(home) / "outputs.json").write_text(json_text({"agreement": plain(sums)}))
    assert asdict(sums)["totals"]["prompts"] == 40
    assert "an older release" in replayed(home, "outputs: {perplexity_harm: 1.1, perplexity_allow: 1.2}\n")


def test_a_file_of_sums_that_cannot_be_read_is_told(home):
    """And nobody is promoted for it."""
    (folder(home) / "outputs.json").write_text('{"agreement": {')
    shown = replayed(home, "outputs: {}\n")
    assert "not judged again: outputs: " in shown and "outputs.json cannot be read" in shown
    assert "not yet decidable after" in shown
