"""Keys on the command line: not lost when something else is refused, and refused before anything is made."""

from __future__ import annotations

import json
import threading

import pytest
from typer.testing import CliRunner

from cli.putting import put_all
from cli.token_commands import app
from gateway.signed import MOST_TOKENS
from gateway.tokens import TokenFile
from rollout.errors import Refused
from store.port import Group, GroupMember, InForce, Observed, ServiceState, StoreSettings, open_store
from store.steer import NotTaken


@pytest.fixture
def store(tmp_path):
    """Services chat and other, of which chat takes signatures, and a group of both."""
    store = open_store(StoreSettings(f"sqlite:///{tmp_path / 'roundhouse.db'}"))
    store.put_service(ServiceState("chat", traffic={"signed": True}))
    store.put_service(ServiceState("other"))
    store.put_group(Group("prod", (GroupMember("chat", 1), GroupMember("other", 1)), "custom"))
    return store


@pytest.fixture
def agent(store):
    """Says of everything that it is in force, as the real one does; errors stand where they were put."""
    stop = threading.Event()

    def run():
        while not stop.wait(0.01):
            store.put_in_force(InForce(store.revision(), 10**17, 1.0))

    thread = threading.Thread(target=run)
    thread.start()
    yield
    stop.set()
    thread.join()


@pytest.fixture
def tokens(tmp_path):
    """The token file of that stack."""
    return TokenFile(tmp_path / "secrets" / "tokens.json")


@pytest.fixture
def run(tmp_path):
    """The command line on that stack."""
    return lambda *words: CliRunner().invoke(app, list(words), env={"ROUNDHOUSE_HOME": str(tmp_path), "COLUMNS": "200"})


def test_a_new_secret_is_printed_also_when_the_door_has_an_error(store, agent, tokens, run):
    """The reason is told beside it: the token was made, and there is no second chance to see it."""
    store.put_observed(Observed("other", 1, None, "r", 1.0, "Envoy says no"))
    done = run("create", "other", "--client", "alice", "--json")
    (made,) = tokens.of("other")
    told = json.loads(done.stdout)
    assert (told["secret"], told["confirmed"]) == (made.secret, False) and "Envoy says no" in done.stderr
    assert tokens.rotate("other", "alice", 0).secret != made.secret
    done = run("rotate", "other", "--client", "alice")
    assert done.exit_code == 0 and tokens.of("other")[-1].secret in done.stdout


def test_a_revocation_is_done_when_the_gateway_has_the_tokens(store, agent, tokens, run):
    """What else of the door or of others was refused does not make it a failure."""
    tokens.create("other", "alice")
    store.put_observed(Observed("other", 1, None, "r", 1.0, "Envoy says no"))
    assert run("revoke", "other", "--client", "alice").exit_code == 0
    assert tokens.of("other") == ()


def test_a_token_that_is_too_many_for_signatures_is_not_made(store, agent, tokens, run):
    """Of a service that takes them, and of a group with such a member; one that is replaced at once is none more."""
    for door in ("chat", "prod"):
        for n in range(MOST_TOKENS):
            tokens.create(door, f"c{n}")
        before = tokens.serial()
        for words in (("create", door, "--client", "x"), ("rotate", door, "--client", "c1")):
            error = run(*words).exception
            assert isinstance(error, Refused) and "at most 64 tokens" in error.rule and "`signed` off" in error.fix
        assert tokens.serial() == before
        assert run("rotate", door, "--client", "c1", "--overlap", "0").exit_code == 0
        tokens.revoke(door, "c2")
        assert run("create", door, "--client", "x").exit_code == 0


def test_a_groups_token_cannot_pin(store, tokens, run):
    """A version is named at a service's own path; nothing is made."""
    done = run("create", "prod", "--client", "alice", "--may-pin")
    assert isinstance(done.exception, Refused) and "--may-pin" in str(done.exception)
    assert tokens.of("prod") == ()


def test_a_group_of_an_earlier_name_begins_with_no_earlier_token(store, agent, tokens):
    """Also one that the gateway then refuses leaves none behind; a service's are not touched."""
    old, own = tokens.create("fresh", "alice"), tokens.create("other", "alice")
    group = Group("fresh", (GroupMember("other", 1),), "custom")
    put_all(store, tokens, [], [group])
    assert old not in tokens.of("fresh") and len(tokens.of("fresh")) == 1
    store.drop_group("fresh")
    store.put_observed(Observed("fresh", None, None, "r", 1.0, "Envoy says no"))
    with pytest.raises(NotTaken):
        put_all(store, tokens, [], [group])
    assert tokens.of("fresh") == () and group not in store.groups()
    with pytest.raises(Refused):
        put_all(store, tokens, [], [Group("other", ())])
    assert tokens.of("other") == (own,)
