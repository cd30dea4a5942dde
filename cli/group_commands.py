"""``roundhouse group``: several services behind one endpoint, and how they share its traffic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

import typer

from cli.putting import confirmed, put_all
from cli.screen import out, show_json, show_table
from configs.stack import load_stack
from gateway.tokens import TokenFile
from rollout.errors import Refused
from store.port import Group, GroupMember, Store, open_store

app = typer.Typer(help="Several services behind one endpoint, and how they share its traffic.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="A group, for example prod.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]


@app.command("ls")
def list_groups(as_json: Json = False) -> None:
    """All groups with their members.

    Example: `roundhouse group ls`
    """
    groups = open_store(load_stack().store()).groups()
    if as_json:
        show_json([asdict(group) for group in groups])
        return
    show_table("", ("group", "weights", "members"), [(g.name, g.mode, _members(g)) for g in groups])


@app.command()
def show(name: Name, as_json: Json = False) -> None:
    """One group: its members, their weights, and each one's stable version.

    Example: `roundhouse group show prod`
    """
    stack = load_stack()
    store = open_store(stack.store())
    group, stable = store.group(name), {s.name: s.stable for s in store.services()}
    if as_json:
        observed = store.observed(name)
        show_json({**asdict(group), "stable": stable_of(group, stable), "error": observed.error if observed else ""})
        return
    rows = [(m.service, stable.get(m.service), _weight(group, m)) for m in group.members]
    show_table(f"{name}: {stack.gateway_url}/api/predict/{name}", ("member", "stable", "weight"), rows)
    if group.sticky:
        out.print(f"sticky by {group.sticky['by']} {group.sticky['name']}".rstrip())


@app.command("set")
def set_group(
    name: Name,
    members: Annotated[list[str], typer.Argument(help="SERVICE, or SERVICE=WEIGHT; all of them.")],
    sticky: Annotated[str, typer.Option(help="Keep a session on one member: header:NAME, cookie:NAME or token.")] = "",
    as_json: Json = False,
) -> None:
    """Make a group, or change it as a whole. Without weights they follow the number of ready instances.

    Example: `roundhouse group set prod chat=70 chat-b=30` or `roundhouse group set prod chat chat-b`
    """
    store, tokens = _open()
    group = group_of(name, members, _sticky(sticky) if sticky else None)
    put_all(store, tokens, [], [group])
    _told(group, as_json)


@app.command()
def weight(
    name: Name,
    service: Annotated[str, typer.Argument(help="One of its members.")],
    value: Annotated[int | None, typer.Argument(help="0 to 1000, relative to the other members'.")] = None,
    standalone: Annotated[bool, typer.Option("--standalone", help="It takes its own direct calls only.")] = False,
    as_json: Json = False,
) -> None:
    """Give a member another weight. Returns when the gateway has it in force.

    Example: `roundhouse group weight prod chat 30` or `roundhouse group weight prod chat --standalone`
    """
    if (value is None) != standalone:
        raise Refused("weight", value, "either a weight or --standalone", "write one of the two")
    store, tokens = _open()
    before = store.group(name)
    with confirmed(store, tokens, [name], lambda: store.put_group(before)):
        changed = store.set_weight(name, service, value)
    _told(changed, as_json)


@app.command()
def drop(name: Name, as_json: Json = False) -> None:
    """Remove a group and its tokens. Its members go on by their own names.

    Example: `roundhouse group drop prod`
    """
    store, tokens = _open()
    before = store.group(name)
    with confirmed(store, tokens, [], lambda: store.put_group(before)):
        store.drop_group(name)
    tokens.drop(name)
    if as_json:
        show_json({"group": name, "dropped": True})
    else:
        out.print(f"group {name} is gone, and its tokens")


def group_of(name: str, members: Sequence[str], sticky: dict[str, str] | None) -> Group:
    """A group from ``chat=70 chat-b=30`` or ``chat chat-b``. Raises Refused.

    >>> group_of("prod", ["chat=70", "chat-b=30"], None).mode
    'custom'
    """
    parted = [member.partition("=") for member in members]
    weighed = [part for part in parted if part[1]]
    if weighed and len(weighed) < len(parted):
        rule = "either all members have a weight or none"
        raise Refused("members", " ".join(members), rule, "write for example chat=70 chat-b=30")
    for _, _, weight in weighed:
        if not weight.isdigit():
            raise Refused("weight", weight, "it is a whole number from 0 to 1000", "write for example chat=70")
    mode: Literal["auto", "custom"] = "custom" if weighed else "auto"
    found = tuple(GroupMember(service, int(weight) if weight else None) for service, _, weight in parted)
    return Group(name, found, mode, sticky)


def stable_of(group: Group, stable: dict[str, int | None]) -> dict[str, int | None]:
    """Each member's stable version."""
    return {m.service: stable.get(m.service) for m in group.members}


def _sticky(text: str) -> dict[str, str]:
    by, _, name = text.partition(":")
    if by not in ("header", "cookie", "token") or (by == "token") == bool(name):
        rule = "a session is known by header:NAME, cookie:NAME or token"
        raise Refused("--sticky", text, rule, "write for example header:x-session-id")
    return {"by": by, "name": name}


def _open() -> tuple[Store, TokenFile]:
    stack = load_stack()
    return open_store(stack.store()), TokenFile(stack.tokens)


def _told(group: Group, as_json: bool) -> None:
    if as_json:
        show_json(asdict(group))
    else:
        out.print(f"in force: group {group.name}: {_members(group)}")


def _members(group: Group) -> str:
    return ", ".join(f"{m.service} {_weight(group, m)}" for m in group.members)


def _weight(group: Group, member: GroupMember) -> Any:
    if group.mode == "auto":
        return "by ready instances"
    return "alone" if member.weight is None else member.weight
