"""What was changed in the gateway, and when: a line for each confirmed change, kept bounded."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gateway import files
from gateway.port import Applied, Change, GatewayState, GroupRoute, ServiceRoute
from gateway.saved import Saved
from rollout.nouns import Lease

_MOST_BYTES = 1 << 20  # of each of two files


def note(path: Path, old: GatewayState | None, now: Saved, applied: Applied) -> None:
    """Append what ``now`` changed; nothing for a renewal. A history that cannot be written holds up no change."""
    texts = tuple(changed(old or GatewayState(), now.state))
    if not texts:
        return
    change = Change(applied.revision, now.at, applied.structural, round(applied.seconds, 4), texts)
    try:
        if path.exists() and path.stat().st_size > _MOST_BYTES:
            os.rename(path, _older(path))
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, files.PRIVATE), "wb") as f:
            f.write(files.as_json(asdict(change)) + b"\n")
    except OSError:
        return


def read_history(path: Path, limit: int) -> list[Change]:
    """The last ``limit`` changes, oldest first; a line that was broken off is left out."""
    content = b"".join(files.read(each) or b"" for each in (_older(path), path))
    found = [_parsed(line) for line in content.splitlines()[-limit:]]
    return [change for change in found if change]


def changed(old: GatewayState, new: GatewayState) -> Iterator[str]:
    """Sentences on what differs, apart from the ends of leases that go on and from tokens."""
    before, after = {s.name: s for s in old.services}, {s.name: s for s in new.services}
    yield from (f"service {name} added" for name in after.keys() - before.keys())
    yield from (f"service {name} removed" for name in before.keys() - after.keys())
    for name, service in after.items():
        yield from _service(before.get(name, ServiceRoute(name, ())), service)
    groups = {g.name: g for g in old.groups}
    yield from (f"group {name} removed" for name in groups.keys() - {g.name for g in new.groups})
    for group in new.groups:
        yield from _group(groups.get(group.name), group)


def _service(old: ServiceRoute, new: ServiceRoute) -> Iterator[str]:
    if old.stable != new.stable:
        yield f"{new.name}: stable is version {new.stable}" + (f", was {old.stable}" if old.stable else "")
    if _shares(old.lease) != _shares(new.lease):
        yield f"{new.name}: {told(new.lease)}"
    held, wanted = ({e.instance: e.draining for b in s.backends for e in b.endpoints} for s in (old, new))
    yield from (f"{new.name}: instance {i} added" for i in wanted if i not in held)
    yield from (f"{new.name}: instance {i} removed" for i in held if i not in wanted)
    turned = {i: wanted[i] for i in wanted if i in held and wanted[i] != held[i]}
    yield from (f"{new.name}: instance {i} {'drains' if out else 'is back'}" for i, out in turned.items())
    settings = ("response_timeout_s", "body_limit_bytes", "traffic")
    yield from (f"{new.name}: {key} changed" for key in settings if getattr(old, key) != getattr(new, key))


def _group(old: GroupRoute | None, new: GroupRoute) -> Iterator[str]:
    if old is None or old.members != new.members:
        weights = ", ".join(f"{m.service} {'alone' if m.weight is None else m.weight}" for m in new.members)
        yield f"group {new.name}: {weights or 'no member'}"


def told(lease: Lease | None) -> str:
    """A lease in words."""
    if lease is None:
        return "all traffic on stable"
    baseline = f", as much on version {lease.baseline} as its baseline" if lease.baseline else ""
    targets = [(f"version {lease.candidate}", lease.mirror_permille)]
    targets += [(f"{m.service}" if m.version is None else f"version {m.version}", m.permille) for m in lease.mirrors]
    copies = "".join(f", {share / 10:g} % copied to {target}" for target, share in targets if share)
    return f"{lease.canary_permille / 10:g} % on version {lease.candidate}{baseline}{copies} ({lease.release})"


def _shares(lease: Lease | None) -> Lease | None:
    return replace(lease, from_ms=0, until_ms=0) if lease else None


def _parsed(line: bytes) -> Change | None:
    try:
        doc: dict[str, Any] = json.loads(line)
        return Change(**{**doc, "texts": tuple(doc["texts"])})
    except (ValueError, TypeError, KeyError):
        return None


def _older(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")
