"""The engines that are kept on this machine: what there is, and which go when they take more than their bound."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engines import artifacts
from rollout.errors import Corrupt, NotFound, Refused

IDLE_S = 900.0  # a release may be about to start what was looked up just now
_PINS = ".pins"
_NAME = re.compile(r"\w+-[0-9a-f]{16}")  # ``artifacts.directory_name``: whatever else lies there is left alone


@dataclass(frozen=True)
class Entry:
    """An engine directory. ``own_bytes`` go when it goes: hard links of a registry's files do not, what engines
    share is shared out. Times are epoch seconds. ``damage``: what is wrong; empty: it is whole as sizes tell."""

    name: str
    directory: str
    kind: str
    digest: str
    model: str
    size: int
    own_bytes: int
    built_at: float
    used_at: float
    pinned: bool = False
    damage: str = ""


@dataclass(frozen=True)
class Fate:
    """Whether an engine goes, and why it does or does not."""

    entry: Entry
    goes: bool
    why: str


def entries(root: Path) -> list[Entry]:
    """All engines below ``root``, the one that was used last first. Nothing is hashed."""
    found = [path for path in root.glob("*-*") if _NAME.fullmatch(path.name) and path.is_dir()]
    files = {path: _files(path) for path in found}
    links = Counter(file.st_ino for mine in files.values() for file in mine)
    return sorted((_entry(path, files[path], links) for path in found), key=lambda entry: -entry.used_at)


def named(root: Path, digest: str) -> Entry:
    """The engine whose digest, or directory's name, begins so. Raises NotFound, Refused where several do."""
    there = entries(root)
    asked = [e for e in there if digest and any(n.startswith(digest) for n in (e.digest, e.name, _short(e)))]
    if not asked:
        raise NotFound(f"no engine {digest!r} is kept here; there are: {', '.join(e.name for e in there) or 'none'}")
    if len(asked) > 1:
        raise Refused("digest", digest, f"{len(asked)} engines begin so", f"write more of one: {asked[0].name}")
    return asked[0]


def pin(root: Path, name: str, keep: bool = True) -> None:
    """Keep an engine whatever the bound is, or no longer."""
    mark = root / _PINS / name
    if keep:
        mark.parent.mkdir(exist_ok=True)
        mark.touch()
    else:
        mark.unlink(missing_ok=True)


def choose(
    there: Sequence[Entry], keep: Mapping[str, str], bound_bytes: int, now: float, idle_s: float = IDLE_S
) -> list[Fate]:
    """What would go: the damaged, then those used longest ago until the rest is within the bound. ``keep`` is the
    digests that stay, each with the reason. In the order of ``there``."""
    left = sum(entry.own_bytes for entry in there)
    fates = {}
    for entry in sorted(there, key=lambda e: (not e.damage, e.used_at)):
        stays = _stays(entry, keep, now, idle_s)
        goes = not stays and (bool(entry.damage) or left > bound_bytes)
        if goes:
            left -= entry.own_bytes
        why = stays or (entry.damage or "used longest ago" if goes else "within the bound")
        fates[entry.name] = Fate(entry, goes, why)
    return [fates[entry.name] for entry in there]


def collect(
    root: Path, keep: Mapping[str, str], bound_bytes: int, now: float | None = None, idle_s: float = IDLE_S
) -> list[Fate]:
    """Remove what goes, and what killed builds left. What somebody builds or uses meanwhile stays.

    ``now``: epoch seconds, None for the clock's.
    """
    if not root.is_dir():
        return []
    artifacts.sweep(root)
    moment = time.time() if now is None else now
    return [_act(root, fate) for fate in choose(entries(root), keep, bound_bytes, moment, idle_s)]


def drop(root: Path, entry: Entry) -> bool:
    """Remove one engine; False where it is being built or was used since the entry was read."""
    with artifacts.locked(root, entry.name, wait=False) as free:
        if not free or artifacts.used_at(root / entry.name) != entry.used_at:
            return False
        artifacts.remove(root, entry.name)
    return True


def _act(root: Path, fate: Fate) -> Fate:
    if not fate.goes or drop(root, fate.entry):
        return fate
    return replace(fate, goes=False, why="it is being built or used")


def _stays(entry: Entry, keep: Mapping[str, str], now: float, idle_s: float) -> str:
    """Why it may not go whatever the bound; empty: it may."""
    reason = keep.get(entry.digest) or next((why for d, why in keep.items() if _same_place(entry, d)), "")
    if reason or entry.damage:
        return reason
    if entry.pinned:
        return "pinned"
    return f"used within the last {idle_s / 60:g} min" if now - entry.used_at < idle_s else ""


def _same_place(entry: Entry, digest: str) -> bool:
    """A damaged one may not know its digest; its directory's name does."""
    return bool(entry.damage) and _short(entry) == digest[:16]


def _short(entry: Entry) -> str:
    return entry.name.rpartition("-")[2]


def _entry(directory: Path, files: list[os.stat_result], links: Counter[int]) -> Entry:
    damage, manifest = "", {}
    try:
        manifest = artifacts.read_manifest(directory)
    except Corrupt as bad:
        damage = str(bad)
    size, own = _bytes(files, links)
    model = manifest.get("model") or {}
    return Entry(
        directory.name,
        str(directory),
        str(manifest.get("kind") or directory.name.rpartition("-")[0]),
        str(manifest.get("digest", "")),
        str(model.get("uri") or model.get("name") or "") if isinstance(model, dict) else "",
        size,
        own,
        float(manifest.get("built_at") or 0.0),
        artifacts.used_at(directory),
        (directory.parent / _PINS / directory.name).exists(),
        damage,
    )


def _files(directory: Path) -> list[os.stat_result]:
    """Of every file; one that somebody removes meanwhile is gone."""
    found = []
    for path in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if not path.is_dir():
                found.append(path.lstat())
    return found


def _bytes(files: list[os.stat_result], links: Counter[int]) -> tuple[int, int]:
    """Bytes of all files, and its share of those whose every hard link is in an engine (``links``: how many are)."""
    here = Counter(file.st_ino for file in files)
    once = {file.st_ino: file for file in files}
    own = sum(f.st_size * here[i] // links[i] for i, f in once.items() if f.st_nlink == links[i])
    return sum(file.st_size for file in once.values()), own
