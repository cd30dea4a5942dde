"""What instances have for themselves: chosen once, kept, handed on to the engine, waited for where it is not there."""

from __future__ import annotations

import stat
import threading
from dataclasses import asdict, replace

import pytest
from agent_house import House
from history import ENGINE

from agent.machine import NOT_READ, SILENT_S, Machine
from agent.placing import placed, placement_of, write_files
from agent.reconcile import Reconciler
from engines.hardware import Gpu, Hardware
from engines.port import EngineSpec, Needs, Placement
from rollout.nouns import Health, Phase
from store.port import InstanceState, Release, VersionState

NOW = 100.0
CORES = Hardware(2, 1, 1, nodes=((0, 1),))
GPUS = replace(CORES, gpus=tuple(Gpu(n, f"G{n}", "H100", 80 << 30, 79 << 30, (9, 0)) for n in (0, 1)))
TRT = EngineSpec("tensorrt_llm")


def instance(name="chat-v1-0", **fields):
    return InstanceState(name, "chat", 1, 0, "127.0.0.1", 18100, **fields)


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)


def trt_version(house):
    """A version that needs a GPU, declared by a release."""
    release = house.store.begin_release(Release("r", "chat", "m", Phase.PENDING), house.clock.now, 60.0)
    spec = asdict(replace(TRT, quantization="F16"))
    return house.store.add_version(VersionState("chat", 0, "m", asdict(ENGINE), spec, 1), release.id).number


def test_instances_get_processors_of_their_own_and_keep_them(house):
    """Written down with the instance; a new agent changes nothing, and neither does a restart."""
    house.serve(instances=3)
    house.turn(4)
    places = {i.id: i.placement for i in house.store.instances()}
    assert sorted(place["cores"] for place in places.values()) == [[0], [1], [2]]
    house.loop = Reconciler(house.loop._p)
    house.platform.die("chat-v1-1")
    house.turn(8)
    assert {i.id: i.placement for i in house.store.instances()} == places
    assert set(house.health().values()) == {Health.READY}


def test_an_instance_of_before_is_placed_when_it_is_started_again(house):
    """What runs is left as it is."""
    house.serve()
    house.turn(4)
    house.store.put_instance(replace(house.store.instances()[0], placement={}))
    house.turn(2)
    assert house.store.instances()[0].placement == {}
    house.platform.die("chat-v1-0")
    house.turn(8)
    assert house.store.instances()[0].placement == {"cores": [0], "gpus": [], "gpu_bytes": []}


def test_too_few_gpus_are_waited_for_and_told(house):
    """It is started once one is there; until then each try counts as one that died, so that a release gives up."""
    number = trt_version(house)
    house.turn(8)
    (waiting,) = house.store.instances()
    assert (waiting.health, waiting.placement) == (Health.BACKOFF, {})
    assert waiting.restarts >= 3 and "1 GPU wanted" in waiting.reason
    assert house.platform.running() == {}
    house.hardware = GPUS
    house.turn(20)
    (started,) = house.store.instances()
    assert (started.health, started.placement["gpus"]) == (Health.READY, ["G0"])
    house.store.retire("chat", number)
    house.store.finish_release("r", Phase.FAILED, "x", house.clock.now, {})
    house.turn(12)
    assert house.store.instances() == []


def test_a_gpu_is_for_one_instance():
    """The next one gets the other, the third waits with the reason."""
    first = placed(NOW, instance(), TRT, GPUS, [])
    second = placed(NOW, instance("b"), TRT, GPUS, [first])
    third = placed(NOW, instance("c", restarts=2), TRT, GPUS, [first, second])
    assert (first.placement["gpus"], second.placement["gpus"]) == (["G0"], ["G1"])
    assert (third.health, third.retry_at) == (Health.BACKOFF, pytest.approx(NOW + 0.8))
    assert "0 of 2" in third.reason and third.placement == {}


def test_room_that_is_being_made_is_waited_for():
    """An instance with a GPU drains: that this one has none yet is no death of it."""
    alone = replace(GPUS, gpus=GPUS.gpus[:1])
    leaving = instance("b", health=Health.DRAINING, placement={"cores": [], "gpus": ["G0"]})
    waiting = placed(NOW, instance(restarts=2), TRT, alone, [leaving])
    assert (waiting.health, waiting.restarts) == (Health.BACKOFF, 0)
    sharing = replace(leaving, placement={"cores": [], "gpus": ["G0"], "gpu_bytes": [30 << 30]})
    assert placed(NOW, instance(), TRT, alone, [sharing], Needs(30 << 30)).placement["gpus"] == ["G0"]


