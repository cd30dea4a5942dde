"""Stable and candidate on the same scarce devices: side by side, with a smaller cache, on borrowed room, or in turn.

Pure. Sizes are bytes of one device; a machine without GPUs is one device, its memory. Whatever two occupants and
devices are given, there is an answer or a refusal with the numbers of every way; nothing here waits for room.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from engines.devices.sharing import least_bytes, taken_bytes
from engines.hardware import Hardware
from engines.sizing.measure import Demand, fit, gib
from engines.sizing.shape import ModelShape
from rollout.errors import Refused

Way = Literal["side by side", "shrink", "borrow", "stop-start"]
Held = Mapping[str, int]  # device -> bytes that one instance holds on it
HOST = "memory"  # the one device of a machine without GPUs
_SHARES = 100  # steps in which a share of the memory is chosen
_MOST_SHARE = 97  # of them; allocators need some


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
        return max(1, least_bytes(self.fixed_bytes, self.request_bytes, slots, self.memory_fraction))


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
    settings: Mapping[str, int | float] = field(default_factory=dict)
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
    with another share for its cache or fewer slots ("shrink"), after some of stable's instances ended ("borrow"), after
    all did ("stop-start").

    Where stable is not ``placed`` it is put on the devices first; where both have room only if stable begins with a
    smaller share, the sentence names it. Raises Refused with the numbers of every way.
    """
    free = {device.name: device.free_bytes for device in devices}
    try:
        told = _least_change(_settled(stable, room := dict(free)), candidate, room)
    except Refused:
        if (shared := _with_set_shares(stable, candidate, free)) is not None:
            return shared
        raise
    if told.stop and (shared := _with_set_shares(stable, candidate, free)) is not None:
        return shared
    return told


def left_by(pending: Occupant, free: Held) -> dict[str, int]:
    """Free bytes by device once ``pending`` is there too; as they were where it has no room and waits."""
    slots = _most_slots(pending, free)
    total = _total((_pack(free, pending, slots) if slots else None) or ())
    return {name: size - total[name] for name, size in free.items()}


def _least_change(stable: Occupant, candidate: Occupant, free: Held) -> Together:
    running = len(stable.placed)
    rooms = {stop: _room(stable, free, stop) for stop in range(running + 1)}
    for stops in ((0,), range(1, running), (running,)):
        for attempt in (_try, _with_share, _with_fewer_slots, _with_both):
            for stop in stops:
                told = attempt(stable, candidate, rooms[stop], stop)
                if told is not None:
                    return told
    raise _refusal(stable, candidate, rooms)


def _with_set_shares(stable: Occupant, candidate: Occupant, free: Held) -> Together | None:
    """Both with all their slots, where a stable that does not run yet begins with a smaller share: the largest with
    which both fit."""
    if stable.placed or not stable.instances or not stable.greedy:
        return None
    for attempt in (_try, _with_share):
        for share in range(round(stable.memory_fraction * _SHARES) - 1, 0, -1):
            smaller = replace(stable, memory_fraction=share / _SHARES)
            places = _pack(free, smaller, stable.slots)
            if places is None:
                continue
            room = {name: size - _total(places)[name] for name, size in free.items()}
            told = attempt(smaller, candidate, room, 0)
            if told is not None:
                begins = f"if {stable.name} has memory_fraction {share / _SHARES:g} from its start"
                return replace(told, way="shrink", sentence=f"{begins}, {told.sentence}")
    return None


def _settled(stable: Occupant, free: dict[str, int]) -> Occupant:
    """Stable on its devices; what it takes goes off ``free``. Raises Refused when it has no room itself."""
    if stable.placed or not stable.instances:
        return stable
    slots = _most_slots(stable, free)
    placed = _pack(free, stable, slots) if slots else None
    if placed is None:
        there = f"{gib(max(free.values(), default=0))} free on the emptiest of {len(free)}"
        rule = f"{_needs(stable)}, before any candidate"
        raise Refused("memory", there, rule, f"fewer instances of {stable.name}, or more devices")
    for name, size in _total(placed).items():
        free[name] -= size
    return replace(stable, placed=placed)


