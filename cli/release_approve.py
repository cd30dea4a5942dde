"""``roundhouse release approve | reject``: a person answers what a release asks before it goes on."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer

from cli.screen import out, show_json
from configs.stack import load_stack
from rollout.errors import Conflict
from store.port import Release, open_store

Id = Annotated[str, typer.Argument(help="A release's id; `roundhouse status` names those that wait.")]
Reason = Annotated[str, typer.Option(help="What the records will say.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]


def approve(release: Id, reason: Reason = "", as_json: Json = False) -> None:
    """Say yes to what a release asks. Exit code 3: there is no such release; 4: it asks nothing, or has ended.

    Example: `roundhouse release approve chat-1f0c2ab3 --reason "the answers look right"`
    """
    _answer(release, True, reason, as_json)


def reject(release: Id, reason: Reason = "", as_json: Json = False) -> None:
    """Say no to what a release asks: it is rolled back. Exit codes as of `roundhouse release approve`.

    Example: `roundhouse release reject chat-1f0c2ab3 --reason "not on a Friday"`
    """
    _answer(release, False, reason, as_json)


def _answer(release_id: str, yes: bool, reason: str, as_json: bool) -> None:
    store = open_store(load_stack().store())
    refuse_unasked(store.release(release_id))
    answered = store.answer(release_id, yes, getpass.getuser(), reason).answer or {}
    if as_json:
        show_json({"release": release_id, **answered})
    else:
        out.print(f"{release_id} asked: {answered['question']}", markup=False)
        out.print(f"{answered['who']} said {'yes' if yes else 'no'}", markup=False)


def refuse_unasked(release: Release) -> None:
    """Raises Conflict, with what stands, where a release waits for nobody."""
    if release.waiting and release.phase.active:
        return
    if not release.phase.active:
        raise Conflict(f"release {release.id} has ended ({release.phase}: {release.reason}); it asks nothing any more")
    told = release.answer
    before = f"; {told['who']} said {'yes' if told['yes'] else 'no'} to: {told['question']}" if told else ""
    raise Conflict(f"release {release.id} asks nothing now (stage {release.stage!r}){before}")
