"""``roundhouse traffic``: who gets the traffic, moving it by hand, what was changed, and taking a change back."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cli.screen import show_json, show_table
from cli.traffic_move import drain, mirror, pin, set_share
from cli.traffic_show import known_names, show
from cli.traffic_undo import undo
from configs.stack import load_stack
from gateway.port import Change as Confirmed
from gateway.port import open_gateway
from rollout.errors import Refused
from store.port import Change, open_store

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]


class ShowUnlessTold(TyperGroup):
    """``roundhouse traffic`` and ``roundhouse traffic chat`` show; a service that is named as a verb needs ``show``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the verb in where none is named."""
        verbless = not args or (args[0] not in self.commands and args[0] != "--help")
        return super().parse_args(ctx, ["show", *args] if verbless else args)


app = typer.Typer(
    cls=ShowUnlessTold,
    help="Show who gets the traffic, and move it by hand. Without a verb: show.",
    rich_markup_mode="markdown",
)
app.command("show")(show)
app.command("set")(set_share)
app.command()(pin)
app.command()(mirror)
app.command()(drain)
app.command()(undo)


@app.command()
def history(
    name: Annotated[str, typer.Argument(help="A service or group; empty: all.")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many of the last changes.")] = 20,
    as_json: Json = False,
) -> None:
    """Who changed what and when: what was asked for, and what the gateway confirmed, newest first.

    Example: `roundhouse traffic history chat -n 50`
    """
    if not 1 <= limit <= 10_000:
        raise Refused("--limit", limit, "it lies between 1 and 10000", "leave it out for the last 20")
    stack = load_stack()
    store = open_store(stack.store())
    lines = history_lines(store.changes(name or None, limit), open_gateway(stack.gateway()).history(limit), name)
    if not lines:  # what was removed still has a history
        known_names(store, name)
    if as_json:
        show_json(lines[:limit])
        return
    rows = [(_clock(line["at"]), line["name"], line["step"], line["what"], line["by"]) for line in lines[:limit]]
    show_table("", ("when", "name", "", "what", "by"), rows)


def history_lines(asked: Iterable[Change], confirmed: Iterable[Confirmed], name: str) -> list[dict[str, Any]]:
    """Both histories in one, newest first; ``name`` empty: of all. A confirmed change bears the gateway's revision."""
    lines: list[dict[str, Any]] = [
        {"at": c.at, "name": c.name, "step": f"asked: {c.kind}", "what": c.what, "by": c.by} for c in asked
    ]
    for change in confirmed:
        for text in change.texts:
            subject, what = _subject(text)
            if name in ("", subject):
                told = {"step": "in force", "what": what, "by": f"gateway {change.revision}"}
                lines.append({"at": change.at, "name": subject, **told})
    return sorted(lines, key=lambda line: -line["at"])


def _subject(text: str) -> tuple[str, str]:
    """What a sentence of the gateway's history is about: ``chat: …``, ``group prod: …`` or ``service chat added``."""
    first, colon, rest = text.partition(": ")
    if colon:
        return first.removeprefix("group "), rest
    words = text.split()
    return (words[1], text) if len(words) > 2 else ("", text)


def _clock(at: float) -> str:
    return datetime.datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S")
