"""Follows a run to its end and shows what happens, a line a change."""

from __future__ import annotations

import time

from cli.prefect_api import PrefectApi, Run
from cli.release_approve import how_to_answer
from cli.screen import say
from configs.stack import Stack
from rollout.errors import Unavailable
from store.port import Release, Store, open_store

LOOK_S = 0.5
HOOK_S = 15.0  # after a run has ended, for its hook to end the release


def follow_run(stack: Stack, run_id: str, quiet: bool) -> Run:
    """Show a run's log as it comes; the run once it has ended."""
    api, shown = PrefectApi(stack), 0
    while True:
        run = api.run(run_id)
        for line in api.logs(run_id, shown):
            shown += 1
            if not quiet:
                say(f"  {line}")
        if run.ended:
            return run
        time.sleep(LOOK_S)


def follow_release(stack: Stack, run_id: str, quiet: bool, patience_s: float = 120.0) -> Release:
    """Show a release's stages as they come; the release once its evidence is written. Raises Unavailable."""
    api, store, began, stage, asked = PrefectApi(stack), open_store(stack.store()), time.monotonic(), "", ""
    ended_at: float | None = None
    while True:
        found = _of_run(store, run_id)
        if found is not None and found.stage != stage:
            stage = found.stage
            if not quiet:
                say(f"  {time.monotonic() - began:6.1f} s  {stage}")
        if found is not None and found.waiting != asked:
            asked = found.waiting
            if asked:  # also where nothing else is shown: who waits for a person says so
                say(f"  {asked} Answer with {how_to_answer(found)}")
        run = api.run(run_id)
        if run.ended and found is not None and not found.phase.active:
            return _of_run(store, run_id) or found
        ended_at = (ended_at or time.monotonic()) if run.ended else None
        if ended_at is not None and time.monotonic() - ended_at > HOOK_S:
            raise Unavailable(f"the run ended as {run.state.lower()}: {run.message or 'see its log in the Prefect UI'}")
        if found is None and time.monotonic() - began > patience_s:
            raise Unavailable(
                f"the run has not begun after {patience_s:g} s; is the worker up? See `roundhouse status`"
            )
        time.sleep(LOOK_S)


def _of_run(store: Store, run_id: str) -> Release | None:
    return next((r for r in store.releases() if r.flow_run == run_id), None)
