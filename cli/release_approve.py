"""``roundhouse release approve | reject``: a person answers what a release asks before it goes on."""

from __future__ import annotations

import getpass
import os
import sys
from typing import Annotated

import typer

from cli.screen import out, show_json
from configs.stack import load_stack
from rollout.errors import Conflict, Refused
from store.port import Release, open_store

Id = Annotated[str, typer.Argument(help="A release's id; `roundhouse status` names those that wait.")]
Question = Annotated[int | None, typer.Option(help="Which question is answered; needed where no terminal asks back.")]
Reason = Annotated[str, typer.Option(help="What the records will say.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]


def approve(release: Id, question: Question = None, reason: Reason = "", as_json: Json = False) -> None:
    """Say yes to what a release asks. Exit code 3: there is no such release; 4: it does not ask that, or has ended.

    Example: `roundhouse release approve chat-1f0c2ab3 --question 2 --reason "the answers look right"`
    """
    _answer(release, True, question, reason, as_json)


def reject(release: Id, question: Question = None, reason: Reason = "", as_json: Json = False) -> None:
    """Say no to what a release asks: it is rolled back. Exit codes as of `roundhouse release approve`.

    Example: `roundhouse release reject chat-1f0c2ab3 --question 2 --reason "not on a Friday"`
    """
    _answer(release, False, question, reason, as_json)


def how_to_answer(release: Release) -> str:
    """The commands that answer what a release asks now, and nothing that it asks later."""
    which = f"{release.id} --question {release.asked}"
    return f"`roundhouse release approve {which}` or `roundhouse release reject {which}`"


def _answer(release_id: str, yes: bool, number: int | None, reason: str, as_json: bool) -> None:
    store = open_store(load_stack().store())
    release = store.release(release_id)
    refuse_unasked(release)
    number = _read(release, yes) if number is None else number
    answered = store.answer(release_id, yes, _who(), reason, number).answer or {}
    if as_json:
        show_json({"release": release_id, **answered})
    else:
        out.print(f"{release_id} asked: {answered['question']}", markup=False)
        out.print(f"{answered['who']} said {'yes' if yes else 'no'}", markup=False)


def _read(release: Release, yes: bool) -> int:
    """The number of the question that was shown and confirmed, so that nobody answers what he has not read."""
    if not sys.stdin.isatty():
        rule, fix = "which question is answered has to be said", f"{how_to_answer(release)} answer: {release.waiting}"
        raise Refused("--question", None, rule, fix)
    typer.confirm(f"{release.waiting}\nAnswer {'yes' if yes else 'no'}?", abort=True, err=True)
    return release.asked


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container a user often has a number only
        return f"user {os.getuid()}"


def refuse_unasked(release: Release) -> None:
    """Raises Conflict, with what stands, where a release waits for nobody."""
    if release.waiting and release.phase.active:
        return
    if not release.phase.active:
        raise Conflict(f"release {release.id} has ended ({release.phase}: {release.reason}); it asks nothing any more")
    told = release.answer
    before = f"; {told['who']} said {'yes' if told['yes'] else 'no'} to: {told['question']}" if told else ""
    raise Conflict(f"release {release.id} asks nothing now (stage {release.stage!r}){before}")
