"""``roundhouse traffic undo``: takes back the last change of who gets the traffic that still stands."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from cli.screen import out, show_json
from cli.traffic_show import known_names
from configs.order import crown
from configs.stack import load_stack
from rollout.errors import Conflict, Refused
from rollout.nouns import Phase
from store.port import Change, Group, GroupMember, Store, open_store
from store.steer import NotTaken, confirm, confirm_all, end_release, put_back, version_noun

REASON = "undone by hand"


@dataclass(frozen=True)
class Undo:
    """What would be done about a change, and how. ``do`` returns what came of it."""

    change: Change
    text: str
    do: Callable[[], str]


def undo(
    name: Annotated[str, typer.Argument(help="A service or group.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; without --yes only what would be done.")] = False,
) -> None:
    """Take back the last change of who gets the traffic: a share, weights, a promotion, a drained instance.

    Says what it will do and asks. Example: `roundhouse traffic undo chat`
    """
    stack = load_stack()
    store = open_store(stack.store())
    known_names(store, name)
    plan = plan_undo(store, name, lambda model: crown(stack, name, model))
    told = {"name": name, "change": plan.change.what, "undo": plan.text}
    if as_json and not yes:
        show_json({**told, "done": False})
        return
    if not as_json:
        out.print(f"last change: {plan.change.what} ({plan.change.by})", markup=False)
        out.print(f"undo: {plan.text}", markup=False)
    if not yes:
        typer.confirm("Do it?", abort=True, err=True)
    result = plan.do()
    if as_json:
        show_json({**told, "done": True, "result": result})
    else:
        out.print(result, markup=False)


def plan_undo(store: Store, name: str, crowned: Callable[[str], str] = lambda model: "") -> Undo:
    """The newest change of ``name`` that still stands, and how to take it back. Changes nothing.

    ``crowned`` moves the registry's alias to a model and says so. Raises Refused when there is none, or it cannot be.
    """
    for change in store.changes(name, limit=1000):
        match change.kind:
            case "lease" if _holds(store, change):
                return _end_share(store, change)
            case "promote" | "rollback" if _is_in_service(store, change):
                return _return_to(store, change, crowned)
            case "weights":
                return _weights_back(store, change)
            case "drain" if _is_as_it_left_it(store, change):
                return _undrain(store, change)
    rule = "no change of who gets its traffic still stands"
    raise Refused("NAME", name, rule, f"see `roundhouse traffic history {name}`")


def _holds(store: Store, change: Change) -> bool:
    lease = store.leases().get(change.name)
    return bool((change.after or {}).get("lease")) and lease is not None and lease.release == change.by


def _end_share(store: Store, change: Change) -> Undo:
    if store.release(change.by).stage == "by hand":

        def end() -> str:
            store.finish_release(change.by, Phase.DEPLOYED, REASON, time.time(), {})
            confirm(store, change.name, lambda o: o.lease is None, "all traffic on stable")
            return f"all traffic of {change.name} is on stable"

        return Undo(change, "the share that is held by hand ends now; all traffic on stable", end)
    text = f"release {change.by} is rolled back: all traffic on stable"
    return Undo(change, text, lambda: end_release(store, change.name, REASON) or "the release had ended already")


def _is_in_service(store: Store, change: Change) -> bool:
    """Whether it turned the stable version, and that one is stable still."""
    before, after = (change.before or {}).get("stable"), (change.after or {}).get("stable")
    return before != after and store.service(change.name).stable == after


def _return_to(store: Store, change: Change, crowned: Callable[[str], str]) -> Undo:
    before, now = (change.before or {}).get("stable"), (change.after or {}).get("stable")
    name = change.name
    if before is None:
        raise Refused(
            "NAME", name, f"version {now} was its first, so there is none to return to", "release another one"
        )
    if not version_noun(store, name, before).ready:
        rule = f"version {before} is not warm any more, so to return to it takes as long as a start"
        raise Refused("NAME", name, rule, f"start it and return to it with `roundhouse rollback {name} --to {before}`")

    def back() -> str:
        version = put_back(store, name, before, REASON)
        return f"version {version.number} is in service again{crowned(version.model_uri)}"

    return Undo(change, f"version {before}, which is still warm, is in service again instead of {now}", back)


def _weights_back(store: Store, change: Change) -> Undo:
    name = change.name
    if change.before is None:
        raise Refused("NAME", name, "the last change made the group", f"remove it: `roundhouse group drop {name}`")
    former, left = group_of(change.before), group_of(change.after) if change.after else None

    def back() -> str:
        present = store.group(name)
        if present != left:
            raise Conflict(
                f"the weights of {name} were changed meanwhile; nothing was undone. "
                f"Look at `roundhouse traffic history {name}` and undo again"
            )
        store.put_group(former)
        try:
            confirm_all(store, [name], f"the former weights of {name}")
        except NotTaken:
            store.put_group(present)
            raise
        return f"{name}: {_weights(former)}"

    return Undo(change, f"back to {_weights(former)}", back)


def _is_as_it_left_it(store: Store, change: Change) -> bool:
    after = change.after or {}
    there = after.get("instance") in {i.id for i in store.instances(change.name)}
    return there and (after["instance"] in store.drained()) is after["draining"]


def _undrain(store: Store, change: Change) -> Undo:
    instance, draining = (change.after or {})["instance"], (change.after or {})["draining"]

    def back() -> str:
        (store.undrain if draining else store.drain)(instance)
        confirm_all(store, [change.name], text)
        return text

    text = f"{instance} gets {'requests again' if draining else 'no new request'}"
    return Undo(change, text, back)


def group_of(values: dict[str, Any]) -> Group:
    """A group as the history keeps it."""
    return Group(**{**values, "members": tuple(GroupMember(**member) for member in values["members"])})


def _weights(group: Group) -> str:
    if group.mode == "auto":
        return f"traffic by ready instances among {', '.join(m.service for m in group.members) or 'nobody'}"
    shares = (f"{m.service} {'alone' if m.weight is None else m.weight}" for m in group.members)
    return f"weights {', '.join(shares) or 'of nobody'}"
