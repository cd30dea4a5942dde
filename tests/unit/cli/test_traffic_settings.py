"""`roundhouse token | group | apply` on a store of their own, with an agent whose gateway carries no traffic."""

from __future__ import annotations

import json
import threading
import time

import pytest
import yaml
from history import deployed, promoted
from typer.testing import CliRunner

from agent.parts import Parts
from agent.reconcile import Reconciler
from cli.durations import seconds
from cli.main import app
from engines.port import MemorySettings
from gateway.memory import MemoryGateway
from gateway.tokens import TokenFile, fingerprint
from platforms.memory import MemoryPlatform
from rollout.errors import Conflict, NotFound, Refused
from store.port import ServiceState, StoreSettings, open_store
from store.steer import NotTaken


def service(name, **values):
    return {"kind": "service", "name": name, "model": f"model-of-{name}", **values}


class Gateway(MemoryGateway):
    """Also tells what it was given, tokens and all."""

    def apply(self, state):
        applied = super().apply(state)
        self.given = state
        return applied


class Silent:
    """Probes of instances that there are none of."""

    def health(self, url):
        return False, 0.0

    def warm_up_result(self, instance_id):
        return None, ""

    def forget(self, url, instance_id):
        """Nothing was kept."""


class Stack:
    """A project with two services in service, and the command line on it."""

    def __init__(self, folder):
        self.project, self.home = folder / "project", folder / "home"
        (self.project / "configs" / "services").mkdir(parents=True)
        (self.project / "configs" / "groups").mkdir()
        self.write("stack", "", {"kind": "stack"})
        self.store = open_store(StoreSettings(f"sqlite:///{self.home / 'roundhouse.db'}"))
        self.tokens, self.gateway = TokenFile(self.home / "secrets" / "tokens.json"), Gateway()
        for name in ("chat", "other"):
            self.write(name, "services", service(name))
            self.store.put_service(ServiceState(name))
            promoted(self.store, deployed(self.store, name, instances=0), name)
        self.tokens.ensure("chat")

    def write(self, name, folder, values):
        (self.project / "configs" / folder / f"{name}.yaml").write_text(yaml.safe_dump(values))

    def run(self, *words):
        variables = {
            "ROUNDHOUSE_PROJECT": str(self.project),
            "ROUNDHOUSE_HOME": str(self.home),
            "ROUNDHOUSE_STACK": str(self.project / "configs" / "stack.yaml"),
            "ROUNDHOUSE_DATABASE_URL": f"sqlite:///{self.home / 'roundhouse.db'}",
        }
        done = CliRunner().invoke(app, list(words), env=variables)
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.stdout

    def json(self, *words):
        return json.loads(self.run(*words, "--json"))

    def keys(self, door):
        doors = {d.name: d.tokens for d in (*self.gateway.given.services, *self.gateway.given.groups)}
        return [token.secret for token in doors[door]]

    def turn(self, stop):
        parts = Parts(
            store=self.store,
            platform=MemoryPlatform(time.time),
            gateway=self.gateway,
            engines=MemorySettings(),
            tokens=TokenFile(self.home / "secrets" / "tokens.json"),
            probes=Silent(),
            ports=range(18100, 18110),
            port_free=lambda port, host: True,
        )
        loop = Reconciler(parts)
        while not stop.wait(0.02):
            loop.tick()


@pytest.fixture
def stack(tmp_path):
    """A stack whose agent runs."""
    stack, stop = Stack(tmp_path), threading.Event()
    thread = threading.Thread(target=stack.turn, args=(stop,))
    thread.start()
    yield stack
    stop.set()
    thread.join()


def test_a_token_is_shown_once_and_opens_at_once(stack):
    """Its listing has a fingerprint, rights and an end, and no secret."""
    made = stack.json("token", "create", "chat", "--client", "alice", "--may-pin", "--for", "30d")
    assert made["secret"] in stack.keys("chat") and made["confirmed"] and made["may_pin"]
    listed = stack.run("token", "ls", "chat", "--json")
    assert made["secret"] not in listed
    entry = next(e for e in json.loads(listed) if e["client"] == "alice")
    assert entry["fingerprint"] == made["fingerprint"] == fingerprint(made["secret"])
    assert entry["until"] - entry["created_at"] == pytest.approx(30 * 86_400, abs=1)
    assert made["secret"] not in stack.run("token", "ls", "chat")


def test_a_rotated_and_a_revoked_token(stack):
    """The overlap keeps both; what was revoked is out of the gateway when the command returns."""
    first = stack.run("token", "create", "chat", "--client", "alice").strip()
    second = stack.run("token", "rotate", "chat", "--client", "alice", "--overlap", "1h").strip()
    assert {first, second} < set(stack.keys("chat"))
    assert stack.json("token", "revoke", "chat", "--client", fingerprint(first))["revoked"] == 1
    assert first not in stack.keys("chat") and second in stack.keys("chat")
    stack.run("token", "revoke", "chat", "--client", "alice")
    assert second not in stack.keys("chat")
    with pytest.raises(NotFound, match="alice"):
        stack.run("token", "revoke", "chat", "--client", "alice")


def test_the_stacks_own_token_is_there_for_a_first_call(stack):
    """As a key or as a header for curl."""
    secret = stack.tokens.secret("chat")
    assert stack.run("token", "show", "chat") == f"{secret}\n"
    assert stack.run("token", "show", "chat", "--header") == f"Authorization: Bearer {secret}\n"


