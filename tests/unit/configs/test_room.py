"""Stable and candidate together on one machine: what the store knows becomes a plan, or a refusal with numbers."""

from dataclasses import asdict, replace

import pytest

from configs.room import STACK_BYTES, Wanted, room_for
from engines.hardware import Gpu, Hardware
from engines.port import EngineSpec, Needs
from rollout.errors import Refused
from rollout.nouns import Engine
from store.port import InstanceState, VersionState

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
