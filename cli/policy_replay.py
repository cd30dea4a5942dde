"""``roundhouse policy replay``: what another policy would have decided of a past release."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cli.release_explain import Id, Json, found
from cli.screen import out, show_json, show_table
from configs.fields import path_of
from configs.rollout_file import read_rollout
from configs.stack import load_stack
from reports.samples_file import BEFORE, FILE, halved, read
from rollout.errors import NotFound
from rollout.policy import Policy
from rollout.replay import Replay
from rollout.replay import replay as judged_again
from store.port import Release, Store, open_store

Other = Annotated[str, typer.Option("--policy", help="A file of configs/rollouts, or the path of one elsewhere.")]


def replay(release: Id, policy: Other, as_json: Json = False) -> None:
    """Judge the stored requests of a past release again under another policy: what it would have decided, and when.

    Example: `roundhouse policy replay chat-1f0c2ab3 --policy cautious`
    """
    rules, stack = policy_of(policy), load_stack()
    store = open_store(stack.store())
    past = found(store, release)
    path = stack.home / "reports" / past.id / FILE
    rows = list(read(path)) if path.exists() else []
    if past.candidate is None or all(stage == BEFORE for stage, _ in rows):
        raise NotFound(f"release {past.id} has no samples to judge again: no users' requests were compared in it")
    hang_s = rules.settle_s + _longest_answer(store, past.service)
    again, kept = judged_again(rows, past.candidate, rules, BEFORE, hang_s), 0.5 ** halved(path)
    if as_json:
        was = {"outcome": str(past.phase), "reason": past.reason}
        show_json({"release": past.id, "policy": policy, "kept": kept, "was": was, "replay": asdict(again)})
    else:
        _show(past, policy, again, kept)


def policy_of(name: str) -> Policy:
    """A policy by its name or by the path of its file. Raises NotFound, Refused."""
    is_path = "/" in name or name.endswith((".yaml", ".yml"))
    return read_rollout(Path(name) if is_path else path_of("rollouts", name)).policy()


def _longest_answer(store: Store, service: str) -> float:
    """How long a request of a service may take, seconds, as it is set now; 0 where the service is gone."""
    return next((s.response_timeout_s for s in store.services() if s.name == service), 0.0)


def _show(past: Release, policy: str, again: Replay, kept: float) -> None:
    out.print(f"{past.id} was {past.phase}: {past.reason}", markup=False)
    requests = f"{again.n_candidate:,} requests of the candidate, {again.at_s:.0f} s"
    out.print(f"under {policy}: {again.outcome} after {requests}: {again.reason}", markup=False)
    for asked in again.asked:
        out.print(f"a person would be asked after {asked.at_s:.0f} s: {asked.question}", markup=False)
    if kept < 1:
        out.print(f"one request in {1 / kept:.0f} is kept; with all of them it is decided sooner", markup=False)
    columns = ("stage", "says", "after", "candidate", "stable")
    show_table("", columns, [(p.stage, p.outcome, f"{p.at_s:.0f} s", p.n_candidate, p.n_stable) for p in again.stages])
