"""``roundhouse apply``: what configs/ says of services and groups, in force without a release."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from cli.putting import put_all
from cli.screen import out, say, show_json, show_table
from configs.desired import group_state, service_state
from configs.files import load_groups, load_services
from configs.stack import load_stack
from gateway.tokens import TokenFile
from store.port import Group, ServiceState, Store, open_store


@dataclass(frozen=True)
class Difference:
    """One field that a file wants to be otherwise. ``now`` is None for a group that is new."""

    kind: str  # service or group
    name: str
    field: str
    now: Any
    then: Any


def apply(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Put the settings in configs/services and configs/groups in force; returns when the gateway confirmed them.

    A service that was never released is left for its first release, and a group whose members were not all released
    waits for them. Groups without a file stay. Example: `roundhouse apply --dry-run`
    """
    stack = load_stack()
    store = open_store(stack.store())
    services, groups, waiting = wanted(store)
    found = differences(store, services, groups)
    if not dry_run and found:
        changed = {(d.kind, d.name) for d in found}
        put_all(
            store,
            TokenFile(stack.tokens),
            [s for s in services if ("service", s.name) in changed],
            [g for g in groups if ("group", g.name) in changed],
        )
    _show(found, waiting, dry_run, as_json)


def wanted(store: Store) -> tuple[list[ServiceState], list[Group], list[str]]:
    """What the files say, of what can be; and a sentence for each that waits. Raises NotFound, Refused."""
    known = {s.name for s in store.services()}
    services, groups, waiting = [], [], []
    for state in [service_state(file) for file in load_services()]:  # all are read before anything is done
        if state.name in known:
            services.append(state)
        else:
            waiting.append(f"service {state.name} was never released; its first release brings its settings")
    for group in [group_state(file) for file in load_groups()]:
        missing = [m.service for m in group.members if m.service not in known]
        if missing:
            waiting.append(f"group {group.name} waits for the first release of {', '.join(missing)}")
        else:
            groups.append(group)
    return services, groups, waiting


def differences(store: Store, services: list[ServiceState], groups: list[Group]) -> list[Difference]:
    """Field by field, against what the store has."""
    present_services = {s.name: asdict(s) for s in store.services()}
    present_groups = {g.name: asdict(g) for g in store.groups()}
    found = []
    for service in services:
        found += _between("service", service.name, present_services[service.name], asdict(service), ("name", "stable"))
    for group in groups:
        found += _between("group", group.name, present_groups.get(group.name, {}), asdict(group), ("name",))
    return found


def _between(
    kind: str, name: str, now: dict[str, Any], then: dict[str, Any], without: tuple[str, ...]
) -> list[Difference]:
    fields = [f for f in then if f not in without and (f not in now or now[f] != then[f])]
    return [Difference(kind, name, field, now.get(field), then[field]) for field in fields]


def _show(found: list[Difference], waiting: list[str], dry_run: bool, as_json: bool) -> None:
    if as_json:
        show_json({"changes": [asdict(d) for d in found], "waiting": waiting, "applied": bool(found) and not dry_run})
        return
    for sentence in waiting:
        say(sentence)
    if not found:
        out.print("nothing to change: the store says what the files say")
        return
    show_table("", ("", "name", "field", "now", "then"), [(d.kind, d.name, d.field, d.now, d.then) for d in found])
    out.print("nothing was changed (--dry-run)" if dry_run else "in force")
