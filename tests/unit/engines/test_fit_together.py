"""Stable and candidate on scarce devices: the least change that works, and never more bytes than there are."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from fit_models import model
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.hardware import Hardware
from engines.sizing.gpu_catalogue import hardware_of
from engines.sizing.measure import Demand
from engines.sizing.memory import GIB
from engines.sizing.together import HOST, Device, Occupant, devices_of, occupant, plan_together
from rollout.errors import Refused

NONE = Hardware(cores=8, memory_bytes=8 * GIB, disk_free_bytes=GIB)


def gpus(*free: int) -> tuple[Device, ...]:
    """Devices with so many GiB free."""
    return tuple(Device(f"GPU-{n}", size * GIB) for n, size in enumerate(free))


def one(name: str, fixed: int, request: int = 1, slots: int = 4, **more) -> Occupant:
    """An occupant of one GPU an instance, in GiB."""
    return Occupant(name, more.pop("instances", 1), 1, fixed * GIB, request * GIB, slots, **more)


def test_side_by_side_where_there_is_room():
    """Each on its own GPU, with all slots and nothing changed."""
    told = plan_together(one("stable", 16, greedy=True), one("candidate", 16, greedy=True), gpus(40, 40))
    assert (told.way, told.stop, dict(told.settings)) == ("side by side", 0, {})
    assert told.places == ({"GPU-1": 40 * GIB},)


def test_a_running_stable_is_left_as_it_is():
    """What it holds is no more in what is free; the candidate goes where most is free."""
    stable = one("stable", 16, placed=({"GPU-0": 30 * GIB},))
    told = plan_together(stable, one("candidate", 16), gpus(10, 40))
    assert (told.way, told.stop, list(told.places[0])) == ("side by side", 0, ["GPU-1"])


def test_a_candidate_with_too_little_room_gets_fewer_slots():
    """23 GiB hold 16 and 7 of 8 requests; stable is not touched."""
    stable = one("stable", 16, placed=({"GPU-0": 17 * GIB},))
    told = plan_together(stable, one("candidate", 16, slots=8), gpus(23))
    assert (told.way, told.stop, dict(told.settings)) == ("shrink", 0, {"slots": 7})
    assert told.cache_bytes == 7 * GIB


def test_one_of_stables_instances_is_borrowed():
    """The last of three ends, and two go on serving."""
    held = tuple({f"GPU-{n}": 36 * GIB} for n in range(3))
    told = plan_together(one("stable", 16, placed=held), one("candidate", 16), gpus(4, 4, 4))
    assert (told.way, told.stop, list(told.places[0])) == ("borrow", 1, ["GPU-2"])
    assert "2 kept" in told.sentence


def test_all_of_stable_stops_only_where_nothing_else_is_left():
    """One instance on the one GPU: nobody answers until the candidate does, and the plan says so."""
    stable = one("stable", 16, placed=({"GPU-0": 36 * GIB},))
    told = plan_together(stable, one("candidate", 16), gpus(4))
    assert (told.way, told.stop) == ("stop-start", 1)
    assert "nobody answers" in told.sentence


def test_a_refusal_has_the_numbers_of_every_way():
    """What the candidate needs, and what each way would free."""
    held = ({"GPU-0": 36 * GIB}, {"GPU-1": 36 * GIB})
    with pytest.raises(Refused) as refused:
        plan_together(one("stable", 16, placed=held), one("candidate", 60), gpus(4, 3))
    text = str(refused.value)
    assert "1 of candidate need 61.0 GiB" in text
    assert "side by side or with a smaller cache 4.0 GiB" in text
    assert "with room borrowed 39.0 GiB" in text
    assert "with all stopped 40.0 GiB" in text
    assert "Fix: " in text


def test_stable_that_has_no_room_itself_is_told_first():
    """Before any candidate is placed."""
    with pytest.raises(Refused, match="before any candidate"):
        plan_together(one("stable", 60), one("candidate", 1), gpus(40))


def test_an_instance_of_several_gpus_needs_several():
    """Two free GPUs do not make four, even if one has room for all of it."""
    wide = Occupant("candidate", 1, 4, 10 * GIB, GIB, 2)
    none = Occupant("stable", 0, 1, 0)
    with pytest.raises(Refused):
        plan_together(none, wide, gpus(200, 200))
    assert len(plan_together(none, wide, gpus(20, 20, 20, 20)).places[0]) == 4


def test_models_on_named_gpus():
    """70B beside 70B: eight H100 hold both, four hold one after the other."""
    shape, demand = model("llama-3.1-70b"), Demand(tensor=4, slots=16, context=8192)
    stable, candidate = occupant("stable", shape, demand, 1), occupant("candidate", shape, demand, 1)
    assert plan_together(stable, candidate, devices_of(hardware_of("8xH100", NONE))).way == "side by side"
    assert plan_together(stable, candidate, devices_of(hardware_of("4xH100", NONE))).way == "stop-start"


def test_two_large_models_share_four_gpus_with_set_shares():
    """70B beside 70B with two slots: if stable begins with a smaller share; beside one that did, all slots by share."""
    shape, demand = model("llama-3.1-70b"), Demand(tensor=4, slots=2, context=4096)
    stable, candidate = occupant("stable", shape, demand, 1), occupant("candidate", shape, demand, 1)
    four = devices_of(hardware_of("4xH100", NONE))
    told = plan_together(stable, candidate, four)
    assert (told.way, told.stop) == ("shrink", 0)
    assert "if stable has memory_fraction 0." in told.sentence
    least = candidate.fixed_bytes + int(2.1 * candidate.request_bytes)  # less than its share of 0.85 would ask for
    held = {device.name: device.free_bytes - least for device in four}
    running = plan_together(replace(stable, placed=(held,)), candidate, [Device(d.name, least) for d in four])
    assert (running.way, dict(running.settings)) == ("shrink", {"memory_fraction": 0.96})


def test_instances_that_take_what_is_free_get_a_smaller_share_on_one_gpu():
    """Two of one version: the first must leave the second what all its slots need."""
    told = plan_together(one("stable", 0, instances=0), one("candidate", 10, instances=2, greedy=True), gpus(80))
    assert told.way == "shrink"
    first, second = (place["GPU-0"] for place in told.places)
    assert first + second <= 80 * GIB and told.settings["memory_fraction"] < 1
    assert min(first, second) >= 14 * GIB


def test_a_stable_with_a_small_share_leaves_room_for_a_candidate():
    """8B on one H100: with 0.3 of what is free for its cache, the candidate fits beside it."""
    shape, demand = model("llama-3.1-8b"), Demand(slots=8, context=4096)
    shared = replace(demand, memory_fraction=0.3)
    devices = devices_of(hardware_of("1xH100", NONE))
    told = plan_together(occupant("stable", shape, shared, 1), occupant("candidate", shape, demand, 1), devices)
    assert told.way == "side by side"


def test_without_gpus_the_memory_is_the_one_device():
    """All ranks of an instance are in it; two instances of a small model fit in 8 GiB."""
    shape, demand = model("smollm2-135m"), Demand(tensor=3, device="cpu", slots=2, context=1024)
    both = occupant("stable", shape, demand, 1), occupant("candidate", shape, demand, 1)
    told = plan_together(*both, devices_of(NONE))
    assert told.way == "side by side"
    assert list(told.places[0]) == [HOST]
    assert 3 * GIB < told.places[0][HOST] < 5 * GIB


sizes = st.integers(0, 60)
occupants = st.builds(
    Occupant,
    name=st.just("any"),
    instances=st.integers(1, 4),
    devices=st.integers(1, 3),
    fixed_bytes=sizes,
    request_bytes=st.integers(0, 9),
    slots=st.integers(1, 9),
    memory_fraction=st.floats(0.1, 1.0),
    greedy=st.booleans(),
)


@settings(max_examples=300, deadline=None)
@given(occupants, occupants, st.lists(st.integers(0, 200), min_size=1, max_size=5))
def test_any_pair_has_a_way_or_a_refusal_and_no_byte_is_given_twice(stable, candidate, free):
    """What stays of stable and what the candidate holds are never more than there was; it can serve what is said."""
    devices = [Device(f"GPU-{n}", size) for n, size in enumerate(free)]
    try:
        told = plan_together(stable, candidate, devices)
    except Refused as refusal:
        assert "Fix: " in str(refusal)
        return
    used = Counter()
    for place in told.places:
        used.update(place)
        assert len(place) == candidate.devices
    assert len(told.places) == candidate.instances
    assert all(used[device.name] <= device.free_bytes for device in devices)
    assert told.cache_bytes >= candidate.request_bytes * told.settings.get("slots", candidate.slots)
    assert 0 < told.settings.get("memory_fraction", 0.5) < 1
    assert (told.stop == 0) == (told.way in ("side by side", "shrink"))
    assert told.stop <= stable.instances


@settings(max_examples=200, deadline=None)
@given(occupants, st.lists(st.integers(0, 200), min_size=1, max_size=4), st.integers(0, 200))
def test_what_runs_beside_is_counted(candidate, free, held):
    """Stable is running on the first GPU: what it holds comes back only where it is stopped."""
    devices = [Device(f"GPU-{n}", size) for n, size in enumerate(free)]
    stable = Occupant("stable", 1, 1, 0, placed=({"GPU-0": held},))
    try:
        told = plan_together(stable, candidate, devices)
    except Refused as refusal:
        assert "with all stopped" in str(refusal)
        return
    room = {device.name: device.free_bytes for device in devices}
    room["GPU-0"] += held if told.stop else 0
    used = sum((Counter(dict(place)) for place in told.places), Counter())
    assert all(used[name] <= size for name, size in room.items())
