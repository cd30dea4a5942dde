"""``roundhouse gateway status | upgrade``: the proxy itself."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from cli.gateway_process import gateway_slots
from cli.gateway_process import upgrade as upgraded
from cli.screen import out, say, show_json, show_table
from configs.stack import load_stack
from gateway.tls import expires
from gateway.upgrade import GRACE_S, Slot
from rollout.errors import Refused, Unavailable

app = typer.Typer(help="The proxy itself: what runs, and a new one in its place.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
Grace = Annotated[float, typer.Option("--grace", help="Seconds that open streams get; older ones are cut.")]
COLUMNS = ("slot", "role", "pid", "version", "up", "open requests", "connections", "settings")
LONGEST_S = 86_400.0


@app.command()
def status(as_json: Json = False) -> None:
    """Each Envoy that runs: one, or two during an upgrade. Exit code 5 if none does.

    Example: `roundhouse gateway status --json`
    """
    stack = load_stack()
    found, until = gateway_slots(stack), expires(stack.gateway())
    if as_json:
        show_json({"slots": [asdict(slot) for slot in found], "certificate_until": until and until.isoformat()})
    else:
        show_table("", COLUMNS, [row(slot) for slot in found])
        if until:
            out.print(f"certificate until {until:%Y-%m-%d %H:%M} UTC")
    if not found:
        raise Unavailable("no gateway runs; start it with `roundhouse up`")


@app.command()
def upgrade(
    grace: Grace = GRACE_S,
    as_json: Json = False,
) -> None:
    """A new Envoy in place of the running one, with no request lost: after a new one was installed, or for a new start.

    May be interrupted and repeated. Example: `roundhouse gateway upgrade --grace 60`
    """
    if not 0 <= grace <= LONGEST_S:
        raise Refused("--grace", grace, f"it lies between 0 and {LONGEST_S:g} s", "give whole streams their time")
    stack = load_stack()
    cut = upgraded(stack, lambda text: None if as_json else say(f"gateway: {text}"), grace)
    if as_json:
        show_json({"cut": cut, "slots": [asdict(slot) for slot in gateway_slots(stack)]})


def row(slot: Slot) -> tuple[object, ...]:
    """One Envoy as cells of the table."""
    role = "in charge" if slot.in_charge else "accepting too" if slot.accepts else "leaving"
    settings = "current" if slot.current else "old: run `roundhouse up`"
    return slot.slot, role, slot.pid, slot.version, f"{slot.uptime_s} s", slot.requests, slot.connections, settings
