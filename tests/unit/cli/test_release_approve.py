"""``roundhouse release approve`` and ``reject``: a person's answer reaches the release that asked, and nothing else."""

from __future__ import annotations

import getpass
import json

import pytest
from history import begun
from typer.testing import CliRunner

from cli.main import app
from cli.stack_status import questions
from rollout.errors import Conflict, NotFound, Refused
from rollout.nouns import Phase
from store.port import ServiceState, Store, StoreSettings, open_store


@pytest.fixture
def store(tmp_path) -> Store:
    """A stack's, with one service."""
    store = open_store(StoreSettings(f"sqlite:///{tmp_path / 'roundhouse.db'}"))
    store.put_service(ServiceState("chat"))
    return store


def called(tmp_path, *words: str) -> str:
    """What the command writes to stdout."""
    done = CliRunner().invoke(app, ["release", *words], env={"ROUNDHOUSE_HOME": str(tmp_path)})
    if done.exception is not None:
        raise done.exception
    return done.stdout


@pytest.mark.parametrize(("command", "yes"), [("approve", True), ("reject", False)])
def test_an_answer_is_kept_with_who_gave_it_and_why(store, tmp_path, command, yes):
    """It is shown what was asked, and the release hears the answer."""
    name = begun(store).id
    store.ask(name, "Promote version 2?", "canary 50 %: approval")
    shown = called(tmp_path, command, name, "--question", "1", "--reason", "the answers look right")
    answer = store.release(name).answer
    assert "Promote version 2?" in shown and f"said {'yes' if yes else 'no'}" in shown
    assert (answer["yes"], answer["who"], answer["reason"]) == (yes, getpass.getuser(), "the answers look right")


def test_a_script_gets_the_answer_as_json(store, tmp_path):
    """The release, the question, and all that was answered."""
    name = begun(store).id
    store.ask(name, "Go on?", "mirror 20 %: approval")
    told = json.loads(called(tmp_path, "approve", name, "--question", "1", "--json"))
    assert (told["release"], told["question"], told["yes"], told["reason"]) == (name, "Go on?", True, "")


def test_what_asks_nothing_takes_no_answer(store, tmp_path):
    """A release that goes on by itself, one that was answered, one that has ended, one that never was."""
    name = begun(store).id
    with pytest.raises(Conflict, match="asks nothing now"):
        called(tmp_path, "approve", name)
    store.ask(name, "Go on?", "mirror 20 %: approval")
    called(tmp_path, "approve", name, "--question", "1")
    with pytest.raises(Conflict, match=r"said yes to: Go on\?"):
        called(tmp_path, "reject", name)
    store.finish_release(name, Phase.PROMOTED, "good", 4.0, {})
    with pytest.raises(Conflict, match="has ended"):
        called(tmp_path, "reject", name)
    with pytest.raises(NotFound):
        called(tmp_path, "approve", "nobody")
    assert store.release(name).answer["yes"] is True


def test_the_status_names_releases_that_wait(store):
    """With the question and how to answer; no more once somebody did."""
    name = begun(store).id
    assert questions(store) == []
    store.ask(name, "Promote version 2?", "canary 50 %: approval")
    (line,) = questions(store)
    assert (line.health, line.name) == ("waiting", f"release {name}")
    assert (
        line.detail.startswith("Promote version 2? ")
        and f"`roundhouse release approve {name} --question 1`" in line.detail
    )
    store.answer(name, True, "alice", "", 1)
    assert questions(store) == []


def test_only_the_question_that_was_read_is_answered(store, tmp_path):
    """A yes that was meant for the canary promotes nothing, and without a number a script is told what is asked."""
    name = begun(store).id
    store.ask(name, "Go on with canary 50 %?", "mirror 20 %: approval")
    with pytest.raises(Refused, match=r"--question 1.*canary 50 %"):
        called(tmp_path, "approve", name)
    called(tmp_path, "approve", name, "--question", "1")
    store.ask(name, "Promote?", "canary 50 %: approval")
    with pytest.raises(Conflict, match=r"question 2: Promote\?"):
        called(tmp_path, "approve", name, "--question", "1")
    assert (store.release(name).waiting, store.release(name).answer) == ("Promote?", None)
