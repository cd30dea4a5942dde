"""Moving traffic by hand, looking at it and taking it back, on a store whose agent is a hand-turned one."""

from __future__ import annotations

import json
import threading
import time

import pytest
from history import begun, deployed, promoted
from typer.testing import CliRunner

from cli.stack_commands import well
from cli.stack_status import traffic_alarms
from cli.traffic_commands import app, history_lines
from cli.traffic_move import (
    Held,
    check_drain,
    hold,
    instance_of,
    mirrored,
    open_requests,
    pin_line,
    running_version,
    wait_drained,
)
from cli.traffic_show import InForce, asked_text, group_row, sentences, service_row, split_text
from cli.traffic_undo import plan_undo
from gateway.memory import MemoryGateway
from gateway.port import Change as Confirmed
from rollout.errors import Conflict, NotFound, Refused
from rollout.nouns import Health, Lease, Mirror, Phase, Shift, Split
from store.port import Group, GroupMember, InstanceState, Observed, ServiceState, StoreSettings, open_store
from store.port import InForce as Reached
from store.steer import NotTaken, grant


def instance(service, number, ordinal=0):
    name = f"{service}-v{number}-{ordinal}"
    return InstanceState(name, service, number, ordinal, "127.0.0.1", 18100, Health.READY, 7)


@pytest.fixture
def store(tmp_path):
    """Service chat with version 2 in service, 1 warm beside it and 3 just deployed; service other with version 1."""
    store = open_store(StoreSettings(f"sqlite:///{tmp_path / 'roundhouse.db'}"))
    for name in ("chat", "other"):
        store.put_service(ServiceState(name))
        promoted(store, deployed(store, name), name)
    promoted(store, deployed(store))
    deployed(store)
    for version in store.versions():
        store.put_instance(instance(version.service, version.number))
    return store


@pytest.fixture
def agent(store):
    """Makes desired state so and confirms it, as the real one does."""
    stop = threading.Event()

    def run():
        while not stop.wait(0.01):
            revision, leases = store.revision(), store.leases()
            for service in store.services():
                store.put_observed(Observed(service.name, service.stable, leases.get(service.name), "r", 1.0))
            store.put_in_force(Reached(revision, 0, 1.0))

    thread = threading.Thread(target=run)
    thread.start()
    yield
    stop.set()
    thread.join()


@pytest.fixture
def run(tmp_path):
    """The command line on that store; (exit code, output)."""

    def call(*words, typed=""):
        environment = {"ROUNDHOUSE_HOME": str(tmp_path), "COLUMNS": "200"}
        done = CliRunner().invoke(app, list(words), input=typed, env=environment)
        return done

    return call


def held_lease(store, canary=100, mirror=0, release=None, **more):
    release = release or begun(store, now=time.time(), stage="by hand")
    return grant(store, "chat", release.id, 3, Shift(canary, mirror), 6.0, time.time(), **more)


# --- moving


def test_a_share_is_held_and_ends_with_the_time(store, agent):
    """It is renewed while it lasts; then all traffic is on stable and the release that held it has ended."""
    shares = []

    def sleep(seconds):
        shares.append(store.leases()["chat"].canary_permille)
        time.sleep(min(seconds, 0.1))

    reason = hold(store, "chat", Held(3, Shift(50, 0), "5 % live"), 1.5, sleep=sleep)
    assert reason == "the time asked for has passed"
    assert set(shares) == {50} and store.leases() == {}
    assert store.releases("chat")[0].phase is Phase.DEPLOYED
    assert store.versions("chat")[2].instances == 1  # the candidate stays


def test_a_share_that_somebody_else_ends_is_told_as_that(store, agent):
    """`undo` in another terminal ends it; the one that holds it says so and leaves nothing behind."""

    def undone(seconds):
        plan_undo(store, "chat").do()

    assert hold(store, "chat", Held(3, Shift(50, 0), "5 % live"), 60.0, sleep=undone) == "undone by hand"
    assert store.leases() == {}


