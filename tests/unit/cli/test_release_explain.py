"""``roundhouse release explain`` and ``policy replay``, beside ``roundhouse release SERVICE``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "reports"))
from past_release import past_release

from cli import policy_replay, release_approve, release_commands, release_explain
from cli.release_group import ReleaseGroup
from reports.files import put
from reports.head import NOTED
from rollout.errors import NotFound, Refused
from rollout.nouns import Phase
from store.port import BY_HAND, Release, ServiceState, StoreSettings, VersionState, open_store

app = typer.Typer()
group = typer.Typer(cls=ReleaseGroup, no_args_is_help=True)
group.command("start", hidden=True)(release_commands.release)
group.command()(release_explain.explain)
app.add_typer(group, name="release")
policies = typer.Typer(no_args_is_help=True)
policies.command()(policy_replay.replay)
policies.command("none", hidden=True)(release_approve.approve)
app.add_typer(policies, name="policy")


def called(home: Path, *words: str) -> str:
    """What the command writes to stdout."""
    done = CliRunner().invoke(app, [*words], env={"ROUNDHOUSE_HOME": str(home), "COLUMNS": "240"})
    if done.exception is not None:
        raise done.exception
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A stack's, with a release that was rolled back, and one before it of which little is left."""
    home = tmp_path_factory.mktemp("home")
    store = open_store(StoreSettings(f"sqlite:///{home / 'roundhouse.db'}"))
    store.put_service(ServiceState("chat"))
    for number, name in enumerate(("chat-0aaa", "chat-1f0c2ab3"), 1):
        store.begin_release(Release(name, "chat", f"models:/m/{number}", Phase.PENDING), number, 60.0)
        if number == 2:
            store.update_release(name, candidate=2, stable_before=1)
            folder = home / "reports" / name
            folder.mkdir(parents=True)
            evidence = past_release(folder, 1.3)
            store.finish_release(name, Phase.ROLLED_BACK, evidence["reason"], 900.0, evidence)
        else:
            store.finish_release(name, Phase.FAILED, "the build broke", 2.0, {})
    for number, (name, stage) in enumerate((("hand-1f", BY_HAND), ("back-2e", "put back")), 3):
        store.begin_release(Release(name, "chat", "models:/m/1", Phase.PENDING, stage=stage), number, 60.0)
        store.finish_release(name, Phase.DEPLOYED, "nobody judged this", number, {})
    return home


@pytest.mark.parametrize("name", ["chat", "chat-1f", "chat-1f0c2ab3"])
def test_a_release_is_told_by_its_id_its_beginning_or_its_service(home, name):
    """Decision, reason, evidence, worst part and the answers that differ, in a terminal."""
    shown = called(home, "release", "explain", name)
    assert "Rolled back: version 2 of chat" in shown and "TTFT of the candidate is 1.3" in shown
    assert "mirror 240 s → canary 5 % 240 s" in shown and "the same up to token 12" in shown


def test_a_script_gets_the_record_and_the_page_is_written(home, tmp_path):
    """JSON alone on stdout; the page where it was asked for."""
    told = json.loads(called(home, "release", "explain", "chat", "--json", "--html", str(tmp_path / "page.html")))
    assert told["outcome"] == "rolled back" and told["metrics"]["TTFT"]
    assert "Rolled back" in (tmp_path / "page.html").read_text()


def test_a_release_without_files_is_told_too(home):
    """What the store knows."""
    assert "the build broke" in called(home, "release", "explain", "chat-0aaa")


def test_what_is_not_one_release_is_refused(home):
    """None, or several, or no first word that is a command or a service."""
    with pytest.raises(NotFound, match="no release"):
        called(home, "release", "explain", "other")
    with pytest.raises(Refused, match="2 releases begin so"):
        called(home, "release", "explain", "chat-")


def test_a_first_word_that_is_no_command_starts_a_release(home):
    """``roundhouse release SERVICE`` is what it was: here with no such service, options before or after."""
    for words in (["nobody-here"], ["nobody-here", "--no-wait"], ["--rollout", "fast", "nobody-here"]):
        with pytest.raises(NotFound, match="nobody-here"):
            called(home, "release", *words)
    assert "explain" in called(home, "release", "--help")


