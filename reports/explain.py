"""The record of a release as words and rows, for a page and for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

COLUMNS = ("metric", "says", "stable", "candidate", "effect, 95 % sure", "margin", "harm", "good", "requests")
WORST_COLUMNS = ("metric", "where", "stable", "candidate", "evidence of harm", "requests")
_MOST_WORST = 8


def decision(record: Mapping[str, Any]) -> str:
    """The decision in a sentence."""
    who = f"version {record['candidate']} of {record['service']}"
    if record["candidate"] is None:
        who = f"a new version of {record['service']}"
    outcome = record["outcome"]
    against = f" in place of version {record['stable']}" if record["stable"] else ", the first one"
    return {
        "promoted": f"Promoted: {who} serves all requests{against}",
        "rolled back": f"Rolled back: {who} serves no user"
        + (f", version {record['stable']} serves all" if record["stable"] else ""),
        "failed": f"Failed: {who} could not be judged",
        "running": f"Under way: {who} is not decided yet",
        "pending": f"Under way: a release of {record['service']} has not begun",
    }.get(outcome, f"{str(outcome).capitalize()}: {who}")


def facts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Where all this comes from: name and value, what is unknown left out."""
    known = [
        ("release", record["release"]),
        ("model", record["model"]),
        ("engine", _engine(record)),
        ("candidate", record["candidate"]),
        ("stable", record["stable"] or "none: a first version"),
        ("policy", record["policy"]),
        ("begun", when(record["begun_at"])),
        ("ended", when(record["ended_at"])),
        ("requests judged", _requests(record)),
        *(("a person", _said(word)) for word in record["answers"]),
    ]
    return [(name, str(value)) for name, value in known if value]


