"""All that is told of a release, as one JSON document: what the page shows, with every number's count of samples.

schema       1
release, service, outcome, reason, model, engine, stable, candidate, policy, rules (the policy's values), engine_name,
spec (the engine's settings), begun_at, ended_at   as they were; None where not known
findings     the last verdict, metric by metric (``rollout.nouns.Finding`` as a mapping)
timeline     [{at, stage, canary_permille, mirror_permille, outcome, reason, forecast}], a row a look
metrics      {name: [{at, stable, candidate, effect, low, high, harm_e, harm_needs, allow_e, allow_needs, n_stable,
             n_candidate}]}
samples      {kept: share that the file holds, stages: [{stage, stable, candidate}]} in numbers of requests
distributions {TTFT | TPOT | E2E: {stable | candidate: {n, p50, p90, p95, p99, points: [[seconds, share below]]}}}
worst        [{metric, kind, name, stable, candidate, n_stable, n_candidate, harm_e}], the strongest evidence first
examples     [{difference, prompt, stable, candidate, diverged_at, gain, id}], and with them
outputs      what the comparison of answers said; None without one
unread       [sentence], which files could not be read, or not wholly; what they hold is missing above
answers      [{question, yes, who, reason, at}], what people said
stages, stress, seconds, gpu   as the release measured them
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from reports.head import NOTED, ORDERED
from reports.samples_file import BEFORE, FILE, Row, halved, read
from rollout.errors import Corrupt
from rollout.nouns import Sample

T = TypeVar("T")
SCHEMA = 1
LATENCIES = ("TTFT", "TPOT", "E2E")
ARMS = ("stable", "candidate")
LOOKS, OUTPUTS = "looks.jsonl", "outputs.json"
_POINTS = 100  # of a distribution; the tail beyond the last gets as many again
_HEAD = ("release", "service", "outcome", "reason", "model", "engine", "stable", "candidate", "policy", "engine_name")
_TIMELINE = ("at", "stage", "canary_permille", "mirror_permille", "outcome", "reason", "forecast")
_PROOF = ("harm_e", "harm_needs", "allow_e", "allow_needs", "n_stable", "n_candidate")
_PATH = ("stable", "candidate", "effect", "low", "high", *_PROOF)
_REST = ("stages", "stress", "seconds", "gpu")


def record_of(evidence: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """The record of a release from its evidence and the files in its directory, whichever there are. What cannot be
    read is left out, and told in ``unread``."""
    unread, samples = list[str](), directory / FILE
    looks = _or([], lambda: _looks(directory / LOOKS, unread), unread)
    outputs = _or(None, lambda: _json(directory / OUTPUTS), unread)
    noted = _or(None, lambda: _json(directory / NOTED), unread) or {}
    evidence = {**evidence, **{name: noted[name] for name in ORDERED if name in noted}}

    def whole() -> dict[str, Any]:
        rows, kept = (read(samples), 0.5 ** halved(samples)) if samples.exists() else ((), 1.0)
        return record(evidence, looks, rows, outputs, kept, unread)

    return _or({}, whole, unread) or record(evidence, looks, (), outputs, unread=unread)


def record(
    evidence: Mapping[str, Any],
    looks: Sequence[Mapping[str, Any]],
    samples: Iterable[Row] = (),
    outputs: Mapping[str, Any] | None = None,
    kept: float = 1.0,
    unread: Sequence[str] = (),
) -> dict[str, Any]:
    """The document. ``kept`` is the share of the requests that ``samples`` holds."""
    findings = list(evidence.get("findings") or (looks[-1]["findings"] if looks else []))
    stages, distributions = _counted(samples, evidence.get("candidate"))
    compared = outputs or evidence.get("outputs") or {}
    return {
        "schema": SCHEMA,
        **{name: evidence.get(name) for name in _HEAD},
        "rules": evidence.get("rules") or {},
        "spec": evidence.get("spec") or {},
        "begun_at": evidence.get("begun_at"),
        "ended_at": evidence.get("ended_at"),
        "findings": findings,
        "timeline": [{name: look.get(name) for name in _TIMELINE} for look in looks],
        "metrics": _paths(looks),
        "samples": {"kept": kept, "stages": stages},
        "distributions": distributions,
        "worst": worst(findings),
        "outputs": compared.get("finding"),
        "examples": list((compared.get("agreement") or {}).get("examples") or []),
        "unread": list(unread),
        "answers": list(evidence.get("answers") or ()),
        **{name: evidence.get(name) for name in _REST},
    }


def worst(findings: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The parts of all metrics, the strongest evidence of harm first."""
    parts = [
        {"metric": finding["metric"], "kind": finding.get("kind", "ratio"), **part}
        for finding in findings
        for part in finding.get("worst") or ()
    ]
    return sorted(parts, key=lambda part: -part["harm_e"])