def test_a_past_release_is_judged_again(home, tmp_path):
    """Under a policy by its path, beside what was decided; refused where no requests were kept."""
    path = tmp_path / "other.yaml"
    path.write_text("kind: rollout\nsteps_percent: [5, 25]\nmargins: {ttft: {harm: 2, allow: 3}}\n")
    told = json.loads(called(home, "policy", "replay", "chat", "--policy", str(path), "--json"))
    assert told["was"]["outcome"] == "rolled back" and told["replay"]["outcome"] != "roll back"
    shown = called(home, "policy", "replay", "chat-1f", "--policy", str(path))
    assert "was rolled back" in shown and "canary 25 %" in shown
    with pytest.raises(NotFound, match="no samples"):
        called(home, "policy", "replay", "chat-0aaa", "--policy", str(path))


def test_a_release_is_found_however_many_came_after_it():
    """By its id; a service's latest also where others release all the time."""
    store = open_store(StoreSettings("sqlite://"))
    for at, (name, service) in enumerate([("old-1", "old"), *((f"chat-{n}", "chat") for n in range(1001))]):
        store.begin_release(Release(name, service, "models:/m/1", Phase.PENDING), float(at), 60.0)
        store.finish_release(name, Phase.FAILED, "as drawn", float(at), {})
    assert release_explain.found(store, "old-1").id == release_explain.found(store, "old").id == "old-1"
    assert release_explain.found(store, "chat").id == "chat-1000"


def test_what_was_done_by_hand_is_no_release_of_the_service():
    """It is found by its id alone; a service with nothing else has had no release."""
    store = open_store(StoreSettings("sqlite://"))
    store.begin_release(Release("hand-1f", "chat", "models:/m/1", Phase.PENDING, stage=BY_HAND), 1.0, 60.0)
    assert release_explain.found(store, "hand-1f").id == "hand-1f"
    with pytest.raises(NotFound, match="no service of that name has had one"):
        release_explain.found(store, "chat")


def test_a_release_under_way_says_what_people_answered(tmp_path):
    """Before its own run has written it down."""
    store = open_store(StoreSettings(f"sqlite:///{tmp_path / 'roundhouse.db'}"))
    store.begin_release(Release("chat-1", "chat", "models:/m/1", Phase.PENDING), 1.0, 60.0)
    number = store.ask("chat-1", "go on with canary 5 %?", "mirror: approval").asked
    store.answer("chat-1", True, "mia", "looks right", number, 2.0)
    assert "mia said yes" in called(tmp_path, "release", "explain", "chat")


def test_a_release_that_was_killed_is_told_with_its_policy(tmp_path):
    """Before anybody wrote of it: its order from its folder, model and engine from its candidate."""
    store = open_store(StoreSettings(f"sqlite:///{tmp_path / 'roundhouse.db'}"))
    store.put_service(ServiceState("chat"))
    store.begin_release(Release("chat-1", "chat", "models:/m@candidate", Phase.PENDING), 1.0, 60.0)
    store.add_version(VersionState("chat", 0, "models:/m/7", {"digest": "d" * 64}, {}, 1), "chat-1")
    put(tmp_path / "reports" / "chat-1" / NOTED, json.dumps({"policy": "careful", "engine_name": "q4_0"}))
    shown = called(tmp_path, "release", "explain", "chat")
    assert "policy careful" in shown and f"engine q4_0 {'d' * 16}" in shown and "models:/m/7" in shown


def test_a_replay_keeps_the_times_of_the_policy(home, tmp_path):
    """Time that is up ends it, and a person who would be asked is told of."""
    path, steps = tmp_path / "other.yaml", "kind: rollout\nsteps_percent: [5, 25]\nmin_samples: 100000\nmax_s: 100\n"
    path.write_text(f"{steps}margins: {{ttft: null, tpot: null}}\nstep_timeout_s: 60\n")
    assert "not decidable within 60 s of mirror" in called(home, "policy", "replay", "chat", "--policy", str(path))
    path.write_text(f"{steps}margins: {{ttft: null, tpot: null}}\non_timeout: ask\n")
    shown = called(home, "policy", "replay", "chat", "--policy", str(path))
    assert "a person would be asked after 100 s: go on with canary 5 % all the same?" in shown