def finding_rows(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row of ``COLUMNS`` a metric."""
    bounds = _veto_bounds(record["rules"])
    return [
        (
            f["metric"],
            str(f["outcome"]),
            figure(f["metric"], f.get("kind", "ratio"), f["stable"]),
            figure(f["metric"], f.get("kind", "ratio"), f["candidate"]),
            _effect(f),
            bounds.get(f["metric"]) or _margin(f),
            _proof(f.get("harm_e"), f.get("harm_needs")),
            _proof(f.get("allow_e"), f.get("allow_needs")),
            f"{f['n_candidate']:,} / {f['n_stable']:,}",
        )
        for f in record["findings"]
    ]


def latency_rows(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Quantiles of both arms, ms, with the number of requests."""
    return [
        (name, arm, *(_ms(seen[rank]) for rank in ("p50", "p90", "p95", "p99")), f"{seen['n']:,}")
        for name, arms in record["distributions"].items()
        for arm, seen in arms.items()
    ]


def worst_rows(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row of ``WORST_COLUMNS`` a part of the requests, the strongest evidence of harm first."""
    telling = [p for p in record["worst"] if p["harm_e"] > 1 or p["metric"] == "outputs"]
    return [
        (
            p["metric"],
            p["name"],
            figure(p["metric"], p["kind"], p["stable"]),
            figure(p["metric"], p["kind"], p["candidate"]),
            "–" if p["metric"] == "outputs" else f"{p['harm_e']:.3g}",
            f"{p['n_candidate']:,} / {p['n_stable']:,}",
        )
        for p in telling[:_MOST_WORST]
    ]


def example_rows(record: Mapping[str, Any]) -> list[dict[str, str]]:
    """What was asked, both answers, and where they part. Users' requests are named by their id alone."""
    return [
        {
            "prompt": e["prompt"] or f"request {e.get('id') or 'unknown'} of a user; its words are in the call records",
            "stable": e["stable"],
            "candidate": e["candidate"],
            "told": _parted(e),
        }
        for e in record["examples"]
    ]


def stages_line(record: Mapping[str, Any]) -> str:
    """The way of the weights in a line: stage, its time, what it said."""
    seconds = {s["stage"]: s for s in record["stages"] or ()}
    names = list(seconds) or list(dict.fromkeys(look["stage"] for look in record["timeline"]))
    told = []
    for name in names:
        looks = [look for look in record["timeline"] if look["stage"] == name]
        took = seconds[name]["seconds"] if name in seconds else looks[-1]["at"] - looks[0]["at"]
        told.append(f"{name} {took:.0f} s")
    end = {"promoted": "100 %", "rolled back": "0 %", "failed": "0 %"}.get(str(record["outcome"]), "now")
    return " → ".join([*told, end])


def figure(metric: str, kind: str, value: float | None) -> str:
    """A number with its unit: latencies in ms, rates in percent, others as they are."""
    if value is None:
        return "–"
    if metric in ("TTFT", "TPOT", "E2E"):
        return f"{value * 1000:.4g} ms"
    return f"{value:.2%}" if kind == "difference" else f"{value:.4g}"


def amount(value: Any) -> str:
    """A number as a person reads it."""
    return f"{value:,.4g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value or "–")


def when(at: float | None) -> str:
    """A moment in UTC; nothing where it is not known."""
    return "" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def lines(record: Mapping[str, Any]) -> Iterable[str]:
    """What is not in a table, for a terminal: decision, reason, and the way of the weights."""
    yield decision(record)
    if record["reason"]:
        yield record["reason"]
    yield " · ".join(f"{name} {value}" for name, value in facts(record))
    if record["timeline"] or record["stages"]:
        yield stages_line(record)
    if told := outlook(record):
        yield told
    yield from (f"Missing here: {what}" for what in record["unread"])


def outlook(record: Mapping[str, Any]) -> str:
    """How long it will take at this traffic, as the last look said; nothing once a release has ended."""
    under_way = record["timeline"] and record["outcome"] in ("running", "pending")
    return (record["timeline"][-1]["forecast"] or "") if under_way else ""


def _ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1000:,.4g}"


def _effect(f: Mapping[str, Any]) -> str:
    effect, low, high = f.get("effect"), f["low"], f["high"]
    ratio = f.get("kind", "ratio") == "ratio"
    shown = [("–" if v is None else f"{v:.2f}x" if ratio else f"{v:+.2%}") for v in (effect, low, high)]
    return "–" if low is None and effect is None else f"{shown[0]} ({shown[1]} to {shown[2]})"


def _margin(f: Mapping[str, Any]) -> str:
    kind, margin = f.get("kind", "ratio"), f["margin"]
    if kind == "rate":  # in units of its own
        return f"{margin:g}"
    return f"{margin:+.2%}" if kind == "difference" and margin < 1 else f"{margin:g}x"


def _veto_bounds(rules: Mapping[str, Any]) -> dict[str, str]:
    """The bound of each veto by the name of its metric, where the policy is known."""
    sides = [(veto["name"], side, veto.get(side)) for veto in rules.get("vetoes") or () for side in ("above", "below")]
    return {f"veto {name}": f"{side} {bound:g}" for name, side, bound in sides if bound is not None}


def _proof(e: float | None, needs: float | None) -> str:
    """How strong the evidence is, of what it takes."""
    if not needs or e is None:
        return "–"
    return f"{'>1e6' if e > 1e6 else f'{e:.3g}'} of {needs:.3g}"


def _engine(record: Mapping[str, Any]) -> str:
    """The name of its settings, and the digest of what was built."""
    engine = record["engine"] or {}
    digest = f"{(engine.get('digest') or '')[:16]}{', found' if engine.get('cached') else ''}"
    return f"{record['engine_name'] or ''} {digest}".strip()


def _said(word: Mapping[str, Any]) -> str:
    why = f", for: {word['reason']}" if word["reason"] else ""
    return f"{word['who']} said {'yes' if word['yes'] else 'no'} at {when(word['at'])}{why} (asked: {word['question']})"


def _requests(record: Mapping[str, Any]) -> str:
    stages = [s for s in record["samples"]["stages"] if s["stage"] != "before"]
    if not stages:
        return ""
    kept, told = record["samples"]["kept"], f"{sum(s['candidate'] for s in stages):,} of the candidate, "
    told += f"{sum(s['stable'] for s in stages):,} of stable"
    return told if kept == 1.0 else f"{told} kept, one in {1 / kept:.0f}"


def _parted(e: Mapping[str, Any]) -> str:
    parts = []
    if e.get("diverged_at") is not None:
        parts.append(f"the same up to token {e['diverged_at']}")
    if e.get("gain") is not None:
        parts.append(f"log-likelihood of the right answer {e['gain']:+.3f} a token")
    return ", ".join(parts)
