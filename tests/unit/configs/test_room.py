"""Stable and candidate together on one machine: what the store knows becomes a plan, or a refusal with numbers."""

from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.room import STACK_BYTES, Wanted, baseline_of, promise, promised, room_for
from engines.devices.choose import place
from engines.hardware import Gpu, Hardware
from engines.port import EngineSpec, Needs, Placement
from rollout.errors import Refused, Unavailable
from rollout.nouns import Engine, Health, Phase
from store.port import InstanceState, Release, VersionState

GIB = 1 << 30
SPEC = EngineSpec(slots=4)
NEEDS = Needs(fixed_bytes=4 * GIB, request_bytes=GIB)  # 8 GiB with four slots
LOADED = Needs(fixed_bytes=30 * GIB, request_bytes=GIB, devices=1, greedy=True)


def version(number: int, instances: int, needs: Needs = NEEDS, service: str = "chat", **rest: object) -> VersionState:
    engine = asdict(replace(Engine("llama_cpp", "d", "/nowhere", "m", 3 * GIB, 0.0, False), needs=asdict(needs)))
    return VersionState(service, number, "models:/m/1", engine, asdict(SPEC), instances, **rest)


def machine(gib: int, *free: int) -> Hardware:
    """So much memory for engines, and 80 GiB GPUs with so much of each free."""
    gpus = tuple(Gpu(i, f"GPU-{i}", "H100", 80 * GIB, size * GIB, (9, 0)) for i, size in enumerate(free))
    return Hardware(8, gib * GIB + STACK_BYTES, 1 << 40, gpus)


def wanted(needs: Needs = NEEDS, instances: int = 1, spec: EngineSpec = SPEC) -> Wanted:
    return Wanted("chat", spec, needs, instances)


def test_side_by_side_where_there_is_room() -> None:
    """16 GiB hold two of 8, and other services count."""
    assert room_for(wanted(), 1, [version(1, 1)], (), machine(16)).plan.way == "side by side"
    beside = [version(1, 1), version(1, 1, service="other")]
    assert room_for(wanted(), 1, beside, (), machine(16 + 8)).plan.way == "side by side"
    assert room_for(wanted(), 1, beside, (), machine(16 + 7)).plan.way != "side by side"


def test_fewer_slots_where_that_is_enough() -> None:
    """14 GiB leave 6 for the candidate: two slots instead of four, and stable is untouched."""
    plan = room_for(wanted(), 1, [version(1, 1)], (), machine(14)).plan
    assert (plan.way, plan.settings, plan.stop) == ("shrink", {"slots": 2}, 0)


def test_an_instance_of_stable_makes_room() -> None:
    """Two of stable fill 16 GiB: one ends, one stays in service."""
    plan = room_for(wanted(), 1, [version(1, 2)], (), machine(16)).plan
    assert (plan.way, plan.stop) == ("borrow", 1)


def test_the_only_instance_would_have_to_stop() -> None:
    """That is said, and left to the caller to refuse."""
    assert room_for(wanted(), 1, [version(1, 1)], (), machine(8)).plan.way == "stop-start"


def test_what_never_fits_is_refused_with_numbers() -> None:
    """Not even alone: the numbers of each way and what to change."""
    with pytest.raises(Refused, match=r"5\.0 GiB at least.*stopped 4\.0 GiB.*smaller weights"):
        room_for(wanted(), 1, [version(1, 1, Needs(fixed_bytes=2 * GIB))], (), machine(4))


def test_a_version_kept_warm_goes_first() -> None:
    """It is only there for a quick way back; where all have room it stays."""
    warm = version(1, 1, retire_at=1e12)
    stable = version(2, 1)
    tight = room_for(wanted(), 2, [warm, stable], (), machine(16))
    assert (tight.plan.way, tight.retire) == ("side by side", (1,))
    assert room_for(wanted(), 2, [warm, stable], (), machine(24)).retire == ()


def test_a_first_version_needs_only_itself() -> None:
    """Nothing is in service."""
    assert room_for(wanted(), None, [], (), machine(8)).plan.way == "side by side"


def test_gpus_are_counted_by_what_is_free_on_them() -> None:
    """Stable holds one GPU whole: a second one is room; without it an instance of two has to go."""
    stable, held = version(1, 2, LOADED), {"gpus": ["GPU-0"]}
    first = InstanceState("chat-v1-0", "chat", 1, 0, "127.0.0.1", 18100, placement=held)
    second = replace(first, id="chat-v1-1", ordinal=1, placement={"gpus": ["GPU-1"]})
    three = room_for(wanted(LOADED), 1, [stable], (first, second), machine(64, 8, 8, 79))
    two = room_for(wanted(LOADED), 1, [stable], (first, second), machine(64, 8, 8))
    assert three.plan.way == "side by side" and set(three.plan.places[0]) == {"GPU-2"}
    assert (two.plan.way, two.plan.stop, set(two.plan.places[0])) == ("borrow", 1, {"GPU-1"})


