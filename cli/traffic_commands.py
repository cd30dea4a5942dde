"""``roundhouse traffic | mirror``: who gets the traffic, and moving it by hand under a lease."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from dataclasses import asdict
from typing import Annotated, Any

import typer

from cli.screen import out, say, show_json, show_table
from configs.files import permille
from configs.stack import load_stack
from gateway.port import Cursor, open_gateway
from rollout.errors import NotFound, Refused
from rollout.nouns import Phase, Shift
from store.port import Release, Store, open_store
from store.steer import STALE_S, confirm, grant, version_noun

LEASE_S = 6.0
RENEW_S = 2.0
LONGEST_S = 86_400.0

Service = Annotated[str, typer.Argument(help="A service that was released, for example chat.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
Version = Annotated[int, typer.Option("--version", help="The version that gets the share.")]
Duration = Annotated[float, typer.Option("--for", help="Seconds; the share ends then, or at Ctrl-C.")]


def traffic(
    service: Annotated[str, typer.Argument(help="A service; empty: all.")] = "",
    percent: Annotated[
        float | None, typer.Option("--set", help="Give --version this share, in steps of 0.1 %.")
    ] = None,
    version: Version = 0,
    duration: Duration = 60.0,
    as_json: Json = False,
) -> None:
    """Show who gets the traffic: asked for, in force in the gateway, and seen. With --set, move it under a lease.

    Example: `roundhouse traffic chat` or `roundhouse traffic chat --set 5 --version 3 --for 60`
    """
    if percent is not None:
        hold_share(service, version, Shift(permille("--set", percent), 0), duration, as_json)
        return
    rows = traffic_rows(service)
    if as_json:
        show_json(rows)
        return
    shown = [(r["service"], r["stable"], _asked(r), r["in_force"], r["seen"]) for r in rows]
    show_table("", ("service", "stable", "asked for", "in force", "last 60 s"), shown)


def mirror(
    service: Service,
    percent: Annotated[float, typer.Argument(help="Share of live requests to copy, in steps of 0.1 %.")],
    version: Version = 0,
    duration: Duration = 60.0,
    as_json: Json = False,
) -> None:
    """Copy live requests to a version; nobody sees its answers.

    Example: `roundhouse mirror chat 10 --version 3 --for 60`
    """
    hold_share(service, version, Shift(0, permille("percent", percent)), duration, as_json)


def hold_share(service: str, version: int, step: Shift, duration: float, as_json: bool) -> None:
    """Hold a share for a version as long as asked, renewing its lease. Raises Refused, NotFound, Conflict."""
    if not 0 < duration <= LONGEST_S:
        raise Refused("--for", duration, f"it lies between 0 and {LONGEST_S:g} s", "hold it shorter, or release it")
    store = open_store(load_stack().store())
    stable = store.service(service).stable
    target = version_noun(store, service, version or _other(store, service, stable))
    if target.number == stable or not target.ready:
        rule = "the version must be another than stable and have a ready instance"
        raise Refused("--version", target.number, rule, f"start one with `roundhouse deploy {service} ...`")
    hand = Release(
        f"hand-{uuid.uuid4().hex[:8]}", service, target.model_uri, Phase.PENDING, None, stable, stage="by hand"
    )
    store.begin_release(hand, time.time(), STALE_S)
    reason = _hold(store, hand, target.number, step, duration)
    if as_json:
        show_json({"service": service, "version": target.number, "seconds": duration, "ended": reason})
    else:
        out.print(f"all traffic of {service} is on stable: {reason}")


def _hold(store: Store, hand: Release, version: int, step: Shift, duration: float) -> str:
    until, reason = time.time() + duration, "the time asked for has passed"
    shares = f"{step.canary_permille / 10:g} % live, {step.mirror_permille / 10:g} % mirrored"
    try:
        lease = grant(store, hand.service, hand.id, version, step, LEASE_S, time.time())
        confirm(store, hand.service, lambda o: o.lease == lease, f"{shares} on version {version}")
        say(f"version {version} of {hand.service} has {shares} for {duration:g} s; Ctrl-C ends it")
        while (left := until - time.time()) > 0:
            time.sleep(min(RENEW_S, left))
            grant(store, hand.service, hand.id, version, step, min(LEASE_S, max(until - time.time(), 0.1)), time.time())
    except KeyboardInterrupt:
        reason = "ended by hand"
    finally:
        store.finish_release(hand.id, Phase.DEPLOYED, f"{shares}: {reason}", time.time(), {})
    confirm(store, hand.service, lambda o: o.lease is None, "all traffic on stable")
    return reason


def traffic_rows(service: str) -> list[dict[str, Any]]:
    """A row a service: desired, in force (read back from the proxy), and what the last minute's records show."""
    stack = load_stack()
    store, gateway = open_store(stack.store()), open_gateway(stack.gateway())
    services = [store.service(service)] if service else store.services()
    in_force, now, leases = gateway.read(), time.time(), store.leases()
    rows = []
    for s in services:
        lease, split = leases.get(s.name), in_force.get(s.name)
        live = lease if lease and lease.until_ms > now * 1000 else None
        rows.append(
            {
                "service": s.name,
                "stable": s.stable,
                "candidate": live.candidate if live else None,
                "canary_percent": live.canary_permille / 10 if live else 0.0,
                "mirror_percent": live.mirror_permille / 10 if live else 0.0,
                "in_force": "none" if split is None else _shown(asdict(split)),
                "lease_left_s": round(live.until_ms / 1000 - now, 1) if live else None,
                "seen": _seen(gateway, s.name, now),
            }
        )
    return rows


def _asked(row: dict[str, Any]) -> str:
    if row["candidate"] is None:
        return "all on stable"
    shares = f"{row['canary_percent']:g} % live, {row['mirror_percent']:g} % mirrored"
    return f"v{row['candidate']}: {shares}, ends in {row['lease_left_s']} s"


def _shown(split: dict[str, Any]) -> str:
    lease = split["lease"]
    if not lease or lease["until_ms"] <= time.time() * 1000:
        return f"v{split['stable']} 100 %"
    canary = lease["canary_permille"] / 10
    return f"v{split['stable']} {100 - canary:g} %, v{lease['candidate']} {canary:g} %"


def _seen(gateway: Any, service: str, now: float) -> str:
    counts: Counter[int | None] = Counter()
    cursor = Cursor()
    while True:
        records, after = gateway.records(cursor)
        counts.update(r.version for r in records if r.service == service and r.kind == "live" and r.at > now - 60)
        if not records or after == cursor:
            break
        cursor = after
    return ", ".join(f"v{version}: {n}" for version, n in sorted(counts.items(), key=str)) or "no request"


def _other(store: Store, service: str, stable: int | None) -> int:
    running = [v.number for v in store.versions(service) if v.instances and v.number != stable]
    if not running:
        raise NotFound(f"{service!r} has no other version running; start one with `roundhouse deploy {service} ...`")
    return running[-1]
