"""``roundhouse traffic show``: what was asked for, what is in force, and what was observed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Annotated, Any

import httpx
import typer

from cli.screen import err, out, say, show_json, show_table
from configs.stack import Stack, load_stack
from gateway.port import open_gateway
from rollout.errors import NotFound
from rollout.nouns import Lease, Mirror, Split
from store.port import Group, ServiceState, Store, open_store

ALARM = 8
Row = dict[str, Any]
Seen = dict[str, Any]  # the agent's page of what it observed


@dataclass(frozen=True)
class InForce:
    """What the proxy has in force, read back from it: splits of services, and parts of 10,000 of groups' members."""

    splits: dict[str, Split]
    groups: dict[str, dict[str, int]] = field(default_factory=dict)


def show(
    name: Annotated[str, typer.Argument(help="A service or group; empty: all.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Show who gets the traffic: asked for, in force in the gateway, and observed. Exit code 8 when an alarm stands.

    Example: `roundhouse traffic show chat`
    """
    stack = load_stack()
    store, gateway = open_store(stack.store()), open_gateway(stack.gateway())
    known_names(store, name)
    services = [s for s in store.services() if name in ("", s.name)]
    groups = [g for g in store.groups() if name in ("", g.name)]
    in_force, seen, now = InForce(gateway.read(), gateway.read_groups()), observed(stack), time.time()
    leases = {k: v for k, v in store.leases().items() if v.until_ms > now * 1000}
    rows = [service_row(s, leases.get(s.name), in_force, seen, now) for s in services]
    group_rows = [group_row(g, in_force, seen) for g in groups]
    alarms = [alarm for row in (*rows, *group_rows) for alarm in row["alarms"]]
    if as_json:
        show_json({"services": rows, "groups": group_rows, "alarms": alarms, "watched": seen is not None})
    else:
        _print(rows, group_rows, seen is not None)
    raise typer.Exit(ALARM if alarms else 0)


def known_names(store: Store, name: str) -> None:
    """Raises NotFound unless ``name`` is a service or a group, or empty."""
    names = [s.name for s in store.services()] + [g.name for g in store.groups()]
    if name and name not in names:
        raise NotFound(f"there is no service or group {name!r}; there are: {', '.join(names) or 'none yet'}")


def observed(stack: Stack) -> Seen | None:
    """What the agent has seen in the records; None when it does not answer."""
    try:
        answer = httpx.get(f"{stack.agent_url}/v1/traffic", timeout=2.0, trust_env=False)
        return answer.raise_for_status().json()
    except (httpx.HTTPError, ValueError):
        return None


def service_row(service: ServiceState, lease: Lease | None, in_force: InForce, seen: Seen | None, now: float) -> Row:
    """A service for scripts. Shares in percent."""
    split, page = in_force.splits.get(service.name), seen or {}
    shares = [s for s in page.get("shares", ()) if s["door"] == service.name]
    copies = [c for c in page.get("copies", ()) if c["source"] == service.name]
    mirrors = [] if lease is None else [(f"{service.name} v{lease.candidate}", lease.mirror_permille)]
    mirrors += [] if lease is None else [(_target(m), m.permille) for m in lease.mirrors]
    return {
        "service": service.name,
        "stable": service.stable,
        "candidate": lease.candidate if lease else None,
        "baseline": lease.baseline if lease else None,
        "canary_percent": lease.canary_permille / 10 if lease else 0.0,
        "mirrors": [{"target": target, "percent": n / 10} for target, n in mirrors if n],
        "release": lease.release if lease else None,
        "lease_left_s": round(lease.until_ms / 1000 - now, 1) if lease else None,
        "in_force": split_text(split, now),
        "in_force_canary_percent": _canary_in_force(split, now),
        "observed": shares[0] if shares else None,
        "copies": copies,
        "recent": page.get("recent", {}).get(service.name, {}),
        "alarms": [f"{service.name}: {one['text']}" for one in (*shares, *copies) if one["alarm"]],
    }


def group_row(group: Group, in_force: InForce, seen: Seen | None) -> Row:
    """A group for scripts. Shares in percent; a member without weight takes its own direct calls only."""
    page = seen or {}
    parts = in_force.groups.get(group.name, {})
    by_member = {s["arm"]: s for s in page.get("members", ()) if s["door"] == group.name}
    members = [
        {
            "service": m.service,
            "weight": m.weight if group.mode == "custom" else "auto",
            "in_force_percent": parts.get(m.service, 0) / 100,
            "observed": by_member.get(m.service),
        }
        for m in group.members
    ]
    return {
        "group": group.name,
        "mode": group.mode,
        "members": members,
        "recent": page.get("recent", {}).get(group.name, {}),
        "alarms": [f"{group.name}: {name}: {one['text']}" for name, one in by_member.items() if one["alarm"]],
    }


def split_text(split: Split | None, now: float) -> str:
    """A split that was read back, in words."""
    if split is None or split.stable is None:
        return "none"
    lease = split.lease
    if not lease or lease.until_ms <= now * 1000 or not lease.canary_permille:
        return f"v{split.stable} 100 %"
    canary, arms = lease.canary_permille, [f"v{lease.candidate} {lease.canary_permille / 10:g} %"]
    if lease.baseline is not None:
        canary, arms = 2 * canary, [*arms, f"v{lease.baseline} {canary / 10:g} %"]
    return ", ".join([f"v{split.stable} {100 - canary / 10:g} %", *arms])


def _target(mirror: Mirror) -> str:
    return f"{mirror.service}, stable" if mirror.version is None else f"{mirror.service} v{mirror.version}"


def _canary_in_force(split: Split | None, now: float) -> float:
    lease = split.lease if split else None
    return lease.canary_permille / 10 if lease and lease.until_ms > now * 1000 else 0.0


def _print(rows: list[Row], groups: list[Row], watched: bool) -> None:
    shown = [(r["service"], _stable(r), asked_text(r), r["in_force"], _left(r), _counts(r)) for r in rows]
    for group in groups:
        for m in group["members"]:
            asked = "own calls only" if m["weight"] is None else f"weight {m['weight']}"
            part = f"{m['in_force_percent']:g} %"
            shown.append((f"{group['group']}/{m['service']}", "", asked, part, "", _of_member(group, m)))
    show_table("", ("name", "stable", "asked for", "in force", "lease left", "last 60 s"), shown)
    for line in sentences(rows, groups):
        out.print(line)
    for alarm in (a for row in (*rows, *groups) for a in row["alarms"]):
        err.print(f"[bold red]alarm[/] {alarm}")
    if not watched:
        say("observed: not known, the agent does not answer; see `roundhouse status`")


def asked_text(row: Row) -> str:
    """What was asked for a service, in words."""
    if row["candidate"] is None:
        return "all on stable" if row["stable"] else "nothing in service yet"
    live = [f"v{row['candidate']} {row['canary_percent']:g} %"] if row["canary_percent"] else []
    beside = [f"v{row['baseline']} as much"] if row["baseline"] else []
    copies = [f"{m['percent']:g} % copied to {m['target']}" for m in row["mirrors"]]
    return ", ".join([*live, *beside, *copies]) or f"v{row['candidate']} by name only"


def sentences(rows: list[Row], groups: list[Row]) -> list[str]:
    """What was observed, a sentence each, with the interval that holds the true share 19 times in 20."""
    lines = []
    for row in rows:
        if row["observed"]:
            lines.append(f"{row['service']} {row['observed']['arm']}: {_with_interval(row['observed'])}")
        lines += [f"{row['service']}, copies for {c['target']}: {c['text']}" for c in row["copies"]]
    for group in groups:
        seen = [m["observed"] for m in group["members"] if m["observed"]]
        lines += [f"{group['group']}/{one['arm']}: {_with_interval(one)}" for one in seen]
    return lines


def _with_interval(seen: dict[str, Any]) -> str:
    if not seen["requests"]:
        return seen["text"]
    return f"{seen['text']} ({seen['low'] / 10:.3g} to {seen['high'] / 10:.3g} %)"


def _stable(row: Row) -> str:
    return f"v{row['stable']}" if row["stable"] else ""


def _left(row: Row) -> str:
    return "" if row["lease_left_s"] is None else f"{row['lease_left_s']} s"


def _counts(row: Row) -> str:
    return ", ".join(f"{arm}: {n}" for arm, n in row["recent"].items()) or "no request"


def _of_member(group: Row, member: dict[str, Any]) -> str:
    mine = {a: n for a, n in group["recent"].items() if a.startswith(f"{member['service']} ")}
    return ", ".join(f"{arm.partition(' ')[2]}: {n}" for arm, n in mine.items()) or "no request"