def test_a_share_is_taken_over_from_an_earlier_command_in_one_change(store, agent):
    """From 5 to 10 % without 0 in between; the earlier command says that another took over, and ends nothing."""
    shares = []

    def later(seconds):
        hold(store, "chat", Held(3, Shift(100, 0), "10 % live"), 0.3, sleep=look)

    def look(seconds):
        time.sleep(seconds)
        shares.append(store.leases()["chat"].canary_permille)

    assert hold(store, "chat", Held(3, Shift(50, 0), "5 % live"), 60.0, sleep=later).startswith("another command took")
    assert shares == [100] and store.leases() == {}
    told = [c.what.split(":")[0] for c in store.changes("chat", limit=3)]
    assert told[:2] == ["version 3 has no share any more", "version 3 gets 10 % live, 0 % mirrored"]
    assert told[2] == "version 3 gets 5 % live, 0 % mirrored"


def test_what_a_release_holds_is_not_taken_over(store):
    """Only what a person holds makes way for a person."""
    release = begun(store, now=time.time())
    with pytest.raises(Conflict, match=release.id):
        hold(store, "chat", Held(3, Shift(50, 0), "5 % live"), 1.0)


def test_what_cannot_be_held_is_refused_before_anything_changes(store, run):
    """A share over 100 %, the stable version itself, no time, a version that does not run, a service not there."""
    before = store.revision()
    store.drop_instance("chat-v1-0")
    for words in (
        ("set", "chat", "101"),
        ("set", "chat", "5", "--version", "2"),
        ("set", "chat", "5", "--version", "1"),
        ("set", "chat", "5", "--version", "3", "--for", "0"),
        ("set", "chat", "5", "--version", "3", "--baseline", "2"),
        ("mirror", "chat", "10", "--to", "chat"),
        ("mirror", "chat", "10", "--to", "other", "--to", "other"),
        ("drain", "chat-v2-0", "--grace", "-1"),
    ):
        assert isinstance(run(*words).exception, Refused), words
    for words in (("set", "nope", "5"), ("mirror", "chat", "10", "--to", "nope"), ("drain", "nope"), ("undo", "nope")):
        assert isinstance(run(*words).exception, NotFound), words
    assert store.revision() == before


def test_copies_go_to_several_targets():
    """The first version is the lease's candidate; further versions and other services are mirrors of their own."""
    store = open_store(StoreSettings("sqlite://"))
    for name in ("chat", "other"):
        store.put_service(ServiceState(name))
        promoted(store, deployed(store, name), name)
    with pytest.raises(Refused, match="names a version beside"):
        mirrored(store, "chat", 100, [], ["other"])
    for number in (2, 3):
        deployed(store)
        store.put_instance(instance("chat", number))
    both = mirrored(store, "chat", 100, [2, 3], ["other"])
    assert (both.candidate, both.step) == (2, Shift(0, 100))
    assert both.mirrors == (Mirror("chat", 3, 100), Mirror("other", None, 100))
    only = mirrored(store, "chat", 105, [], ["other"])
    assert (only.candidate, only.step, only.mirrors) == (3, Shift(0, 0), (Mirror("other", None, 105),))
    assert only.what == "10.5 % copied to other"
    assert mirrored(store, "chat", 100, [], []).candidate == running_version(store, "chat", 0) == 3


def test_the_line_to_call_a_version_holds_no_secret():
    """It names the header, and the token only as a variable of the reader's shell."""
    line = pin_line("http://h/api/predict/chat", 3)
    assert "x-roundhouse-version: 3" in line and "$TOKEN" in line and "rh-" not in line


def test_drain_and_back(store, agent, run):
    """An instance gets no new request, is shown as such, and is put back."""
    store.scale("chat", 2, 2)
    store.put_instance(instance("chat", 2, 1))
    state = instance_of(store, "chat-v2-1")
    check_drain(store, state, force=False)
    store.drain(state.id)
    assert open_requests(MemoryGateway(), state) == 0
    done = run("drain", state.id, "--back", "--json")
    assert json.loads(done.stdout) == {"instance": state.id, "draining": False, "open": 0}
    assert store.drained() == frozenset()


def test_the_last_instance_of_the_version_in_service_is_not_drained(store):
    """Users would get nothing; whoever means it says so."""
    state = instance_of(store, "chat-v2-0")
    with pytest.raises(Refused, match="only ready instance"):
        check_drain(store, state, force=False)
    check_drain(store, state, force=True)
    check_drain(store, instance_of(store, "chat-v3-0"), force=False)


def test_waiting_for_streams_ends_with_them_or_with_the_grace_period():
    """Three streams, one ending at each look; what is still open after the grace period is counted."""
    streams = [3, 2, 1, 0]
    assert wait_drained(lambda: streams.pop(0), 60.0, sleep=lambda seconds: None) == 0
    assert wait_drained(lambda: 3, 0.0) == 3


