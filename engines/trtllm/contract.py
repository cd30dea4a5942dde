"""What each version of TensorRT-LLM takes and tells: flags, YAML keys, kinds of speculation, metrics, pins.

The facts are in ``contract/<line>.yaml``; a line says only what changed from the one before. One is not proven key by
key: what is ``unsure`` says so.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from packaging.version import Version

from engines.trtllm.recipe_spec import version_of
from rollout.errors import Refused

NEWEST = "1.2.1"  # the newest release that is not a candidate (April 2026)
_FOLDER = Path(__file__).with_name("contract")


@dataclass(frozen=True)
class Entry:
    """One flag or key. ``type`` is int, float, str, bool, map, ints, lists or any; ``keys`` are those of a map."""

    name: str
    type: str = "any"
    null: bool = False
    default: Any = None
    choices: tuple[Any, ...] = ()
    min: float | None = None
    above: float | None = None
    max: float | None = None
    only: str = ""  # the backend that knows it; empty: all
    since: str = ""
    until: str = ""
    also: Mapping[str, str] = field(default_factory=dict)  # another name -> the first version with it
    key: str = ""  # of a flag: the same in the YAML
    same_as: str = ""  # of a key: the older one that means the same
    switch: bool = False  # of a flag: it takes no value
    multiple: bool = False
    dropped: bool = False  # of a flag: parsed and forgotten
    needs: tuple[str, ...] = ()  # keys that this map must have
    keys: Mapping[str, Entry] | None = None

    def is_in(self, version: Version) -> bool:
        """Whether that version has it."""
        return _is_in(version, self.since, self.until)


@dataclass(frozen=True)
class Guessing:
    """One kind of speculation, by its ``decoding_type``. ``overlap``: whether it works with the overlap scheduler."""

    name: str
    backends: tuple[str, ...]
    needs: tuple[str, ...]
    overlap: bool
    keys: Mapping[str, Entry]


@dataclass(frozen=True)
class Contract:
    """One version. ``flags`` are by every name that this version has; ``precedence`` says who wins, yaml or flags."""

    version: str
    line: str
    image: str
    precedence: str
    backends: tuple[str, ...]
    telemetry: Mapping[str, str]
    yaml_flag: str
    flags: Mapping[str, Entry]
    keys: Mapping[str, Entry]
    speculative: Mapping[str, Guessing]
    unsure: frozenset[str]
    hints: Mapping[str, str]
    metrics: Mapping[str, Mapping[str, str]]
    pins: Mapping[str, str]


def lines() -> tuple[str, ...]:
    """The version lines that are known, oldest first."""
    return tuple(sorted((path.stem for path in _FOLDER.glob("*.yaml")), key=Version))


@cache
def contract_of(text: str) -> Contract:
    """The contract of a version such as 1.2.1 or 1.3.0rc15. Raises Refused naming the lines that are known."""
    version = version_of(text)
    line = f"{version.major}.{version.minor}"
    if line not in lines():
        known = ", ".join(f"{each} (to {_facts(each)['newest']})" for each in lines())
        raise Refused("version", text, f"its contract is not known; known are {known}", f"use for example {NEWEST}")
    facts = _facts(line)
    flags = [entry for entry in entries(facts["flags"]).values() if entry.is_in(version)]
    return Contract(
        version=str(version),
        line=line,
        image=facts["image"].format(version=version),
        precedence=_latest(facts["precedence"], version),
        backends=tuple(b for b, when in facts["backends"].items() if _is_in(version, "", when.get("until", ""))),
        telemetry=facts["telemetry"],
        yaml_flag=facts["yaml_flag"],
        flags={name: entry for entry in flags for name in _names(entry, version)},
        keys=_only_in(entries(facts["keys"]), version),
        speculative=_guessing(facts["speculative"]),
        unsure=frozenset(facts["unsure"]),
        hints=facts["hints"],
        metrics={page: dict(_metrics(names, version)) for page, names in facts["metrics"].items()},
        pins=_latest(facts["pins"], version),
    )


def entries(facts: Mapping[str, Any]) -> dict[str, Entry]:
    """Flags or keys from their mapping."""
    return {name: _entry(name, told) for name, told in facts.items()}


def closest(name: str, known: Mapping[str, Any]) -> str:
    """ "did you mean --x", or nothing."""
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {found[0]}" if found else ""


def elsewhere(kind: str, path: str) -> tuple[str, str]:
    """(first version that has a flag or a dotted key, its oldest name), or nothing. ``kind``: flags or keys."""
    for line in lines():
        known = entries(_facts(line)[kind])
        if kind == "flags":
            known |= {other: entry for entry in known.values() for other in entry.also}
        entry = _inside(known, path.split("."))
        if entry is not None:
            return entry.also.get(path) or entry.since or line, entry.name
    return "", ""


def _inside(known: Mapping[str, Entry] | None, path: list[str]) -> Entry | None:
    entry = (known or {}).get(path[0])
    return entry if entry is None or len(path) == 1 else _inside(entry.keys, path[1:])


def _entry(name: str, told: Any) -> Entry:
    facts = {"type": told} if isinstance(told, str) else dict(told)
    kind, _, null = facts.pop("type", "any").partition("|")
    keys = facts.pop("keys", None)
    facts |= {"choices": tuple(facts.pop("in", ())), "needs": tuple(facts.pop("needs", ()))}
    return Entry(name, kind, bool(null), keys=None if keys is None else entries(keys), **facts)


def _only_in(known: Mapping[str, Entry], version: Version) -> dict[str, Entry]:
    here = {name: entry for name, entry in known.items() if entry.is_in(version)}
    return {
        name: entry if entry.keys is None else Entry(**{**vars(entry), "keys": _only_in(entry.keys, version)})
        for name, entry in here.items()
    }


def _names(entry: Entry, version: Version) -> Iterator[str]:
    yield entry.name
    yield from (name for name, since in entry.also.items() if _is_in(version, since, ""))


def _guessing(facts: Mapping[str, Any]) -> dict[str, Guessing]:
    common, types = entries(facts["common"]), facts["types"]
    return {
        name: Guessing(
            name,
            tuple(told["backends"]),
            tuple(told.get("needs", ())),
            told.get("overlap", True),
            common | entries(types[told.get("keys_of", name)].get("keys", {})),
        )
        for name, told in types.items()
    }


def _metrics(names: Mapping[str, Any], version: Version) -> Iterator[tuple[str, str]]:
    for ours, told in names.items():
        name, since = (told, "") if isinstance(told, str) else (told["name"], told["since"])
        if _is_in(version, since, ""):
            yield ours, name


def _latest(by_version: Mapping[str, Any], version: Version) -> Any:
    """What holds from the last of the named versions on; the first holds before it too."""
    ordered = sorted(by_version, key=Version)
    return by_version[next((v for v in reversed(ordered) if Version(v) <= version), ordered[0])]


def _is_in(version: Version, since: str, until: str) -> bool:
    return not (since and version < Version(since)) and not (until and version >= Version(until))


@cache
def _facts(line: str) -> dict[str, Any]:
    """The facts of a line: those of the line before, and its own over them."""
    own = yaml.safe_load((_FOLDER / f"{line}.yaml").read_text(encoding="utf-8"))
    return _over(_facts(own["from"]), own) if "from" in own else own


def _over(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, told in own.items():
        before = merged.get(name)
        if isinstance(told, Mapping) and isinstance(before, str):
            before = {"type": before}
        merged[name] = _over(before, told) if isinstance(told, Mapping) and isinstance(before, Mapping) else told
    return merged
