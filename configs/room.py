"""Room for a candidate beside what already runs on a machine: from the store's records to a plan. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from engines.devices.sharing import able, held_by, room_on, taken_bytes
from engines.hardware import Hardware
from engines.port import EngineSpec, Needs, Placement, spec_of
from engines.sizing.memory import CUDA_CONTEXT
from engines.sizing.together import HOST, Device, Held, Occupant, Together, left_by, plan_together
from rollout.errors import Refused
from rollout.nouns import Health
from store.port import InstanceState, Release, VersionState

STACK_BYTES = 1 << 30  # of the host's memory, for the stack itself: 0.6 GiB were measured idle
_BEST = ("side by side", "shrink", "borrow", "stop-start")
_LOADED = (Health.WARMING, Health.READY, Health.DRAINING)  # they have taken the memory that they need


@dataclass(frozen=True)
class Wanted:
    """A candidate as it was planned: of which service, how it is served, what one instance needs, how many."""

    service: str
    spec: EngineSpec
    needs: Needs
    instances: int


@dataclass(frozen=True)
class Room:
    """What to do, and which versions that are only kept warm have to go first."""

    plan: Together
    retire: tuple[int, ...] = ()


@dataclass(frozen=True)
class Machine:
    """What a candidate is planned on: ``versions`` with the instances that each should have now, those that there are,
    and the candidates of other releases that were given ``promised`` room and are not declared yet."""

    hardware: Hardware
    versions: Sequence[VersionState]
    instances: Sequence[InstanceState]
    promised: Sequence[Wanted] = ()
    gone: frozenset[tuple[str, int]] = field(default_factory=frozenset)  # (service, version) that end before

    def running(self) -> list[VersionState]:
        """Versions that should have instances and go on having them."""
        return [v for v in self.versions if v.instances and (v.service, v.number) not in self.gone]


def room_for(
    wanted: Wanted,
    stable: int | None,
    versions: Iterable[VersionState],
    instances: Sequence[InstanceState],
    hardware: Hardware,
    promised: Sequence[Wanted] = (),
    baseline: Wanted | None = None,
) -> Room:
    """The least change with which the candidate can start beside ``stable``, its service's version in service.

    Versions of the service that are kept warm for a way back make room when that saves more than that. A ``baseline``,
    which the candidate is compared with, gets its room first, and stable lends it none. Raises Refused with the numbers
    of every way.
    """
    machine = Machine(hardware, list(versions), instances, promised)
    running = machine.running()
    warm = tuple(v.number for v in running if v.service == wanted.service and v.number != stable and v.retire_at)
    whole = _planned_beside(baseline, wanted, stable, machine)
    if not warm or (isinstance(whole, Together) and whole.way == "side by side"):
        return Room(_given(whole))
    emptied = replace(machine, gone=frozenset((wanted.service, n) for n in warm))
    without = _planned_beside(baseline, wanted, stable, emptied)
    better = isinstance(without, Together) and (isinstance(whole, Refused) or _rank(without) < _rank(whole))
    return Room(_given(without), warm) if better else Room(_given(whole))


def _rank(plan: Together) -> int:
    return _BEST.index(plan.way)


def _given(plan: Together | Refused) -> Together:
    if isinstance(plan, Refused):
        raise plan
    return plan


def _planned_beside(
    baseline: Wanted | None, wanted: Wanted, stable: int | None, machine: Machine
) -> Together | Refused:
    """Both are given room, or the way that the baseline alone would have to go is told."""
    if baseline is None:
        return _planned(wanted, stable, machine)
    alone = _planned(baseline, stable, machine)
    if isinstance(alone, Refused) or alone.way != "side by side":
        told = str(alone) if isinstance(alone, Refused) else alone.sentence
        fix = "release under a policy without a baseline, or free memory"
        return Refused("baseline", baseline.instances, f"there is no room for it beside stable: {told}", fix)
    return _planned(wanted, stable, replace(machine, promised=(*machine.promised, baseline)))


def _planned(wanted: Wanted, stable: int | None, machine: Machine) -> Together | Refused:
    beside = next((v for v in machine.running() if (v.service, v.number) == (wanted.service, stable)), None)
    candidate = _occupant(f"{wanted.service}'s candidate", wanted.spec, wanted.needs, wanted.instances, ())
    try:
        if not wanted.needs.devices:
            free = Device(HOST, _free_memory(machine, beside))
            return plan_together(_beside(beside, _on_host(beside)), candidate, (free,))
        free_bytes = _free_gpus(machine)
        usable = able(machine.hardware.gpus, wanted.needs)
        devices = tuple(Device(gpu.uuid, free_bytes[gpu.uuid]) for gpu in usable)
        return plan_together(_beside(beside, _on_gpus(beside, machine)), candidate, devices)
    except Refused as refusal:
        return refusal


def _beside(version: VersionState | None, placed: tuple[Held, ...]) -> Occupant:
    if version is None:
        return Occupant("nothing", 0, 1, 0)
    return _occupant(f"version {version.number}", spec_of(version.spec), needs_of(version), len(placed), placed)


def _occupant(name: str, spec: EngineSpec, needs: Needs, instances: int, placed: tuple[Held, ...]) -> Occupant:
    share = spec.memory_fraction if needs.greedy else 1.0
    devices = max(1, needs.devices)
    fixed, one, greedy = needs.fixed_bytes, needs.request_bytes, needs.greedy
    return Occupant(name, instances, devices, fixed, one, spec.slots, share, greedy, placed)


def needs_of(version: VersionState) -> Needs:
    """What one instance takes; of a version from before that was noted, the size of its files."""
    known = version.engine.get("needs")
    return Needs(**known) if known else Needs(fixed_bytes=int(version.engine["size"]))


def promise(wanted: Wanted, baseline: Wanted | None = None) -> dict[str, Any]:
    """A candidate, and the baseline beside it, as the mapping that their release keeps until they are declared."""
    return {**asdict(wanted), **({"baseline": asdict(baseline)} if baseline else {})}


def promised(releases: Iterable[Release], own: str, since: float) -> list[Wanted]:
    """Candidates and baselines that other releases, under way and heard of since then, have not declared yet."""
    made = [r for r in releases if r.id != own and r.phase.active and r.promised and r.beat_at >= since]
    candidates = (r.promised for r in made if r.candidate is None)
    baselines = (r.promised["baseline"] for r in made if r.baseline is None and "baseline" in r.promised)
    kept = (*candidates, *baselines)
    return [Wanted(p["service"], spec_of(p["spec"]), Needs(**p["needs"]), p["instances"]) for p in kept]


def baseline_of(service: str, stable: int | None, instances: int, versions: Iterable[VersionState]) -> Wanted | None:
    """What a copy of the version in service needs, with so many instances; None where none is in service."""
    found = next((v for v in versions if (v.service, v.number) == (service, stable)), None)
    return Wanted(service, spec_of(found.spec), needs_of(found), instances) if found else None


# --- the host's memory


def _free_memory(machine: Machine, beside: VersionState | None) -> int:
    """Of the whole less the stack, and of what Linux says is to be had plus what our loaded instances hold of it:
    others use the machine too. What versions should have counts, running or not."""
    hardware, versions = machine.hardware, {(v.service, v.number): v for v in machine.versions}
    most = hardware.memory_bytes - STACK_BYTES
    if hardware.memory_available:
        loaded = (versions.get((i.service, i.version)) for i in machine.instances if i.health in _LOADED)
        most = min(most, hardware.memory_available + sum(_instance_bytes(v) for v in loaded if v))
    used = sum(v.instances * _instance_bytes(v) for v in machine.running())
    used += sum(w.instances * _host_bytes(w.needs, w.spec) for w in machine.promised)
    return max(0, most - used)


def _host_bytes(needs: Needs, spec: EngineSpec) -> int:
    return 0 if needs.devices else needs.fixed_bytes + needs.request_bytes * spec.slots


def _instance_bytes(version: VersionState) -> int:
    return _host_bytes(needs_of(version), spec_of(version.spec))


def _on_host(version: VersionState | None) -> tuple[Held, ...]:
    return () if version is None else ({HOST: _instance_bytes(version)},) * version.instances


# --- GPUs


def _free_gpus(machine: Machine) -> dict[str, int]:
    """Bytes of each GPU that a candidate can count on: those of versions that end come back; instances that have no
    place yet, and the candidates of other releases, get theirs first."""
    held, given = _held(machine), _given_back(machine)
    ends = {i.id for i in machine.instances if (i.service, i.version) in machine.gone}
    free = {}
    for gpu in machine.hardware.gpus:
        stay = [on[gpu.uuid] for name, on in held.items() if gpu.uuid in on and name not in ends]
        free[gpu.uuid] = room_on(gpu, stay, sum(given[name].get(gpu.uuid, 0) for name in ends & given.keys()))
    for needs, pending in _pending(machine):
        usable = {gpu.uuid: free[gpu.uuid] for gpu in able(machine.hardware.gpus, needs)}
        free |= left_by(pending, usable)
    return free


def _pending(machine: Machine) -> list[tuple[Needs, Occupant]]:
    """What will be on GPUs and is not yet: instances without a place, and candidates that are not declared yet."""
    placed = Counter((i.service, i.version) for i in machine.instances if i.placement.get("gpus"))
    waiting = [
        Wanted(v.service, spec_of(v.spec), needs_of(v), max(0, v.instances - placed[v.service, v.number]))
        for v in machine.running()
    ]
    return [
        (w.needs, _occupant(w.service, w.spec, w.needs, w.instances, ()))
        for w in (*waiting, *machine.promised)
        if w.needs.devices and w.instances
    ]


def _held(machine: Machine) -> dict[str, dict[str, int]]:
    """What each instance takes of its GPUs once it has loaded: as noted when it was placed, else by its needs."""
    gpus = {gpu.uuid: gpu for gpu in machine.hardware.gpus}
    versions = {(v.service, v.number): v for v in machine.versions}
    found = {}
    for instance in machine.instances:
        placement = placement_of(instance.placement)
        version = versions.get((instance.service, instance.version))
        if placement.gpus and not placement.gpu_bytes and version is not None:
            whole = (gpus[uuid].memory_bytes if uuid in gpus else 0 for uuid in placement.gpus)
            placement = replace(placement, gpu_bytes=tuple(_takes(version, size) for size in whole))
        found[instance.id] = {uuid: size for uuid, size in held_by(placement, gpus).items() if uuid in gpus}
    return found


def _takes(version: VersionState, memory_bytes: int) -> int:
    needs, spec = needs_of(version), spec_of(version.spec)
    fixed, one, share = needs.fixed_bytes, needs.request_bytes, spec.memory_fraction
    return taken_bytes(fixed, one, spec.slots, share, needs.greedy, memory_bytes - CUDA_CONTEXT)


def _given_back(machine: Machine) -> dict[str, dict[str, int]]:
    """What is free on each of its GPUs when an instance ends: what it takes, and of a GPU that several use never more
    than its part of what is used there."""
    held, used = _held(machine), {gpu.uuid: gpu.memory_bytes - gpu.free_bytes for gpu in machine.hardware.gpus}
    total: Counter[str] = Counter()
    for on in held.values():
        total.update(on)

    def part(uuid: str, size: int) -> int:
        return min(size, used[uuid] * size // total[uuid]) if total[uuid] else 0

    return {name: {uuid: part(uuid, size) for uuid, size in on.items()} for name, on in held.items()}


def placement_of(stored: Mapping[str, Any]) -> Placement:
    """A placement from its stored mapping."""
    return Placement(**{name: tuple(values) for name, values in stored.items()})


def _on_gpus(version: VersionState | None, machine: Machine) -> tuple[Held, ...]:
    """What each of its instances gives back when it ends, in order."""
    if version is None:
        return ()
    given = _given_back(machine)
    mine = [i for i in machine.instances if (i.service, i.version) == (version.service, version.number)]
    ordered = sorted(mine, key=lambda i: i.ordinal)
    return tuple(given[i.id] for i in ordered)