def _total(places: Sequence[Held]) -> Counter[str]:
    total: Counter[str] = Counter()
    for place in places:
        total.update(place)
    return total


def _room(stable: Occupant, free: Held, stop: int) -> dict[str, int]:
    """Free bytes by device after the last ``stop`` instances of stable have ended."""
    room = Counter(free)
    for held in stable.placed[len(stable.placed) - stop :]:
        room.update({name: size for name, size in held.items() if name in free})
    return dict(room)


def _try(stable: Occupant, candidate: Occupant, room: Held, stop: int) -> Together | None:
    """The plan with all it asks for after ``stop`` instances of stable ended, if there is one."""
    return _told(stable, candidate, candidate, room, stop)


def _with_share(stable: Occupant, candidate: Occupant, room: Held, stop: int) -> Together | None:
    """With all its slots and another share of what is free then: the largest that is smaller, else the least that is
    larger."""
    if not candidate.greedy:
        return None
    own = round(candidate.memory_fraction * _SHARES)
    for share in (*range(own - 1, 0, -1), *range(own + 1, _MOST_SHARE + 1)):
        asked = replace(candidate, memory_fraction=share / _SHARES)
        if (told := _told(stable, candidate, asked, room, stop)) is not None:
            return told
    return None


def _with_fewer_slots(stable: Occupant, candidate: Occupant, room: Held, stop: int) -> Together | None:
    slots = _most_slots(candidate, room)
    return _told(stable, candidate, replace(candidate, slots=slots), room, stop) if slots else None


def _with_both(stable: Occupant, candidate: Occupant, room: Held, stop: int) -> Together | None:
    """With the smaller share that holds the most slots: several greedy instances on one device need that."""
    if not candidate.greedy:
        return None
    shares = range(round(candidate.memory_fraction * _SHARES) - 1, 0, -1)
    asked = [replace(candidate, memory_fraction=share / _SHARES) for share in shares]
    given = [replace(one, slots=_most_slots(one, room)) for one in asked]
    best = max(given, key=lambda one: one.slots, default=candidate)
    return _told(stable, candidate, best, room, stop) if best.slots else None


def _told(stable: Occupant, wanted: Occupant, given: Occupant, room: Held, stop: int) -> Together | None:
    """The plan with what the candidate is ``given`` of what it ``wanted``."""
    held = _pack(room, given, given.slots)
    if held is None:
        return None
    cache = max(0, min((size for place in held for size in place.values()), default=0) - given.fixed_bytes)
    settings: dict[str, int | float] = {}
    if given.slots != wanted.slots:
        settings["slots"] = given.slots
    if given.memory_fraction != wanted.memory_fraction:
        settings["memory_fraction"] = given.memory_fraction
    running = len(stable.placed)
    way: Way = "shrink" if settings else "side by side"
    if stop:
        way = "stop-start" if stop == running else "borrow"
    return Together(way, held, cache, stop, settings, _sentence(way, stable, given, stop, wanted.slots, cache))


def _most_slots(who: Occupant, room: Held) -> int:
    """The most slots with which all its instances have room; 0: not even with one."""
    low, high = 0, who.slots
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _pack(room, who, middle) is not None else (low, middle - 1)
    return low


def _pack(room: Held, who: Occupant, slots: int) -> tuple[Held, ...] | None:
    """What each instance then holds, one after the other as they are started, each on as many different devices as it
    needs, the emptiest first. A greedy one leaves the next only what its share leaves."""
    size, left, places = who.size(slots), dict(room), []
    for _ in range(who.instances):
        chosen = sorted(left, key=lambda name: -left[name])[: who.devices]
        if len(chosen) < who.devices or any(left[name] < size for name in chosen):
            return None
        fixed, one, share = who.fixed_bytes, who.request_bytes, who.memory_fraction
        held = {name: taken_bytes(fixed, one, slots, share, who.greedy, left[name]) for name in chosen}
        left.update({name: left[name] - taken for name, taken in held.items()})
        places.append(held)
    return tuple(places)


def _sentence(way: Way, stable: Occupant, candidate: Occupant, stop: int, slots: int, cache: int) -> str:
    room = f"{candidate.name} has {gib(cache)} of cache on each device, for {candidate.slots} of its {slots} slots"
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
