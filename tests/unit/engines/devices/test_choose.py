"""Which GPUs and processors an instance gets: a pure choice, so that each machine is a value."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.devices.choose import cores_wanted, place
from engines.hardware import Gpu, Hardware, read_hardware
from engines.port import EngineSpec, Needs, Placement
from rollout.errors import Unavailable

GIB = 1024**3


def gpu(index, linked=(), free=79, numa=0, total=80, capability=(9, 0)):
    uuid, peers = f"G{index}", tuple(f"G{other}" for other in linked if other != index)
    return Gpu(index, uuid, "H100", total * GIB, free * GIB, capability, nvlink=peers, numa=numa)


def machine(*gpus, nodes=((0, 1, 2, 3),)):
    return Hardware(sum(map(len, nodes)), 64 * GIB, GIB, gpus, "580", "" if gpus else "no GPU: none", nodes)


def trt(tensor=1, pipeline=1):
    return EngineSpec("tensorrt_llm", tensor_parallel=tensor, pipeline_parallel=pipeline)


def llama(threads=1):
    return EngineSpec(threads=threads)


def gpus(spec, hardware, *taken, **kw):
    return place(spec, hardware, [Placement(gpus=held) for held in taken], **kw).gpus


PAIRS = machine(gpu(0, [0, 2]), gpu(1, [1, 3]), gpu(2, [0, 2]), gpu(3, [1, 3]))


def test_a_tensor_parallel_instance_gets_gpus_that_are_linked():
    """Neighbours by number that have no link are passed over; the next instance gets the other pair."""
    assert gpus(trt(2), PAIRS) == ("G0", "G2")
    assert gpus(trt(2), PAIRS, ("G0", "G2")) == ("G1", "G3")


def test_ranks_are_tensor_times_pipeline():
    """Four of four."""
    assert gpus(trt(2, 2), PAIRS) == ("G0", "G1", "G2", "G3")


def test_without_links_one_numa_node_is_preferred():
    """Then memory is reached without crossing between the processors."""
    assert gpus(trt(2), machine(gpu(0), gpu(1, numa=1), gpu(2), gpu(3, numa=1))) == ("G0", "G2")


def test_among_equals_the_emptiest_is_taken():
    """Others than us may use a GPU too."""
    assert gpus(trt(), machine(gpu(0, free=10), gpu(1, free=70), gpu(2, free=40))) == ("G1",)
    assert gpus(trt(2), machine(gpu(0, free=10), gpu(1, free=70), gpu(2, free=40))) == ("G1", "G2")


def test_one_gpu_is_taken_where_it_breaks_no_linked_set():
    """The one without a link, so that the linked pair stays whole."""
    assert gpus(trt(), machine(gpu(0, [0, 1]), gpu(1, [0, 1]), gpu(2))) == ("G2",)


def test_unequal_gpus_are_not_put_together():
    """The slowest would set the pace and the smallest the size."""
    hardware = machine(gpu(0, total=40, free=39, capability=(8, 0)), gpu(1), gpu(2))
    assert gpus(trt(2), hardware) == ("G1", "G2")


def beside(size, *uuids):
    """An instance that takes so many GiB of each of its GPUs."""
    return Placement(gpus=uuids, gpu_bytes=tuple(size * GIB for _ in uuids))


def test_a_gpu_is_shared_only_where_its_memory_is_known_to_suffice():
    """Free now, and still enough when the other has loaded what it takes; one of which nothing is known takes all."""
    alone, needs = machine(gpu(0, free=70)), Needs(26 * GIB, 2 * GIB)  # 30 GiB with 2 slots
    with pytest.raises(Unavailable, match=r"1 GPU wanted, 0 of 1 .* \(1 held by other instances; .*0: 70\.0 of 80\.0"):
        gpus(trt(), alone, ("G0",))
    with pytest.raises(Unavailable, match=r"with 30\.0 GiB free wanted"):
        gpus(trt(), alone, ("G0",), needs=needs)
    assert place(trt(), alone, [beside(50, "G0")], needs).gpus == ("G0",)
    with pytest.raises(Unavailable, match=r"with 30\.0 GiB free wanted"):
        place(trt(), alone, [beside(51, "G0")], needs)


def test_engines_that_take_what_is_free_share_only_once_the_others_have_loaded():
    """Before that nobody sees what is left: by what is used there, and by who is known to load."""
    needs, there = Needs(30 * GIB, greedy=True), [beside(40, "G0")]
    assert place(trt(), machine(gpu(0, free=40)), there, needs).gpus == ("G0",)
    with pytest.raises(Unavailable):
        place(trt(), machine(gpu(0, free=79)), there, needs)
    with pytest.raises(Unavailable):
        place(trt(), machine(gpu(0, free=40)), there, needs, loading={"G0"})


def test_a_place_says_what_is_taken_of_it():
    """A greedy engine its share of what is free, another what its slots need; unknown needs take the whole GPU."""
    alone = machine(gpu(0, free=70))
    assert place(trt(), alone, [], Needs(30 * GIB, GIB, greedy=True)).gpu_bytes == (64 * GIB,)
    assert place(trt(), alone, [], Needs(30 * GIB, GIB)).gpu_bytes == (32 * GIB,)
    assert place(trt(), alone, []).gpu_bytes == ()


def test_an_engine_gets_the_architecture_that_it_was_built_for():
    """Also where another GPU is emptier; formats ask for a least one; none is told in words."""
    mixed = machine(gpu(0, free=60), gpu(1, free=79, capability=(8, 0)), gpu(2, free=70, capability=(10, 0)))
    assert place(trt(), mixed, [], Needs(GIB, sm=90)).gpus == ("G0",)
    assert place(trt(), mixed, [], Needs(GIB, least_sm=89)).gpus == ("G2",)
    assert place(trt(), mixed, [], Needs(GIB)).gpus == ("G1",)
    with pytest.raises(Unavailable, match=r"1 GPU of compute capability 7\.5 with"):
        place(trt(), mixed, [], Needs(GIB, sm=75))
    with pytest.raises(Unavailable, match=r"of compute capability 12\.0 or later"):
        place(trt(), mixed, [], Needs(GIB, least_sm=120))


def test_ranks_are_not_put_on_mig_instances():
    """They cannot reach one another; a single rank can have one."""
    hardware = machine(*(replace(gpu(0), uuid=f"MIG-{n}", mig=True) for n in range(2)))
    assert gpus(trt(), hardware) == ("MIG-0",)
    with pytest.raises(Unavailable, match="2 GPUs wanted, 0 of 2"):
        gpus(trt(2), hardware)


def test_too_few_gpus_are_told_in_numbers():
    """How many are wanted, there, held; and on a machine without any, why."""
    with pytest.raises(Unavailable, match="4 GPUs wanted, 2 of 4 of this machine free"):
        gpus(trt(4), PAIRS, ("G0", "G2"))
    with pytest.raises(Unavailable, match="2 GPUs wanted: no GPU: none"):
        gpus(trt(2), machine())


def test_many_gpus_are_chosen_from_in_time():
    """Of 64, neighbours are compared instead of all sets."""
    assert len(gpus(trt(8), machine(*(gpu(n) for n in range(64))))) == 8


def test_vllm_takes_gpus_where_there_are_any_and_processors_else():
    """On a CPU each rank has its own threads."""
    spec = EngineSpec("vllm", tensor_parallel=2, threads=2)
    assert gpus(spec, PAIRS) == ("G0", "G2")
    assert (cores_wanted(spec), place(spec, machine(), []).cores) == (4, (0, 1, 2, 3))


def test_instances_get_processors_of_their_own_until_there_are_none():
    """Then the least loaded are shared: nobody is refused."""
    taken, nodes = [], ((0, 2, 1, 3),)  # 0 and 1 are one physical core
    for threads in (1, 1, 2, 1):
        taken.append(place(llama(threads), machine(nodes=nodes), taken))
    assert [placement.cores for placement in taken] == [(0,), (2,), (1, 3), (0,)]


def test_the_processors_of_one_instance_are_on_one_numa_node_where_that_costs_nothing():
    """Also when the lower node has a free one; where no node has enough, both are used."""
    hardware = machine(nodes=((0, 1), (2, 3)))
    assert place(llama(2), hardware, [Placement(cores=(0,))]).cores == (2, 3)
    assert place(llama(3), hardware, []).cores == (0, 1, 2)
    assert place(llama(2), hardware, [Placement(cores=(0,)), Placement(cores=(2,))]).cores == (1, 3)


def test_one_that_wants_more_processors_than_there_are_may_use_all():
    """Nothing is pinned then."""
    assert place(llama(5), machine(), []) == Placement()


@given(
    st.lists(st.integers(1, 3), max_size=6).map(lambda sizes: [tuple(range(s)) for s in sizes]),
    st.lists(st.integers(1, 4), min_size=1, max_size=8),
)
def test_processors_are_shared_as_evenly_as_can_be(shapes, wishes):
    """Whatever the nodes: as many as wished, each once, and disjoint as long as there are free ones."""
    first, nodes = 0, []
    for shape in [*shapes, (0, 1, 2, 3)]:
        nodes.append(tuple(first + core for core in shape))
        first += len(shape)
    hardware, taken = machine(nodes=tuple(nodes)), []
    for threads in wishes:
        free = set(range(first)) - {core for placement in taken for core in placement.cores}
        placement = place(llama(threads), hardware, taken)
        assert len(set(placement.cores)) == len(placement.cores) == threads
        assert len(free) < threads or set(placement.cores) <= free
        assert place(llama(threads), hardware, taken) == placement
        taken.append(placement)


@given(st.lists(st.tuples(st.integers(0, 80), st.integers(0, 1)), max_size=8), st.integers(1, 4), st.integers(0, 8))
def test_gpus_are_the_wished_number_free_and_there_or_it_is_refused(frees, tensor, held):
    """Never one that another holds, never one twice."""
    hardware = machine(*(gpu(n, free=free, numa=numa) for n, (free, numa) in enumerate(frees)))
    taken = tuple(f"G{n}" for n in range(held))
    free = [g.uuid for g in hardware.gpus if g.uuid not in taken]
    if len(free) < tensor:
        with pytest.raises(Unavailable):
            gpus(trt(tensor), hardware, taken)
        return
    chosen = gpus(trt(tensor), hardware, taken)
    assert len(set(chosen)) == tensor and set(chosen) <= set(free)


def test_this_machine_says_what_of_its_memory_is_to_be_had():
    """More than nothing, and no more than it has."""
    seen = read_hardware(".")
    assert seen.memory_available > 0
    assert seen.memory_available <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