def test_a_record_without_needs_counts_its_files() -> None:
    """A version of before: the bytes of its engine are the least that it takes."""
    old = version(1, 1)
    old.engine.pop("needs")
    assert room_for(wanted(), 1, [old], (), machine(11)).plan.way == "side by side"
    assert room_for(wanted(), 1, [old], (), machine(10)).plan.way == "shrink"


def on_gpu(number: int, ordinal: int, uuid: str, service: str = "chat", **rest: object) -> InstanceState:
    """A loaded instance on that GPU; ``gib``: what was noted that it takes."""
    noted = {"gpu_bytes": [rest.pop("gib") * GIB]} if "gib" in rest else {}
    name, placement = f"{service}-v{number}-{ordinal}", {"cores": [], "gpus": [uuid], **noted}
    return InstanceState(name, service, number, ordinal, "127.0.0.1", 1, Health.READY, placement=placement, **rest)


def test_the_gpus_of_a_version_kept_warm_come_back() -> None:
    """Both GPUs are full; the warm one's is free once that is retired."""
    warm, stable = version(1, 1, LOADED, retire_at=1e12), version(2, 1, LOADED)
    there = (on_gpu(1, 0, "GPU-0"), on_gpu(2, 0, "GPU-1"))
    room = room_for(wanted(LOADED), 2, [warm, stable], there, machine(64, 3, 3))
    assert (room.plan.way, room.retire, set(room.plan.places[0])) == ("side by side", (1,), {"GPU-0"})


def test_a_gpu_that_two_share_is_not_given_back_twice() -> None:
    """One of two ends: half of the GPU is free, not all of it, so both would have to go."""
    there = (on_gpu(1, 0, "GPU-0"), on_gpu(1, 1, "GPU-0"))
    large = replace(LOADED, fixed_bytes=60 * GIB)
    plan = room_for(wanted(large), 1, [version(1, 2, LOADED)], there, machine(64, 2)).plan
    assert (plan.way, plan.stop) == ("stop-start", 2)
    assert plan.places[0]["GPU-0"] <= 80 * GIB


def test_what_another_service_holds_on_a_shared_gpu_stays() -> None:
    """Stable's second instance takes 10 GiB of it and the other service 68: ending ours frees 10."""
    there = (on_gpu(1, 0, "GPU-0"), on_gpu(1, 1, "GPU-1", gib=10), on_gpu(1, 0, "GPU-1", "other", gib=68))
    both = [version(1, 2, LOADED), version(1, 1, LOADED, service="other")]
    small = replace(LOADED, fixed_bytes=GIB)
    borrowed = room_for(wanted(small), 1, both, there, machine(64, 2, 2)).plan
    assert borrowed.way == "borrow" and borrowed.places[0]["GPU-1"] <= 12 * GIB
    plan = room_for(wanted(replace(LOADED, fixed_bytes=60 * GIB)), 1, both, there, machine(64, 2, 2)).plan
    assert (plan.way, set(plan.places[0])) == ("stop-start", {"GPU-0"})


def test_a_gpu_on_which_an_instance_still_loads_is_not_free() -> None:
    """Its memory is, but what the instance needs counts; so does one that has no place yet."""
    other = version(1, 1, LOADED, service="other")
    loading = replace(on_gpu(1, 0, "GPU-0", "other"), health=Health.STARTING)
    unplaced = replace(loading, placement={})
    for there in ((loading,), (unplaced,), ()):
        with pytest.raises(Refused):
            room_for(wanted(LOADED), None, [other], there, machine(64, 79))
    assert room_for(wanted(LOADED), None, [], (), machine(64, 79)).plan.way == "side by side"


def test_ranks_and_architectures_are_planned_as_they_are_placed() -> None:
    """No MIG instances for two ranks, and only GPUs that the engine was built for."""
    mig = replace(machine(64), gpus=tuple(replace(gpu, mig=True) for gpu in machine(64, 38, 38).gpus))
    with pytest.raises(Refused):
        room_for(wanted(replace(LOADED, devices=2)), None, [], (), mig)
    ampere = replace(machine(64, 79, 60), gpus=(replace(machine(64, 79).gpus[0], compute_capability=(8, 0)),))
    mixed = replace(ampere, gpus=(*ampere.gpus, machine(64, 79, 60).gpus[1]))
    plan = room_for(wanted(replace(LOADED, sm=90)), None, [], (), mixed).plan
    assert set(plan.places[0]) == {"GPU-1"}


def test_room_that_was_promised_to_another_release_is_not_given_again() -> None:
    """On GPUs and on the host, until that one's candidate is declared or the release is not heard of any more."""
    for needs, hardware in ((LOADED, machine(64, 79)), (NEEDS, machine(8))):
        other = replace(wanted(needs), service="other")
        release = Release("o", "other", "m", Phase.RUNNING, beat_at=50.0, promised=promise(other))
        counted = promised([release, replace(release, id="mine")], "mine", 40.0)
        assert counted == [other]
        assert room_for(wanted(needs), None, [], (), hardware).plan.way == "side by side"
        with pytest.raises(Refused):
            room_for(wanted(needs), None, [], (), hardware, counted)
        done = (replace(release, candidate=3), replace(release, beat_at=30.0), replace(release, phase=Phase.FAILED))
        assert promised(done, "mine", 40.0) == []


