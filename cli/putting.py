"""Puts services and groups into the store and waits for the gateway; what it refuses is taken back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

from gateway.tokens import TokenFile
from store.port import Group, ServiceState, Store
from store.steer import NotTaken, confirm_all


@contextlib.contextmanager
def confirmed(store: Store, tokens: TokenFile, doors: Iterable[str], undo: Callable[[], None]) -> Iterator[None]:
    """Change the store inside; on leaving, the gateway has it in force.

    Raises NotTaken with the gateway's reason after ``undo``, Unavailable when no agent runs: the change then stands
    and is made so once one does.
    """
    yield
    try:
        confirm_all(store, doors, "the change", tokens.serial())
    except NotTaken:
        undo()
        raise


def put_all(store: Store, tokens: TokenFile, services: Iterable[ServiceState], groups: Iterable[Group]) -> None:
    """Write them, a first token for each new group too, and wait. Raises Refused, NotFound, NotTaken, Unavailable."""
    services, groups = tuple(services), tuple(groups)
    old_services, old_groups = {s.name: s for s in store.services()}, {g.name: g for g in store.groups()}

    def undo() -> None:
        for group in groups:
            old = old_groups.get(group.name)
            if old:
                store.put_group(old)
                continue
            store.drop_group(group.name)
            tokens.drop(group.name)
        for service in services:
            store.put_service(old_services[service.name])

    with confirmed(store, tokens, [door.name for door in (*services, *groups)], undo):
        for service in services:
            store.put_service(service)
        for group in groups:
            if group.name not in {**old_groups, **old_services}:
                tokens.drop(group.name)  # of an earlier one of this name: they must not open it for a moment
            store.put_group(group)
            tokens.ensure(group.name)