# --- undoing


def test_a_share_held_by_hand_is_undone(store, agent, run):
    """It ends; without --yes and a yes nothing is done."""
    held_lease(store)
    assert json.loads(run("undo", "chat", "--json").stdout)["done"] is False
    assert run("undo", "chat", typed="n\n").exit_code == 1
    assert store.leases()
    told = json.loads(run("undo", "chat", "--yes", "--json").stdout)
    assert told["done"] and "all traffic on stable" in told["undo"]
    assert store.leases() == {}


def test_a_releases_share_is_undone_by_rolling_it_back(store, agent):
    """Its own process then finds that it was ended."""
    release = begun(store, now=time.time())
    held_lease(store, release=release)
    plan_undo(store, "chat").do()
    assert store.release(release.id).phase is Phase.ROLLED_BACK
    with pytest.raises(Conflict):
        held_lease(store, release=release)


def test_a_promotion_is_undone_while_the_version_before_is_warm(store, agent):
    """Version 1 is in service again, and the registry's alias follows."""
    crowned = []
    plan = plan_undo(store, "chat", lambda model: crowned.append(model) or ", champion moved")
    assert plan.text.startswith("version 1, which is still warm")
    assert plan.do() == "version 1 is in service again, champion moved"
    assert store.service("chat").stable == 1 and crowned == ["models:/m/1"]


def test_a_promotion_is_not_undone_when_the_version_before_is_cold_or_none(store):
    """The reason is told, and the command that starts it first."""
    store.drop_instance("chat-v1-0")
    with pytest.raises(Refused, match=r"not warm any more.*rollback chat --to 1"):
        plan_undo(store, "chat")
    with pytest.raises(Refused, match="its first"):
        plan_undo(store, "other")


def test_a_share_that_has_ended_is_no_change_that_stands(store, agent):
    """What is undone then is the change before it that does: the promotion."""
    hold(store, "chat", Held(3, Shift(50, 0), "5 % live"), 0.05)
    assert plan_undo(store, "chat").change.kind == "promote"


def test_weights_are_undone(store, agent):
    """The group is as it was; the one that was just made is not unmade by this."""
    store.put_group(Group("prod", (GroupMember("chat", 3), GroupMember("other", 1)), "custom"))
    with pytest.raises(Refused, match="made the group"):
        plan_undo(store, "prod")
    before = store.group("prod")
    store.set_weight("prod", "other", 9)
    plan = plan_undo(store, "prod")
    assert plan.text == "back to weights chat 3, other 1"
    plan.do()
    assert store.group("prod") == before


def test_undoing_weights_overwrites_no_newer_ones(store, agent):
    """Somebody changed them while one was asked: nothing is done, and the fix is told."""
    store.put_group(Group("prod", (GroupMember("chat", 3), GroupMember("other", 1)), "custom"))
    store.set_weight("prod", "other", 9)
    plan = plan_undo(store, "prod")
    newer = store.set_weight("prod", "other", 5)
    with pytest.raises(Conflict, match="undo again"):
        plan.do()
    assert store.group("prod") == newer


def test_former_weights_that_the_gateway_refuses_are_taken_back(store, agent):
    """What was in force before the undo still is."""
    store.put_group(Group("prod", (GroupMember("chat", 3), GroupMember("other", 1)), "custom"))
    present = store.set_weight("prod", "other", 9)
    store.put_observed(Observed("prod", None, None, "r", 1.0, "Envoy says no"))
    with pytest.raises(NotTaken, match="Envoy says no"):
        plan_undo(store, "prod").do()
    assert store.group("prod") == present


def test_a_drained_instance_is_put_back(store, agent):
    """The last change of the service was the drain, not the promotion before it."""
    store.drain("chat-v2-0")
    plan = plan_undo(store, "chat")
    assert plan.text == "chat-v2-0 gets requests again"
    plan.do()
    assert store.drained() == frozenset()


# --- looking


def share(alarm=False, **fields):
    plain = {"door": "chat", "arm": "v3", "asked": 50.0, "observed": 52.0, "requests": 1204, "seen": 63}
    return {**plain, "low": 41.0, "high": 66.0, "alarm": alarm, "text": "asked 5 %, observed 5.2 %", **fields}


