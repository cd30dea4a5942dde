"""``roundhouse policy replay``: what another policy would have decided of a past release."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.release_explain import Id, Json, found
from cli.screen import out, show_json, show_table
from configs.fields import path_of
from configs.rollout_file import read_rollout
from configs.stack import load_stack
from reports.comparisons_file import FILE as COMPARISONS
from reports.comparisons_file import read_comparisons
from reports.record import OUTPUTS
from reports.samples_file import BEFORE, FILE, Rows
from reports.vetoes_file import FILE as VETOES
from reports.vetoes_file import VetoFile
from rollout.agreement import Agreement, agreement_of
from rollout.errors import NotFound
from rollout.policy import Policy
from rollout.recorded import Recorded
from rollout.replay import Replay
from rollout.replay import replay as judged_again
from store.port import Release, Store, open_store

Other = Annotated[str, typer.Option("--policy", help="A file of configs/rollouts, or the path of one elsewhere.")]


def replay(release: Id, policy: Other, as_json: Json = False) -> None:
    """Judge the stored requests, answers and vetoes of a past release again under another policy: what it would have
    decided, and when.

    Example: `roundhouse policy replay chat-1f0c2ab3 --policy cautious`
    """
    rules, stack = policy_of(policy), load_stack()
    store = open_store(stack.store())
    past = found(store, release)
    directory = stack.home / "reports" / past.id
    rows = Rows(directory / FILE) if (directory / FILE).exists() else None
    recorded = recorded_in(directory, past.evidence.get("rules") or {})
    if past.candidate is None or not (recorded.sums or recorded.batches or _has_requests(rows)):
        raise NotFound(f"release {past.id} has no samples to judge again: no users' requests were compared in it")
    hang_s = rules.settle_s + _longest_answer(store, past.service)
    again = judged_again(rows or (), past.candidate, rules, BEFORE, hang_s, recorded)
    kept = rows.share if rows else 1.0
    if as_json:
        was = {"outcome": str(past.phase), "reason": past.reason}
        show_json({"release": past.id, "policy": policy, "kept": kept, "was": was, "replay": asdict(again)})
    else:
        _show(past, policy, again, kept)


def policy_of(name: str) -> Policy:
    """A policy by its name or by the path of its file. Raises NotFound, Refused."""
    is_path = "/" in name or name.endswith((".yaml", ".yml"))
    return read_rollout(Path(name) if is_path else path_of("rollouts", name)).policy()


def recorded_in(directory: Path, rules: Mapping[str, Any]) -> Recorded:
    """What a release's folder holds of compared answers and vetoes; ``rules`` are those that it was judged by."""
    batches, unread = read_comparisons(directory / COMPARISONS), ""
    named = rules.get("evaluation") or ()
    sets = batches[0].sets if batches else (named,) if isinstance(named, str) else tuple(named)
    try:
        sums = _sums(directory / OUTPUTS)
    except (KeyError, TypeError, ValueError) as error:
        sums, unread = None, f"{directory / OUTPUTS} cannot be read ({error!r})"
    return Recorded(batches, sums, sets, unread, VetoFile(directory / VETOES))


def _sums(path: Path) -> Agreement | None:
    """What the comparisons came to; None where there were none. Raises KeyError, TypeError, ValueError."""
    return agreement_of(json.loads(path.read_bytes())["agreement"]) if path.exists() else None


def _has_requests(rows: Rows | None) -> bool:
    return rows is not None and any(stage != BEFORE for stage, _ in rows)


def _longest_answer(store: Store, service: str) -> float:
    """How long a request of a service may take, seconds, as it is set now; 0 where the service is gone."""
    return next((s.response_timeout_s for s in store.services() if s.name == service), 0.0)


def _show(past: Release, policy: str, again: Replay, kept: float) -> None:
    out.print(f"{past.id} was {past.phase}: {past.reason}", markup=False)
    requests = f"{again.n_candidate:,} requests of the candidate, {again.at_s:.0f} s"
    out.print(f"under {policy}: {again.outcome} after {requests}: {again.reason}", markup=False)
    for part in again.not_judged:
        out.print(f"not judged again: {part.what}: {part.why}", markup=False)
    for asked in again.asked:
        out.print(f"a person would be asked after {asked.at_s:.0f} s: {asked.question}", markup=False)
    if kept < 1:
        out.print(f"one request in {1 / kept:.0f} is kept; with all of them it is decided sooner", markup=False)
    columns = ("stage", "says", "after", "candidate", "stable")
    show_table("", columns, [(p.stage, p.outcome, f"{p.at_s:.0f} s", p.n_candidate, p.n_stable) for p in again.stages])
