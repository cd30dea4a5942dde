"""``roundhouse engine ls | verify | gc | pin | unpin``: the engines kept on this machine."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cli.screen import complain, out, show_json, show_table
from configs.engine_cache import IDLE_S, in_use, would_go
from configs.stack import load_stack
from engines import artifacts, shelf
from engines.shelf import Entry, Fate
from rollout.errors import Corrupt, Refused
from store.port import open_store

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
Digest = Annotated[str, typer.Argument(help="How an engine's digest, or its directory's name, begins.")]


def ls(as_json: Json = False) -> None:
    """List the engines kept on this machine, the one used last first.

    Example: `roundhouse engine ls`
    """
    stack = load_stack()
    there, used = shelf.entries(_root()), in_use(open_store(stack.store()))
    if as_json:
        show_json([{**asdict(entry), "used_by": used.get(entry.digest, "")} for entry in there])
        return
    columns = ("engine", "model", "MB", "built", "last used", "state", "kept because")
    show_table("", columns, [_row(entry, used.get(entry.digest, "")) for entry in there])
    total = sum(entry.own_bytes for entry in there)
    out.print(f"{len(there)} engines, {total / 1e9:.2f} GB of {stack.engine_cache_gb:g} GB (engine_cache_gb)")


def verify(
    digest: Annotated[str, typer.Argument(help="How an engine's digest, or its directory's name, begins.")] = "",
    every: Annotated[bool, typer.Option("--all", help="All engines kept here.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove a damaged one that nothing uses.")] = False,
    as_json: Json = False,
) -> None:
    """Hash an engine's files again and compare them with its manifest. Exit code 6: one is damaged.

    Example: `roundhouse engine verify --all`
    """
    if bool(digest) == every:
        rule = "one engine or all of them are verified"
        raise Refused("digest", digest, rule, "name an engine of `roundhouse engine ls`, or write --all")
    asked = shelf.entries(_root()) if every else [shelf.named(_root(), digest)]
    damaged = {entry.name: why for entry in asked if (why := _damage(entry))}
    gone = _remove(asked, damaged) if remove else []
    if as_json:
        told = [{"name": e.name, "damage": damaged.get(e.name, ""), "removed": e.name in gone} for e in asked]
        show_json(told)
    else:
        for entry in asked:
            state = "damaged, removed" if entry.name in gone else "damaged" if entry.name in damaged else "whole"
            out.print(f"{entry.name}: {state}")
    for why in damaged.values():
        complain(Corrupt(why))
    if damaged:
        raise typer.Exit(Corrupt.exit_code)


def gc(
    keep_gb: Annotated[float, typer.Option("--keep-gb", help="How much may stay; engines in use always do.", min=0)],
    idle_minutes: Annotated[
        float, typer.Option(help="One used within this time stays: a release may be about to start it.", min=0)
    ] = IDLE_S / 60,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: Json = False,
) -> None:
    """Remove the engines that were used longest ago until the rest is within a bound.

    Example: `roundhouse engine gc --keep-gb 20 --dry-run`
    """
    stack, now, bound = load_stack(), time.time(), int(keep_gb * 1e9)
    if dry_run:
        fates = would_go(stack, bound, now, idle_minutes * 60)
    else:
        fates = shelf.collect(_root(), in_use(open_store(stack.store())), bound, now, idle_minutes * 60)
    if as_json:
        show_json([{**asdict(fate.entry), "goes": fate.goes, "why": fate.why} for fate in fates])
        return
    verb = "would go" if dry_run else "removed"
    show_table("", ("engine", "MB", "", "because"), [_fate_row(fate, verb) for fate in fates])
    freed = sum(fate.entry.own_bytes for fate in fates if fate.goes)
    out.print(f"{freed / 1e6:.1f} MB {'would be ' if dry_run else ''}freed")


def pin(digest: Digest) -> None:
    """Keep an engine whatever the bound is.

    Example: `roundhouse engine pin 3f2a91`
    """
    entry = shelf.named(_root(), digest)
    shelf.pin(_root(), entry.name)
    out.print(f"{entry.name} is kept until `roundhouse engine unpin {entry.digest[:16]}`")


def unpin(digest: Digest) -> None:
    """Let the bound decide again about an engine.

    Example: `roundhouse engine unpin 3f2a91`
    """
    entry = shelf.named(_root(), digest)
    shelf.pin(_root(), entry.name, keep=False)
    out.print(f"{entry.name} is pinned no longer")


def _root() -> Path:
    return Path(load_stack().engines().directory)


def _damage(entry: Entry) -> str:
    try:
        artifacts.verify(Path(entry.directory))
    except Corrupt as bad:
        return str(bad)
    return ""


def _remove(asked: list[Entry], damaged: dict[str, str]) -> list[str]:
    """Names of the damaged that were removed; what is in use stays."""
    used = in_use(open_store(load_stack().store()))
    held = {e.name for e in asked if any(e.name == artifacts.directory_name(e.kind, digest) for digest in used)}
    return [e.name for e in asked if e.name in damaged and e.name not in held and shelf.drop(_root(), e)]


def _row(entry: Entry, used: str) -> tuple[object, ...]:
    built, last = (_when(at) for at in (entry.built_at, entry.used_at))
    why = used or ("pinned" if entry.pinned else "")
    return entry.name, entry.model, f"{entry.size / 1e6:.1f}", built, last, entry.damage or "whole", why


def _fate_row(fate: Fate, verb: str) -> tuple[object, ...]:
    return fate.entry.name, f"{fate.entry.own_bytes / 1e6:.1f}", verb if fate.goes else "stays", fate.why


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at)) if at else ""