def test_one_that_takes_what_is_free_waits_until_the_other_has_loaded():
    """Before that it is not seen what the other leaves on a GPU of both; waiting for it is no death."""
    alone, greedy = replace(GPUS, gpus=GPUS.gpus[:1]), Needs(20 << 30, 1 << 20, 1, True)
    half = replace(TRT, memory_fraction=0.4)
    other = instance("b", placement={"cores": [], "gpus": ["G0"], "gpu_bytes": [40 << 30]})
    seen = replace(alone, gpus=(replace(alone.gpus[0], free_bytes=39 << 30, processes=((7, 40 << 30),)),))
    waiting = placed(NOW, instance(restarts=2), half, seen, [other], greedy)
    assert (waiting.placement, waiting.restarts) == ({}, 0)
    assert placed(NOW, instance(), half, seen, [replace(other, health=Health.READY)], greedy).placement["gpus"] == [
        "G0"
    ]


def test_a_place_that_is_gone_is_chosen_anew():
    """A GPU was taken out, or the container has other processors now."""
    held = instance(placement={"cores": [], "gpus": ["G9"]})
    assert placed(NOW, held, TRT, GPUS, []).placement["gpus"] == ["G0"]
    pinned = instance(placement={"cores": [7], "gpus": []})
    assert placed(NOW, pinned, EngineSpec(), CORES, []).placement["cores"] == [0]
    assert placed(NOW, instance(placement={"cores": [1], "gpus": []}), EngineSpec(), CORES, []).placement["cores"] == [
        1
    ]


def test_a_placement_survives_the_store():
    """Lists come back as the engine's own type."""
    assert placement_of({"cores": [0, 1], "gpus": ["G0"]}) == Placement((0, 1), ("G0",))
    assert placement_of({}) == Placement()


def test_gpus_that_nobody_has_read_yet_are_waited_for(house):
    """That is no death of it, however long it takes; it keeps the place that it had. An engine on the CPU starts."""
    unread = replace(CORES, gpu_note=NOT_READ)
    house.hardware = unread
    trt_version(house)
    house.turn(60)
    (waiting,) = house.store.instances()
    assert (waiting.health, waiting.reason, waiting.placement) == (Health.BACKOFF, NOT_READ, {})
    assert waiting.restarts <= 1 and house.platform.running() == {}
    house.hardware = GPUS
    house.turn(6)
    assert set(house.health().values()) == {Health.READY}
    held = instance(placement={"cores": [], "gpus": ["G1"]})
    assert placed(NOW, held, TRT, unread, []).placement["gpus"] == ["G1"]
    assert placed(NOW, held, TRT, unread, []).health is Health.BACKOFF
    assert placed(NOW, instance(), EngineSpec("vllm"), unread, []).reason == NOT_READ
    assert placed(NOW, instance(), EngineSpec(), unread, []).placement["cores"] == [0]


def test_a_driver_that_hangs_holds_nobody_up(tmp_path):
    """Before its first answer, and when it stops answering, the processors are told and that the GPUs are not known."""
    house, answers = House(tmp_path), threading.Event()
    clock = house.clock

    def read():
        answers.wait(20)
        return GPUS

    machine = Machine(read, str(tmp_path), clock)
    reader = threading.Thread(target=machine.look)
    reader.start()
    before = machine.last()
    house.loop = Reconciler(replace(house.loop._p, hardware=machine.last))
    house.serve()
    house.turn(4)
    assert set(house.health().values()) == {Health.READY} and not answers.is_set() and reader.is_alive()
    assert (before.gpu_note, before.gpus) == (NOT_READ, ()) and before.cores >= 1 and before.nodes
    answers.set()
    reader.join()
    assert machine.last() == GPUS
    clock.now += SILENT_S + 1
    assert machine.last() == before


def test_hardware_that_cannot_be_read_leaves_what_was_read(tmp_path, caplog):
    """The failure is told, and the thread goes on."""
    answers = [GPUS]
    machine = Machine(lambda: answers.pop(), str(tmp_path))
    machine.look()
    machine.look()
    assert machine.last() == GPUS and "could not be read" in caplog.text


def test_what_cannot_be_started_is_told_and_ends_the_release(house):
    """A spec that the engine refuses is no loop without an end: each try counts."""
    release = house.store.begin_release(Release("r", "chat", "m", Phase.PENDING), house.clock.now, 60.0)
    spec = {"kind": "llama_cpp", "threads": 0}
    house.store.add_version(VersionState("chat", 0, "m", asdict(ENGINE), spec, 1), release.id)
    house.turn(12)
    (broken,) = house.store.instances()
    assert broken.health is Health.BACKOFF and "threads" in broken.reason and broken.restarts >= 3


def test_files_are_written_whole_and_for_their_owner_only(tmp_path):
    """In a folder that is made, over what stood there, with nothing left beside them."""
    path = tmp_path / "new" / "options.yaml"
    write_files({str(path): "a: 1\n"})
    write_files({str(path): "a: 2\n"})
    assert path.read_text() == "a: 2\n" and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700 and list(path.parent.iterdir()) == [path]
    with pytest.raises(OSError):
        write_files({str(tmp_path / "new" / "options.yaml" / "x"): ""})
