"""Room is made before anything is built: from a real store and an engine's own plan, on machines given as values."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from trtllm_builds import hopper
from trtllm_specs import SPEC, Place, write_place

from configs.files import ServiceFile
from configs.order import Order
from configs.stack import Stack
from engines.hardware import Hardware
from engines.port import EngineSpec
from rollout.errors import Refused, Unavailable
from rollout.nouns import Engine, Health, Phase
from rollout.policy import Policy
from store.port import InstanceState, Release, ServiceState, Store, StoreSettings, VersionState, open_store
from tasks.room import check_room, room_made
from tasks.ticket import Ticket

GIB = 1 << 30


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A tiny model, planned as TensorRT-LLM."""
    return write_place(tmp_path_factory.mktemp("room"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty one on disk."""
    return open_store(StoreSettings(f"sqlite:///{tmp_path / 'store.db'}"))


def order(place: Place, service: str = "chat", spec: EngineSpec = SPEC, instances: int = 1) -> Order:
    """A release of the tiny model into that service."""
    file = ServiceFile(name=service, model="tiny", instances=instances)
    return Order(Stack(project=place.root, home=place.root), file, "models:/tiny/1", "e", spec, "standard", Policy())


def begun(store: Store, service: str = "chat") -> Ticket:
    """A release of the service that has just begun."""
    if service not in {state.name for state in store.services()}:
        store.put_service(ServiceState(service))
    release = Release(f"{service}-r{len(store.releases())}", service, "m", Phase.PENDING)
    started = store.begin_release(release, time.time(), 60.0)
    return Ticket(started.id, service, started.stable_before, 0)


def serving(store: Store, place: Place, gpus: list[int], full: int, kept_warm: bool = False) -> None:
    """A version of ``chat`` in service with an instance on each of these GPUs; ``kept_warm``: another took over."""
    ticket, plan = begun(store), place.plan(full_gpus(8))
    engine = asdict(Engine("tensorrt_llm", "d", "/none", "m", 1, 0.0, False, asdict(plan.needs)))
    wanted = VersionState("chat", 0, "m", engine, asdict(SPEC), len(gpus))
    number = store.add_version(wanted, ticket.release).number
    for ordinal, gpu in enumerate(gpus):
        on = {"cores": [], "gpus": [f"GPU-{gpu}"], "gpu_bytes": [full]}
        name = f"chat-v{number}-{ordinal}"
        store.put_instance(InstanceState(name, "chat", number, ordinal, "::1", 1, Health.READY, placement=on))
    store.promote(ticket.release, number, time.time() + 3600, "it is good", time.time())


def full_gpus(count: int, free: int = 0) -> Hardware:
    """H100s with so many bytes free."""
    hardware = hopper(count)
    return replace(hardware, gpus=tuple(replace(g, uuid=f"GPU-{g.index}", free_bytes=free) for g in hardware.gpus))


def whole(hardware: Hardware) -> int:
    """Bytes of one GPU."""
    return hardware.gpus[0].memory_bytes


def end_lent(store: Store, ticket: Ticket, number: int, kept: int):
    """Hears what a release says of its room, and is the agent then: instances that make room end."""
    said = []

    def say(text: str) -> None:
        said.append(text)
        for instance in store.instances("chat"):
            if instance.version == number and instance.ordinal >= kept:
                store.drop_instance(instance.id)

    return said, say


def test_full_gpus_lend_an_instance(place: Place, store: Store) -> None:
    """Both GPUs are stable's, and nothing is free on them: the plan is made all the same, and one instance ends."""
    hardware = full_gpus(2)
    serving(store, place, [0, 1], whole(hardware))
    ticket = begun(store)
    said, say = end_lent(store, ticket, 1, 1)
    assert room_made(order(place), place.model, ticket, store, hardware, say).spec == SPEC
    assert said[0].startswith("borrow: 1 of version 1's 2 instances ends first")
    assert store.release(ticket.release).borrowed == 1


def test_full_gpus_are_given_by_the_version_kept_warm(place: Place, store: Store) -> None:
    """It goes before stable lends anything."""
    hardware = full_gpus(2)
    serving(store, place, [0], whole(hardware))
    serving(store, place, [1], whole(hardware))
    ticket = begun(store)
    said, say = end_lent(store, ticket, 1, 0)
    room_made(order(place), place.model, ticket, store, hardware, say)
    assert said[0].startswith("side by side") and store.release(ticket.release).borrowed == 0
    assert {v.number: v.instances for v in store.versions("chat")} == {1: 0, 2: 1}


def test_the_only_version_is_never_stopped(place: Place, store: Store) -> None:
    """One GPU, full of stable: refused, with numbers, and nothing is lent."""
    hardware = full_gpus(1)
    serving(store, place, [0], whole(hardware))
    ticket = begun(store)
    with pytest.raises(Refused, match="never takes the only version out of service"):
        room_made(order(place), place.model, ticket, store, hardware, lambda text: None)
    assert store.release(ticket.release).borrowed == 0


def test_two_releases_do_not_get_the_same_room(place: Place, store: Store) -> None:
    """What is free holds one and nothing is built yet: the second is refused until the first has ended."""
    hardware = full_gpus(1, free=place.plan(full_gpus(8)).needs.fixed_bytes * 3 // 2)
    first, second = begun(store, "chat"), begun(store, "other")
    room_made(order(place), place.model, first, store, hardware, lambda text: None)
    with pytest.raises(Refused, match="GiB are free on the emptiest"):
        room_made(order(place, "other"), place.model, second, store, hardware, lambda text: None)
    store.finish_release(first.release, Phase.FAILED, "given up", time.time(), {})
    assert room_made(order(place, "other"), place.model, second, store, hardware, lambda text: None).spec == SPEC


def test_room_that_is_gone_after_the_build_is_told(place: Place, store: Store) -> None:
    """Somebody else took the GPU meanwhile; before, the look finds what was promised."""
    hardware, ticket = full_gpus(1, free=79 * GIB), begun(store)
    wanted = room_made(order(place), place.model, ticket, store, hardware, lambda text: None)
    built = Engine("tensorrt_llm", "d", "/none", "m", 1, 0.0, False, asdict(place.plan(hardware).needs))
    check_room(wanted, built, ticket, store, hardware)
    with pytest.raises(Unavailable, match="room for the candidate is gone"):
        check_room(wanted, built, ticket, store, full_gpus(1))
    assert store.release(ticket.release).promised["instances"] == 1


def test_a_plan_says_which_gpus_its_engine_needs(place: Place) -> None:
    """A TensorRT engine those of its architecture, a quantised checkpoint those that compute its format."""
    quantised = {"quantization": "fp8", "environment": {"MODELOPT_EXAMPLES": "/opt/modelopt"}}
    assert place.plan(hopper(1), recipe="tensorrt").needs.sm == 90
    checkpoint = place.plan(hopper(1), **quantised).needs
    assert (checkpoint.sm, checkpoint.least_sm) == (0, 89)
