"""Room for a candidate beside what already runs on a machine: from the store's records to a plan. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engines.hardware import Hardware
from engines.port import EngineSpec, Needs, spec_of
from engines.sizing.together import HOST, Device, Held, Occupant, Together, plan_together
from rollout.errors import Refused
from store.port import InstanceState, VersionState

STACK_BYTES = 1 << 30  # of the host's memory, for the stack itself: 0.6 GiB were measured idle
_BEST = ("side by side", "shrink", "borrow", "stop-start")


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


def room_for(
    wanted: Wanted,
    stable: int | None,
    versions: Iterable[VersionState],
    instances: Sequence[InstanceState],
    hardware: Hardware,
) -> Room:
    """The least change with which the candidate can start beside ``stable``, its service's version in service.

    Versions of the service that are kept warm for a way back make room when that saves more than that. Raises Refused
    with the numbers of every way.
    """
    running = [v for v in versions if v.instances]
    warm = tuple(v.number for v in running if v.service == wanted.service and v.number != stable and v.retire_at)
    whole = _planned(wanted, stable, running, instances, hardware)
    if not warm or (isinstance(whole, Together) and whole.way == "side by side"):
        return Room(_given(whole))
    left = [v for v in running if v.service != wanted.service or v.number not in warm]
    without = _planned(wanted, stable, left, instances, hardware)
    better = isinstance(without, Together) and (isinstance(whole, Refused) or _rank(without) < _rank(whole))
    return Room(_given(without), warm) if better else Room(_given(whole))


def _rank(plan: Together) -> int:
    return _BEST.index(plan.way)


def _given(plan: Together | Refused) -> Together:
    if isinstance(plan, Refused):
        raise plan
    return plan


def _planned(
    wanted: Wanted,
    stable: int | None,
    running: list[VersionState],
    instances: Sequence[InstanceState],
    hardware: Hardware,
) -> Together | Refused:
    beside = next((v for v in running if (v.service, v.number) == (wanted.service, stable)), None)
    candidate = _occupant(f"{wanted.service}'s candidate", wanted.spec, wanted.needs, wanted.instances, ())
    try:
        if not wanted.needs.devices:
            others = sum(_host_bytes(v) for v in running if v is not beside)
            free = hardware.memory_bytes - STACK_BYTES - others - (_host_bytes(beside) if beside else 0)
            return plan_together(_beside(beside, _on_host(beside)), candidate, (Device(HOST, max(0, free)),))
        devices = tuple(Device(gpu.uuid, gpu.free_bytes) for gpu in hardware.gpus)
        return plan_together(_beside(beside, _on_gpus(beside, instances, hardware)), candidate, devices)
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


def _host_bytes(version: VersionState) -> int:
    return version.instances * _instance_bytes(version)


def _instance_bytes(version: VersionState) -> int:
    needs = needs_of(version)
    return 0 if needs.devices else needs.fixed_bytes + needs.request_bytes * spec_of(version.spec).slots


def _on_host(version: VersionState | None) -> tuple[Held, ...]:
    return () if version is None else ({HOST: _instance_bytes(version)},) * version.instances


def _on_gpus(version: VersionState | None, instances: Sequence[InstanceState], hardware: Hardware) -> tuple[Held, ...]:
    """What each instance holds: on a GPU of its own all that is not free there."""
    if version is None:
        return ()
    used = {gpu.uuid: gpu.memory_bytes - gpu.free_bytes for gpu in hardware.gpus}
    mine = [i for i in instances if (i.service, i.version) == (version.service, version.number)]
    ordered = sorted(mine, key=lambda i: i.ordinal)
    return tuple({uuid: used.get(uuid, 0) for uuid in i.placement.get("gpus", ())} for i in ordered)
