"""Tokens: made once, listed without their secrets, replaced with an overlap, ended; kept in one private file."""

from __future__ import annotations

import json
import os
import stat
import threading

import pytest

from gateway.port import Token
from gateway.tokens import TokenFile, fingerprint
from rollout.errors import Conflict, Corrupt, NotFound, Refused


class Clock:
    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    """A clock that is turned by hand."""
    return Clock()


@pytest.fixture
def tokens(tmp_path, clock):
    """A file with no token yet."""
    return TokenFile(tmp_path / "secrets" / "tokens.json", clock)


def test_a_token_opens_its_door_until_its_end(tokens, clock):
    """Time is an argument; other doors have nothing of it."""
    made = tokens.create("chat", "alice", may_pin=True, until=clock.now + 60)
    assert tokens.of("chat") == (made,) and tokens.of("prod") == ()
    assert made.may_pin and made.secret.startswith("rh-") and made.secret not in repr(made)
    assert tokens.of("chat", clock.now + 59) == (made,) and tokens.of("chat", clock.now + 60) == ()
    assert tokens.doors(clock.now + 60) == {"chat": ()}


def test_a_client_has_one_token_unless_it_is_rotated(tokens, clock):
    """A second one is refused, with the way; an ended one does not count."""
    tokens.create("chat", "alice", until=clock.now + 1)
    with pytest.raises(Conflict, match="rotate chat --client alice"):
        tokens.create("chat", "alice")
    clock.now += 1
    assert tokens.create("chat", "alice").until is None


def test_a_rotated_token_opens_for_the_overlap(tokens, clock):
    """Old and new together, then the new one alone, with the same rights; no overlap ends the old one at once."""
    old = tokens.create("chat", "alice", may_pin=True)
    new = tokens.rotate("chat", "alice", 3600)
    assert new.may_pin and new.secret != old.secret
    assert {t.secret for t in tokens.of("chat")} == {old.secret, new.secret}
    assert tokens.of("chat", clock.now + 3600) == (new,)
    newest = tokens.rotate("chat", "alice", 0)
    assert tokens.of("chat")[-1] == newest and new not in tokens.of("chat")
    clock.now += 3600
    tokens.create("chat", "bob")
    assert [t.client for t in tokens.listed("chat")] == ["alice", "bob"]


def test_a_token_is_revoked_by_client_or_fingerprint(tokens):
    """Only what was named; something unknown is told with what there is."""
    first, second = tokens.create("chat", "alice"), tokens.rotate("chat", "alice", 60)
    tokens.create("chat", "bob")
    assert tokens.revoke("chat", fingerprint(second.secret)) == 1
    assert [t.client for t in tokens.of("chat")] == ["alice", "bob"] and tokens.of("chat")[0].secret == first.secret
    assert tokens.revoke("chat", "alice") == 1
    with pytest.raises(NotFound, match="bob"):
        tokens.revoke("chat", "alice")
    with pytest.raises(NotFound, match="bob"):
        tokens.rotate("chat", "alice", 60)


def test_a_list_shows_no_secret(tokens, clock):
    """A fingerprint tells tokens apart."""
    made = tokens.create("chat", "alice", until=clock.now + 5)
    (entry,) = tokens.listed("chat")
    assert (entry.client, entry.fingerprint, entry.until) == ("alice", fingerprint(made.secret), clock.now + 5)
    assert entry.created_at == clock.now and made.secret not in repr(entry)


def test_the_stacks_own_calls_use_its_newest_token(tokens):
    """The client `default`, also after a rotation; without one the way to it is told."""
    tokens.create("chat", "alice")
    with pytest.raises(NotFound, match="token create chat --client default"):
        tokens.secret("chat")
    assert tokens.ensure("chat") == tokens.ensure("chat")
    new = tokens.rotate("chat", "default", 60)
    assert tokens.secret("chat") == new.secret


@pytest.mark.parametrize("client", ["", "a b", "x" * 101, "../x"])
def test_a_clients_name_is_checked(tokens, client):
    """It stands in records and in the proxy's configuration."""
    with pytest.raises(Refused, match="client"):
        tokens.create("chat", client)


def test_an_end_in_the_past_and_a_wrong_overlap_are_refused(tokens, clock):
    """Nothing is written then."""
    with pytest.raises(Refused, match="until"):
        tokens.create("chat", "alice", until=clock.now)
    with pytest.raises(Refused, match="overlap"):
        tokens.rotate("chat", "alice", -1)
    assert tokens.serial() == 0


def test_the_first_form_of_the_file_still_reads(tmp_path):
    """Clients and secrets alone; the next change writes today's form."""
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps({"chat": [{"client": "default", "secret": "rh-of-old-days"}]}))
    tokens = TokenFile(path)
    assert tokens.of("chat") == (Token("default", "rh-of-old-days"),) and tokens.secret("chat") == "rh-of-old-days"
    assert tokens.listed("chat")[0].created_at is None
    tokens.create("chat", "alice")
    assert TokenFile(path).secret("chat") == "rh-of-old-days" and len(TokenFile(path).of("chat")) == 2


def test_the_file_is_private_and_its_serial_grows(tokens, tmp_path):
    """Nobody else reads it; each change has a number above the last, also after the file was lost."""
    serials = [tokens.serial()]
    for change in (
        lambda: tokens.ensure("chat"),
        lambda: tokens.create("chat", "a"),
        lambda: tokens.revoke("chat", "a"),
    ):
        change()
        serials.append(tokens.serial())
    path = tmp_path / "secrets" / "tokens.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and sorted(set(serials)) == serials
    path.unlink()
    assert tokens.of("chat") == () and tokens.serial() == 0


def test_another_processs_change_is_seen_and_no_change_costs_no_reading(tokens, tmp_path):
    """The same tokens are the same values while the file is the same one."""
    made = tokens.create("chat", "alice")
    other = TokenFile(tmp_path / "secrets" / "tokens.json")
    assert other.of("chat", 0.0)[0] is other.of("chat", 0.0)[0]
    tokens.revoke("chat", "alice")
    assert made not in other.of("chat", 0.0)


def test_a_broken_file_is_told_without_showing_it(tokens, tmp_path):
    """Nobody is locked out by mistake: the reader learns of it, and nothing is written over it."""
    tokens.create("chat", "alice")
    path = tmp_path / "secrets" / "tokens.json"
    path.write_text('{"doors": {"chat": [{"client": "alice", "secret": "rh-hidden-value"')
    for verb in (lambda: tokens.of("chat"), lambda: tokens.ensure("prod"), lambda: tokens.revoke("chat", "alice")):
        with pytest.raises(Corrupt) as told:
            verb()
        assert "tokens.json" in str(told.value) and "hidden" not in str(told.value)
    assert "hidden" in path.read_text() and os.listdir(path.parent).count("tokens.json") == 1


def test_many_at_once_lose_no_token(tmp_path):
    """Each change is made on what the one before has left."""
    path = tmp_path / "tokens.json"
    threads = [threading.Thread(target=TokenFile(path).create, args=("chat", f"c{n}")) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(TokenFile(path).of("chat")) == 12
