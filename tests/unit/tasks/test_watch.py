"""The loop of one stage on an in-memory gateway and a hand-turned clock: a soak of minutes in milliseconds."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from history import GOOD, begun, deployed, promoted

from configs.order import order
from gateway.memory import MemoryGateway
from rollout.errors import Conflict, Unavailable
from rollout.nouns import Health, Outcome, Phase, Promote, RollBack, Shift, Version
from rollout.policy import OnTimeout, Policy
from store.port import InstanceState, ServiceState, StoreSettings, open_store
from tasks.incidents import Orphaned
from tasks.looks import LookFile
from tasks.ticket import Ticket
from tasks.traffic import Scene, persisting, watch_stage
from tasks.trail import first_trail, look_back, save, saved

QUIET = Policy(steps=(500,), mirror=0, min_samples=500_000)


class World:
    """Traffic at 20 requests/s an arm; the candidate's latency is the test's choice."""

    def __init__(self, slower=1.0):
        self.now, self.slower, self.rng = 1000.0, slower, np.random.default_rng(0)
        self.gateway, self.store = MemoryGateway(self.clock), open_store(StoreSettings("sqlite://"))
        self.store.put_service(ServiceState("chat"))
        promoted(self.store, deployed(self.store))
        self.release = begun(self.store, now=self.now)
        self.candidate = self.store.add_version(replace(self.store.versions()[0], number=0), self.release.id).number
        for version in (1, self.candidate):
            name = f"chat-v{version}-0"
            self.store.put_instance(InstanceState(name, "chat", version, 0, "h", 1, Health.READY, version))
        self.ticket = Ticket(self.release.id, "chat", 1, os.getppid(), self.now)
        self.ends, self.events = [], {}

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        for _ in range(20):
            self._answer(1, 1.0)
            self._answer(self.candidate, self.slower)
        if lease := self.store.leases().get("chat"):
            self.ends.append(lease.until_ms)
        if event := self.events.pop(len(self.ends), None):
            event()

    def _answer(self, version, factor):
        ttft, tpot = 0.1 * factor * self.rng.lognormal(0, 0.3), 0.01 * factor * self.rng.lognormal(0, 0.3)
        shown = GOOD._replace(at=self.now - 0.01, version=version, arm=version, canary_permille=500)
        shown = shown._replace(ttft_s=ttft, total_s=ttft + 15 * tpot)
        self.gateway.add(shown)

    def watch(self, policy=None, looks=None, keep=lambda trail, judged: None, trail=None):
        wanted = replace(order("chat"), policy=policy or Policy(steps=(500,), mirror=0))
        scene = Scene(
            order=wanted,
            ticket=self.ticket,
            candidate=Version("chat", self.candidate, "m", "e"),
            step=Shift(500, 0),
            stage=0,
            store=self.store,
            gateway=self.gateway,
            looks=LookFile(looks),
            save=keep,
            clock=self.clock,
            sleep=self.sleep,
        )
        return watch_stage(scene, trail or self.fresh(wanted.policy))

    def fresh(self, policy=None):
        return first_trail(*look_back(self.gateway, "chat", 1), policy or Policy())


def test_a_good_candidate_passes_and_its_lease_was_renewed_on_the_way(tmp_path):
    """Each renewal follows a look; it reaches six seconds ahead of that look. The looks are written down."""
    world = World()
    stretch = world.watch(looks=tmp_path / "looks.jsonl")
    assert stretch.verdict.outcome is Outcome.PROMOTE and isinstance(stretch.step, Promote)
    assert stretch.trail.evidence.n_candidate >= 40 and stretch.seconds == world.now - 1000.0
    assert stretch.trail.tokens >= 16 * 40
    assert world.ends == sorted(world.ends) and max(world.ends) <= (world.now + 6.0) * 1000
    told = [json.loads(line) for line in (tmp_path / "looks.jsonl").read_text().splitlines()]
    assert told[-1]["outcome"] == "promote" and {f["metric"] for f in told[-1]["findings"]} >= {"TTFT", "errors"}


def test_a_slow_candidate_is_turned_back():
    """Twice as slow is beyond the bound, and the reason says in what."""
    stretch = World(slower=2.0).watch()
    assert stretch.verdict.outcome is Outcome.ROLL_BACK and "TPOT" in stretch.verdict.reason


@pytest.mark.parametrize(("way", "step"), [(OnTimeout.ROLL_BACK, RollBack)])
def test_silence_ends_at_the_time_limit_and_never_with_promotion(way, step):
    """No request at all: the stage ends undecided when its time is up."""
    world = World()
    world._answer = lambda version, factor: None
    stretch = world.watch(Policy(steps=(500,), mirror=0, step_timeout_s=30.0, on_timeout=way))
    assert stretch.verdict.outcome is Outcome.UNDECIDED and stretch.seconds >= 30.0 and isinstance(stretch.step, step)


def test_a_stage_goes_on_where_its_saved_trail_ends(tmp_path):
    """Its process dies after some looks: what was saved leads to the same end as if nothing had happened."""
    path, whole = tmp_path / "evidence.json", World().watch()
    world, looks = World(), []

    def dies(trail, judged):
        save(trail, 0, path)
        looks.append(len(judged.candidate))
        if len(looks) == 8:
            raise OSError("the disk is gone for a moment")

    with pytest.raises(OSError):
        world.watch(keep=dies)
    world.sleep(1.0)  # the loop was between two looks
    resumed = world.watch(trail=saved(path, 0, world.fresh()))
    assert resumed.trail.evidence == whole.trail.evidence and resumed.verdict == whole.verdict


def says(world, yes, number=1):
    """A person's answer, for an event."""
    return lambda: world.store.answer(world.release.id, yes, "ada", "the dashboards agree", number)


