"""Which doors of a state the proxy refuses, where our own rules pass it: the others must not wait for them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set

from gateway.port import GatewayState, GroupRoute, ServiceRoute
from gateway.rules import structure
from rollout.errors import RoundhouseError

Door = ServiceRoute | GroupRoute
Put = Callable[[Set[str]], RoundhouseError | None]  # in force but for the doors named, which stay as they were


def changed_doors(wanted: GatewayState, good: GatewayState | None) -> dict[str, Door]:
    """The doors of ``wanted``, without the numbers in them, that are new or differ in more than numbers."""
    before = _bones(good) if good else {}
    return {name: door for name, door in _bones(wanted).items() if before.get(name) != door}


def refused_doors(doors: Sequence[str], error: RoundhouseError, put: Put) -> dict[str, str]:
    """Put in force what can be, and say why not of each other door. ``error``: why not all ``doors`` at once.

    Raises ``error`` when it is none of them.
    """
    if not doors or put(frozenset(doors)):
        raise error
    return _by_halves(doors, frozenset(doors), error, put)


def _by_halves(doors: Sequence[str], held: Set[str], error: RoundhouseError, put: Put) -> dict[str, str]:
    """``doors`` cannot be put in force together beside all that is not ``held`` back."""
    if len(doors) == 1:
        return {doors[0]: str(error)}
    refused: dict[str, str] = {}
    middle = len(doors) // 2
    for half in (doors[:middle], doors[middle:]):
        if why := put(held - frozenset(half)):
            refused |= _by_halves(half, held, why, put)
        held = held - (frozenset(half) - refused.keys())
    return refused


def _bones(state: GatewayState) -> dict[str, Door]:
    bare = structure(state)
    return {door.name: door for door in (*bare.services, *bare.groups)}
