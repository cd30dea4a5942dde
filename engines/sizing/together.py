"""Stable and candidate on the same scarce devices: side by side, with a smaller cache, on borrowed room, or in turn.

Pure. Sizes are bytes of one device; a machine without GPUs is one device, its memory. Whatever two occupants and
devices are given, there is an answer or a refusal with the numbers of every way; nothing here waits for room.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Literal

from engines.hardware import Hardware
from engines.sizing.measure import Demand, fit, gib
from engines.sizing.shape import ModelShape
from rollout.errors import Refused

Way = Literal["side by side", "shrink", "borrow", "stop-start"]
Held = Mapping[str, int]  # device -> bytes that one instance holds on it
HOST = "memory"  # the one device of a machine without GPUs


@dataclass(frozen=True)
class Device:
    """A GPU (by NVML UUID), or the host's memory, with what is free of it now."""

    name: str
    free_bytes: int


@dataclass(frozen=True)
class Occupant:
    """One version's needs, in bytes of each of the ``devices`` that one instance takes.

    ``fixed_bytes`` are there whatever the cache is; ``request_bytes`` is the cache of one request, and ``slots``
    requests are wanted. The cache may take ``memory_fraction`` of what is left; where ``greedy`` it takes that much
    even if fewer would do, as GPU engines do. ``placed``: what each running instance holds on which device, bytes that
    are no more in ``free_bytes``; empty: it does not run yet.
    """

    name: str
    instances: int
    devices: int
    fixed_bytes: int
    request_bytes: int = 0
    slots: int = 1
    memory_fraction: float = 1.0
    greedy: bool = False
    placed: tuple[Held, ...] = ()

    def size(self, slots: int) -> int:
        """Bytes of a device with which one instance can hold so many requests."""
        return max(1, self.fixed_bytes + ceil(self.request_bytes * slots / self.memory_fraction))


@dataclass(frozen=True)
class Together:
    """What to do. ``places``: what each instance of the candidate then holds on which device; ``cache_bytes`` is its
    cache on each, at least. ``stop``: how many of stable's instances end first (the last of ``Occupant.placed``).

    ``settings`` change in the candidate's spec; stable is never restarted with other settings.
    """

    way: Way
    places: tuple[Held, ...]
    cache_bytes: int
    stop: int = 0
    settings: Mapping[str, int] = field(default_factory=dict)
    sentence: str = ""


def devices_of(hardware: Hardware) -> tuple[Device, ...]:
    """The GPUs, or where there are none the machine's memory."""
    if not hardware.gpus:
        return (Device(HOST, hardware.memory_bytes),)
    return tuple(Device(gpu.uuid, gpu.free_bytes) for gpu in hardware.gpus)


def occupant(name: str, shape: ModelShape, demand: Demand, instances: int, draft: ModelShape | None = None) -> Occupant:
    """A version as vLLM or TensorRT-LLM serve it. On a CPU all ranks are on the one device."""
    shared = demand.device == "cpu"
    ranks, found = demand.world if shared else 1, fit(shape, demand, 0, draft=draft)
    return Occupant(
        name,
        instances,
        1 if shared else demand.world,
        found.fixed_bytes * ranks,
        found.sequence_bytes * ranks,
        demand.slots,
        demand.memory_fraction,
        greedy=not shared,
    )


def plan_together(stable: Occupant, candidate: Occupant, devices: Sequence[Device]) -> Together:
    """How the candidate can start, the least change first: with all its slots beside all of stable ("side by side"),
    with fewer slots ("shrink"), after some of stable's instances ended ("borrow"), after all did ("stop-start").

    Where stable is not ``placed`` it is put on the devices first. Raises Refused with the numbers of every way.
    """
    free = {device.name: device.free_bytes for device in devices}
    stable = _settled(stable, free)
    running = len(stable.placed)
    kept = range(1, running)
    rooms = {stop: _room(stable, free, stop) for stop in range(running + 1)}
    for stops in ((0,), kept, (running,)):
        for slots in (candidate.slots, 0):
            for stop in stops:
                told = _try(stable, candidate, rooms[stop], stop, slots)
                if told is not None:
                    return told
    raise _refusal(stable, candidate, rooms)


def _settled(stable: Occupant, free: dict[str, int]) -> Occupant:
    """Stable on its devices; what it takes goes off ``free``. Raises Refused when it has no room itself."""
    if stable.placed or not stable.instances:
        return stable
    slots = _most_slots(stable, free)
    places = _pack(free, stable, slots) if slots else None
    if places is None:
        there = f"{gib(max(free.values(), default=0))} free on the emptiest of {len(free)}"
        rule = f"{_needs(stable)}, before any candidate"
        raise Refused("memory", there, rule, f"fewer instances of {stable.name}, or more devices")
    placed = _held(stable, free, places, slots)
    for held in placed:
        for name, size in held.items():
            free[name] -= size
    return replace(stable, placed=placed)