def test_a_service_is_shown_as_asked_in_force_and_observed():
    """Shares in percent, the lease's time left, each mirror, the observed share with its interval, and alarms."""
    lease = Lease(3, 50, 100, 0, 16_000, "r1", mirrors=(Mirror("other", None, 200),))
    seen = {"shares": [share(alarm=True)], "copies": [], "recent": {"chat": {"v2": 1141, "v3": 63}}}
    in_force = InForce({"chat": Split("chat", 2, lease)})
    row = service_row(ServiceState("chat", stable=2), lease, in_force, seen, 10.0)
    assert (row["canary_percent"], row["in_force_canary_percent"], row["lease_left_s"]) == (5.0, 5.0, 6.0)
    assert row["mirrors"] == [{"target": "chat v3", "percent": 10.0}, {"target": "other, stable", "percent": 20.0}]
    assert asked_text(row).startswith("v3 5 %, 10 % copied to chat v3, 20 % copied")
    assert row["in_force"] == "v2 95 %, v3 5 %"
    assert row["alarms"] == ["chat: asked 5 %, observed 5.2 %"]
    assert sentences([row], []) == ["chat v3: asked 5 %, observed 5.2 % (4.1 to 6.6 %)"]


def test_a_lease_that_has_ended_and_one_with_a_baseline():
    """Envoy ended the first by itself; the second has three arms."""
    assert split_text(Split("chat", 2, Lease(3, 50, 0, 0, 9000, "r")), 10.0) == "v2 100 %"
    assert split_text(Split("chat", 2, Lease(3, 50, 0, 0, 99_000, "r", 4)), 10.0) == "v2 90 %, v3 5 %, v4 5 %"
    assert split_text(None, 10.0) == split_text(Split("chat", None), 10.0) == "none"


def test_a_group_is_shown_with_its_members():
    """Weight, part in force and what was observed, member by member."""
    group = Group("prod", (GroupMember("chat", 3), GroupMember("other", 1), GroupMember("third")), "custom")
    seen = {"members": [share(door="prod", arm="chat", alarm=True)], "recent": {}}
    row = group_row(group, InForce({}, {"prod": {"chat": 7500, "other": 2500}}), seen)
    assert [(m["service"], m["weight"], m["in_force_percent"]) for m in row["members"]] == [
        ("chat", 3, 75.0),
        ("other", 1, 25.0),
        ("third", None, 0.0),
    ]
    assert row["alarms"] == ["prod: chat: asked 5 %, observed 5.2 %"]


def test_history_holds_what_was_asked_and_what_was_confirmed(store):
    """Newest first, each with who did it; of one name or of all."""
    held_lease(store)
    texts = ("chat: 10 % on version 3 (hand-1)", "group prod: chat 1", "service other added")
    confirmed = [Confirmed("abc", time.time() + 1, False, 0.1, texts)]
    lines = history_lines(store.changes("chat"), confirmed, "chat")
    assert (lines[0]["step"], lines[0]["what"], lines[0]["by"]) == (
        "in force",
        "10 % on version 3 (hand-1)",
        "gateway abc",
    )
    assert lines[1]["step"] == "asked: lease" and "version 3 gets 10 % live" in lines[1]["what"]
    assert {line["name"] for line in history_lines([], confirmed, "")} == {"chat", "prod", "other"}


def test_history_and_help_on_the_command_line(store, run):
    """JSON for scripts, a table for people; a name alone means show, and every verb has its help and an example."""
    lines = json.loads(run("history", "chat", "-n", "2", "--json").stdout)
    assert len(lines) == 2 and lines[0]["name"] == "chat"
    assert "in service" in run("history", "chat").stdout
    assert isinstance(run("history", "--limit", "0").exception, Refused)
    assert isinstance(run("nope").exception, NotFound)
    for verb in ("show", "set", "pin", "mirror", "drain", "history", "undo"):
        assert f"roundhouse traffic {verb}" in run(verb, "--help").stdout


def test_an_alarm_shows_in_the_status():
    """A line with what is wrong, which is no part that does not serve; no agent, no line."""
    copies = {"source": "chat", "alarm": True, "text": "copies do NOT arrive"}
    page = {"shares": [share()], "members": [share(door="prod", alarm=True)], "copies": [copies]}
    lines = traffic_alarms(page)
    assert [(line.name, line.health) for line in lines] == [("traffic prod", "alarm"), ("traffic chat", "alarm")]
    assert well(lines) and lines[1].detail == "copies do NOT arrive"
    assert traffic_alarms(None) == []