def test_memory_that_others_use_is_no_room() -> None:
    """Linux says what is to be had; what our loaded instances hold of it comes on top, since it is counted as used."""
    ready = InstanceState("chat-v1-0", "chat", 1, 0, "127.0.0.1", 1, Health.READY)
    beside = [version(1, 1)]
    enough, short = (replace(machine(64), memory_available=size * GIB) for size in (8, 7))
    assert room_for(wanted(), 1, beside, (ready,), enough).plan.way == "side by side"
    assert room_for(wanted(), 1, beside, (ready,), short).plan.way == "shrink"
    assert room_for(wanted(), 1, beside, (ready,), machine(64)).plan.way == "side by side"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 80), min_size=1, max_size=4),
    st.integers(1, 70),
    st.integers(1, 2),
    st.booleans(),
    st.sampled_from([0.1, 0.85]),
)
def test_what_is_planned_side_by_side_is_placed(
    used: list[int], fixed: int, devices: int, greedy: bool, share: float
) -> None:
    """One rule for both: beside others that have loaded, the plan stands exactly where the instance gets its place."""
    spec = EngineSpec("vllm", slots=4, tensor_parallel=devices, memory_fraction=share)
    needs = Needs(fixed * GIB, GIB, devices, greedy)
    there = [on_gpu(1, n, f"GPU-{n}", "other", gib=size) for n, size in enumerate(used) if size]
    taken = [Placement(gpus=(i.placement["gpus"][0],), gpu_bytes=(i.placement["gpu_bytes"][0],)) for i in there]
    hardware = machine(64, *(80 - size for size in used))
    try:
        way = room_for(wanted(needs, spec=spec), None, [], there, hardware).plan.way
    except Refused:
        way = "refused"
    try:
        chosen = place(spec, hardware, taken, needs)
    except Unavailable:
        assert way != "side by side"
        return
    assert way == "side by side" and len(chosen.gpus) == devices
    for uuid, size in zip(chosen.gpus, chosen.gpu_bytes, strict=True):
        assert size <= hardware.gpus[int(uuid[4:])].free_bytes


def test_a_baseline_gets_its_room_beside_the_candidate() -> None:
    """24 GiB hold three of 8; with less the candidate has fewer slots, not the baseline."""
    beside = baseline_of("chat", 1, 1, [version(1, 2)])
    assert beside == wanted()
    assert room_for(wanted(), 1, [version(1, 1)], (), machine(24), baseline=beside).plan.way == "side by side"
    plan = room_for(wanted(), 1, [version(1, 1)], (), machine(22), baseline=beside).plan
    assert (plan.way, plan.settings) == ("shrink", {"slots": 2})
    gpus = room_for(wanted(LOADED), None, [], (), machine(64, 79, 79), baseline=wanted(LOADED)).plan
    assert gpus.way == "side by side"
    with pytest.raises(Refused):
        room_for(wanted(LOADED), None, [], (), machine(64, 79), baseline=wanted(LOADED))


def test_stable_lends_its_room_to_the_candidate_alone() -> None:
    """With the baseline in the free room an instance of stable may end; without that room the policy is refused."""
    borrowed = room_for(wanted(), 1, [version(1, 2)], (), machine(24), baseline=wanted()).plan
    assert (borrowed.way, borrowed.stop) == ("borrow", 1)
    with pytest.raises(Refused, match="no room for it beside stable"):
        room_for(wanted(), 1, [version(1, 2)], (), machine(16), baseline=wanted())


def test_a_version_kept_warm_makes_room_for_a_baseline_too() -> None:
    """It goes before the policy is refused."""
    versions = [version(1, 1, retire_at=9.0), version(2, 1)]
    assert room_for(wanted(), 2, versions, (), machine(24), baseline=wanted()).retire == (1,)


def test_a_service_without_a_version_has_no_baseline() -> None:
    """There is nothing to copy."""
    assert baseline_of("chat", None, 1, []) is None


def test_a_baseline_s_room_is_promised_until_it_is_declared() -> None:
    """Others keep off it while its candidate is declared already, and no longer than its release runs."""
    candidate, beside = replace(wanted(), service="other"), replace(wanted(instances=2), service="other")
    release = Release("o", "other", "m", Phase.RUNNING, beat_at=50.0, promised=promise(candidate, beside))
    found = [promised([replace(release, **done)], "mine", 40.0) for done in ({}, {"candidate": 3}, {"baseline": 4})]
    assert found == [[candidate, beside], [beside], [candidate]]
    assert promised([replace(release, candidate=3, baseline=4)], "mine", 40.0) == []
    assert promised([replace(release, phase=Phase.FAILED)], "mine", 40.0) == []