def _room(stable: Occupant, free: Held, stop: int) -> dict[str, int]:
    """Free bytes by device after the last ``stop`` instances of stable have ended."""
    room = Counter(free)
    for held in stable.placed[len(stable.placed) - stop :]:
        room.update({name: size for name, size in held.items() if name in free})
    return dict(room)


def _try(stable: Occupant, candidate: Occupant, room: Held, stop: int, slots: int) -> Together | None:
    """The plan with so many slots (0: as many as fit) after ``stop`` instances of stable ended, if there is one."""
    slots = slots or _most_slots(candidate, room)
    places = _pack(room, candidate, slots) if slots else None
    if places is None:
        return None
    held = _held(candidate, room, places, slots)
    cache = min((size for place in held for size in place.values()), default=0) - candidate.fixed_bytes
    fewer = slots < candidate.slots
    running = len(stable.placed)
    way: Way = (
        "stop-start" if running and stop == running else "borrow" if stop else "shrink" if fewer else "side by side"
    )
    settings = {"slots": slots} if fewer else {}
    return Together(way, held, max(0, cache), stop, settings, _sentence(way, stable, candidate, stop, slots, cache))


def _most_slots(who: Occupant, room: Held) -> int:
    """The most slots with which all its instances have room; 0: not even with one."""
    low, high = 0, who.slots
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _pack(room, who, middle) is not None else (low, middle - 1)
    return low


def _pack(room: Held, who: Occupant, slots: int) -> tuple[tuple[str, ...], ...] | None:
    """Devices of each instance, the emptiest first, each instance on as many different ones as it needs."""
    size = who.size(slots)
    left = {name: free // size for name, free in room.items()}
    places = []
    for _ in range(who.instances):
        chosen = sorted(left, key=lambda name: (-left[name], -room[name]))[: who.devices]
        if len(chosen) < who.devices or any(left[name] < 1 for name in chosen):
            return None
        left.update({name: left[name] - 1 for name in chosen})
        places.append(tuple(chosen))
    return tuple(places)


def _held(who: Occupant, room: Held, places: Sequence[Sequence[str]], slots: int) -> tuple[Held, ...]:
    """What each instance takes: instances of one version share a device evenly."""
    sharing = Counter(name for place in places for name in place)

    def on(name: str) -> int:
        left = room[name] // sharing[name] - who.fixed_bytes
        wanted = who.request_bytes * slots
        return who.fixed_bytes + (max(wanted, int(who.memory_fraction * left)) if who.greedy else wanted)

    return tuple({name: on(name) for name in place} for place in places)


def _sentence(way: Way, stable: Occupant, candidate: Occupant, stop: int, slots: int, cache: int) -> str:
    room = f"{candidate.name} has {gib(cache)} of cache on each device, for {slots} of its {candidate.slots} slots"
    match way:
        case "side by side":
            return f"all of {stable.name} stays; {room}"
        case "shrink":
            return f"all of {stable.name} stays and {candidate.name} gets a smaller cache; {room}"
        case "borrow":
            kept = len(stable.placed) - stop
            return f"{stop} of {stable.name}'s {stop + kept} instances ends first, {kept} kept; {room}"
        case "stop-start":
            return f"all of {stable.name} ends first ({stop} instances), so nobody answers until then; {room}"


def _needs(who: Occupant) -> str:
    needed = gib(who.size(1))
    return f"{who.instances} of {who.name} need {needed} at least on {who.devices} each"


def _refusal(stable: Occupant, candidate: Occupant, rooms: Mapping[int, Held]) -> Refused:
    running = len(stable.placed)
    named = {"side by side or with a smaller cache": 0, "with room borrowed": running - 1, "with all stopped": running}
    numbers = [
        f"{way} {gib(max(rooms[stop].values(), default=0))} are free on the emptiest of {len(rooms[stop])}"
        for way, stop in named.items()
        if stop == 0 or (stop > 0 and (stop < running or way == "with all stopped"))
    ]
    now = gib(max(rooms[0].values(), default=0)) + " free"
    fix = f"for {candidate.name} choose smaller weights, fewer instances, a shorter context or more parallelism"
    return Refused("memory", now, f"{_needs(candidate)}; {'; '.join(numbers)}", f"{fix}, or add a device")