def test_a_person_is_asked_before_promotion_and_answers():
    """The stage holds its lease until then; yes promotes, no rolls back, each with the person's words."""
    for yes, step in ((True, Promote), (False, RollBack)):
        world = World()
        policy = Policy(steps=(500,), mirror=0, approvals=("promote",))
        world.events[40] = says(world, yes)
        stretch = world.watch(policy)
        assert isinstance(stretch.step, step) and "ada" in stretch.step.reason and "dashboards" in stretch.step.reason


IDLE = Policy(steps=(500,), mirror=0, idle_s=10.0, on_idle=OnTimeout.ASK, step_timeout_s=400.0, min_step_s=100.0)


def quiet_until(world, at):
    """Nobody calls before that look."""
    answer = world._answer
    world._answer = lambda version, factor: None
    world.events[at] = lambda: setattr(world, "_answer", answer)


def test_a_question_that_has_passed_is_withdrawn():
    """Nobody called and somebody does again: no answer is waited for or taken any more."""
    world, found = World(), []
    quiet_until(world, 30)
    for look in (25, 45):
        world.events[look] = lambda: found.append(world.store.release(world.release.id).waiting)
    stretch = world.watch(IDLE)
    assert isinstance(stretch.step, Promote)
    assert "no request of the candidate" in found[0] and found[1] == ""
    with pytest.raises(Conflict, match="asks nothing now"):
        says(world, True)()
    kinds = [event.kind for event in world.store.events("chat", world.release.id)]
    assert kinds.count("question") == kinds.count("withdrawn") == 1


def test_a_no_is_heard_although_what_was_asked_has_passed():
    """A person who says no before the question is withdrawn has said it to the release."""
    world = World()
    quiet_until(world, 30)
    resumes = world.events[30]
    world.events[30] = lambda: (resumes(), world.sleep(1.0), world.sleep(9.0), says(world, False)())
    stretch = world.watch(IDLE)
    assert isinstance(stretch.step, RollBack) and "ada said no" in stretch.step.reason


def test_a_yes_to_what_has_passed_is_a_yes_to_nothing_else():
    """That a stage may end although nobody calls is no word on one whose requests came and whose time is up."""
    world = World()
    quiet_until(world, 30)
    resumes = world.events[30]
    world.events[30] = lambda: (resumes(), world.sleep(1.0), world.sleep(9.0), says(world, True)())
    stretch = world.watch(
        replace(IDLE, min_samples=500_000, min_step_s=0.0, step_timeout_s=80.0, on_timeout=OnTimeout.ROLL_BACK)
    )
    assert isinstance(stretch.step, RollBack) and "within 80 s" in stretch.step.reason
    world = World()
    world._answer = lambda version, factor: None
    world.events[80] = lambda: says(world, True, number=world.store.release(world.release.id).asked)()
    stretch = world.watch(replace(IDLE, min_step_s=0.0, step_timeout_s=60.0, on_timeout=OnTimeout.ASK))
    asked = [e.data["key"] for e in world.store.events("chat", world.release.id) if e.kind == "question"]
    assert asked == ["canary 50 %: timeout", "canary 50 %: idle"]
    assert isinstance(stretch.step, Promote) and "ada said yes" in stretch.step.reason


def test_what_people_take_to_answer_is_not_the_releases_time():
    """The time that all stages have begins with the first of them, and rests while a person is asked."""
    world = World()
    policy = Policy(steps=(500,), mirror=0, approvals=("promote",))
    world.events[60] = says(world, True)
    asked = world.watch(policy).trail
    assert asked.began == 1000.0
    assert asked.waited_s > 20
    assert world.now - asked.began - asked.waited_s < asked.waited_s + 60


def test_a_stage_outlives_hiccups_but_not_a_fault_that_stays():
    """Four failures within a minute end it; as many over hours do not."""
    for pause_s, outlived in ((100.0, True), (1.0, False)):
        now, left = [0.0], [Unavailable("x"), OSError("y"), Unavailable("x"), OSError("y"), Unavailable("x")]

        def go_on(now=now, left=left, pause_s=pause_s):
            now[0] += pause_s
            if left:
                raise left.pop()
            return "the stretch"

        told = []
        if outlived:
            assert persisting(go_on, told.append, lambda now=now: now[0], lambda s: None) == "the stretch"
            assert len(told) == 5
        else:
            with pytest.raises((Unavailable, OSError)):
                persisting(go_on, told.append, lambda now=now: now[0], lambda s: None)
            assert len(told) == 3


def test_a_release_that_somebody_ended_stops_at_its_next_renewal():
    """It holds no lease any more, whatever its own evidence says."""
    world = World()
    world.events[2] = lambda: world.store.finish_release(world.release.id, Phase.ROLLED_BACK, "by hand", 1.0, {})
    with pytest.raises(Conflict, match="by hand"):
        world.watch(QUIET)
    assert world.store.leases() == {}


def test_a_dead_candidate_ends_the_stage():
    """Its death under traffic is a verdict."""
    world = World()
    dead = InstanceState(f"chat-v{world.candidate}-0", "chat", world.candidate, 0, "h", 1, Health.BACKOFF, 2)
    world.events[2] = lambda: world.store.put_instance(dead)
    stretch = world.watch(QUIET)
    assert stretch.verdict.outcome is Outcome.ROLL_BACK and "died" in stretch.verdict.reason


def test_a_run_that_nobody_can_cancel_ends_itself():
    """The process that started it is not its parent any more."""
    world = World()
    world.ticket = replace(world.ticket, parent=1)
    with pytest.raises(Orphaned):
        world.watch(QUIET)