def test_tokens_of_what_is_not_there_are_refused(stack):
    """Also a second one of a client, and a duration that is none; nothing is made."""
    with pytest.raises(NotFound, match="nosuch"):
        stack.run("token", "create", "nosuch", "--client", "a")
    with pytest.raises(Conflict, match="rotate"):
        stack.run("token", "create", "chat", "--client", "default")
    with pytest.raises(Refused, match="30 days"):
        stack.run("token", "create", "chat", "--client", "a", "--for", "30 days")
    assert [t.client for t in stack.tokens.listed("chat")] == ["default"]


@pytest.mark.parametrize(("text", "expected"), [("90", 90), ("90s", 90), ("15m", 900), ("1.5h", 5400), ("2d", 172_800)])
def test_durations_have_a_unit(text, expected):
    """Seconds without one."""
    assert seconds("--for", text) == expected


def test_a_group_is_made_weighed_and_dropped(stack):
    """Each step is in force when its command returns; a dropped group's tokens are gone too."""
    stack.run("group", "set", "prod", "chat=70", "other=30", "--sticky", "header:x-user")
    group = stack.gateway.given.groups[0]
    assert [(m.service, m.weight) for m in group.members] == [("chat", 70), ("other", 30)]
    assert group.sticky.name == "x-user" and stack.keys("prod") == [stack.tokens.secret("prod")]
    stack.run("group", "weight", "prod", "other", "5")
    assert [m.weight for m in stack.gateway.given.groups[0].members] == [70, 5]
    stack.run("group", "weight", "prod", "other", "--standalone")
    assert [m.weight for m in stack.gateway.given.groups[0].members] == [70, None]
    assert stack.json("group", "show", "prod")["stable"] == {"chat": 1, "other": 1}
    assert "alone" in stack.run("group", "ls") and "other" in stack.run("group", "show", "prod")
    assert stack.json("group", "drop", "prod")["dropped"]
    assert stack.gateway.given.groups == () and stack.tokens.of("prod") == () and stack.store.groups() == []


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (("set", "prod", "chat=1", "other"), "either all members"),
        (("set", "prod", "chat=-1"), "whole number"),
        (("set", "prod", "chat", "--sticky", "moon:x"), "header:NAME"),
        (("set", "chat", "other"), "services"),
        (("weight", "prod", "chat"), "--standalone"),
    ],
)
def test_a_group_that_makes_no_sense_is_refused(stack, words, refusal):
    """And nothing is changed."""
    with pytest.raises(Refused, match=refusal):
        stack.run("group", *words)
    assert stack.store.groups() == []


def test_a_group_that_the_gateway_refuses_is_taken_back(stack):
    """The caller learns the reason, and what was before holds."""
    stack.run("group", "set", "prod", "chat=1")
    with pytest.raises(NotTaken, match="x-client-id"):
        stack.run("group", "set", "prod", "chat=2", "--sticky", "header:x-client-id")
    assert stack.store.group("prod").members[0].weight == 1 and stack.store.group("prod").sticky is None
    with pytest.raises(NotTaken):
        stack.run("group", "set", "fresh", "chat=2", "--sticky", "header:x-client-id")
    assert [g.name for g in stack.store.groups()] == ["prod"]


def test_changed_files_are_applied_without_a_release(stack):
    """Settings and groups; first shown, then put in force; a second time there is nothing to do."""
    stack.write("chat", "services", service("chat", response_timeout_s=9, limits={"in_flight": 8}))
    group = {"kind": "group", "name": "prod", "mode": "custom", "members": [{"service": "chat", "weight": 1}]}
    stack.write("prod", "groups", group)
    shown = stack.json("apply", "--dry-run")
    assert not shown["applied"] and stack.store.groups() == []
    fields = {(c["name"], c["field"], json.dumps(c["then"])) for c in shown["changes"]}
    assert ("chat", "response_timeout_s", "9.0") in fields and ("prod", "mode", '"custom"') in fields
    assert "in force" in stack.run("apply")
    chat = stack.gateway.given.services[0]
    assert (chat.response_timeout_s, chat.traffic.limits.in_flight, chat.stable) == (9.0, 8, 1)
    assert stack.gateway.given.groups[0].members[0].weight == 1 and len(stack.keys("prod")) == 1
    assert stack.json("apply")["changes"] == [] and "nothing to change" in stack.run("apply")


def test_what_was_never_released_waits(stack):
    """Its first release brings its settings; a group waits for all its members; the rest is applied."""
    stack.write("new", "services", service("new"))
    stack.write("prod", "groups", {"kind": "group", "name": "prod", "members": [{"service": "new"}]})
    told = stack.json("apply")
    assert [s.name for s in stack.store.services()] == ["chat", "other"] and stack.store.groups() == []
    assert len(told["waiting"]) == 2 and "first release of new" in told["waiting"][1]


def test_one_wrong_file_and_nothing_is_applied(stack):
    """All files are read before anything is changed."""
    stack.write("chat", "services", service("chat", response_timeout_s=9))
    stack.write("other", "services", service("other", balance="fastest"))
    with pytest.raises(Refused, match="fastest"):
        stack.run("apply")
    assert stack.store.service("chat").response_timeout_s == 5.0