def _paths(looks: Iterable[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    paths: dict[str, list[dict[str, Any]]] = {}
    for look in looks:
        for finding in look["findings"]:
            point = {"at": look["at"], **{name: finding.get(name) for name in _PATH}}
            paths.setdefault(finding["metric"], []).append(point)
    return paths


def _counted(samples: Iterable[Row], candidate: int | None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """How many requests of each arm each stage has, and how long those took that went well."""
    counts: dict[str, Counter[str]] = {}
    seconds = {name: {arm: array("d") for arm in ARMS} for name in LATENCIES}
    for stage, sample in samples:
        arm = ARMS[sample.version == candidate]
        counts.setdefault(stage, Counter())[arm] += 1
        if stage == BEFORE or sample.failed or sample.cut or sample.error:
            continue
        for name, value in zip(LATENCIES, _latencies(sample), strict=True):
            if value is not None and value > 0:
                seconds[name][arm].append(value)
    stages = [{"stage": stage, **{arm: count[arm] for arm in ARMS}} for stage, count in counts.items()]
    known = {name: arms for name, arms in seconds.items() if any(arms.values())}
    return stages, {name: {arm: _distribution(arms[arm]) for arm in ARMS} for name, arms in known.items()}


def _latencies(sample: Sample) -> tuple[float | None, float | None, float | None]:
    return sample.ttft_s if sample.streamed else None, sample.tpot_s, sample.total_s


def _distribution(seconds: Sequence[float]) -> dict[str, Any]:
    """Quantiles (linear between ranks) and points of the cumulative distribution, closer in the upper tail."""
    if not seconds:
        return {"n": 0, "p50": None, "p90": None, "p95": None, "p99": None, "points": []}
    shares = np.concatenate([np.linspace(0, 0.95, _POINTS), np.linspace(0.95, 1, _POINTS // 2)[1:]])
    values = np.quantile(np.asarray(seconds), np.concatenate([[0.5, 0.9, 0.95, 0.99], shares]))
    p50, p90, p95, p99 = (float(v) for v in values[:4])
    points = [[float(v), float(share)] for v, share in zip(values[4:], shares, strict=True)]
    return {"n": len(seconds), "p50": p50, "p90": p90, "p95": p95, "p99": p99, "points": points}


def _or(otherwise: T, act: Callable[[], T], unread: list[str]) -> T:
    try:
        return act()
    except (Corrupt, OSError) as error:
        unread.append(str(error))
        return otherwise


def _looks(path: Path, unread: list[str]) -> list[dict[str, Any]]:
    """The looks. A crash or a full disk leaves half a line: such lines are left out and counted. Raises OSError."""
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    found = [_look(line) for line in lines if line.strip()]
    looks = [look for look in found if look is not None]
    if skipped := len(found) - len(looks):
        unread.append(f"{path}: {skipped} of {len(found)} lines cannot be read and are left out")
    return looks


def _look(line: bytes) -> dict[str, Any] | None:
    try:
        look = json.loads(line)
    except ValueError:
        return None
    return look if isinstance(look, dict) and {"at", "stage", "findings"} <= look.keys() else None


def _json(path: Path) -> dict[str, Any] | None:
    """Nothing where there is none. Raises Corrupt, OSError."""
    try:
        document = json.loads(path.read_bytes()) if path.exists() else None
    except ValueError as error:
        raise Corrupt(f"{path}: no JSON ({error})") from error
    if not isinstance(document, dict | None):
        raise Corrupt(f"{path}: a JSON object should be in it")
    return document
