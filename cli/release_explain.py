"""``roundhouse release explain``: what was decided of a release, and on which evidence."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.screen import out, say, show_json, show_table
from configs.stack import Stack, load_stack
from reports.explain import COLUMNS, WORST_COLUMNS, example_rows, finding_rows, latency_rows, lines, worst_rows
from reports.head import head
from reports.page import write_page
from reports.record import record_of
from rollout.errors import NotFound, Refused
from store.port import BY_HAND, PUT_BACK, Release, Store, open_store
from store.steer import answers

_MOST = 1000  # releases that an id may be the beginning of
_BY_PEOPLE = (BY_HAND, PUT_BACK)  # stages of rows that hold a service for a person, and judge nothing
_SHOWN = 160  # characters of an answer

Id = Annotated[str, typer.Argument(help="A release's id or its beginning, or a service, for its latest release.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
Html = Annotated[Path | None, typer.Option("--html", help="Write the release's page to this file.")]


def explain(release: Id, as_json: Json = False, html: Html = None) -> None:
    """Tell what was decided of a release and on which evidence; of one under way, how it stands.

    Example: `roundhouse release explain chat` or `roundhouse release explain chat-1f0c --html chat.html`
    """
    stack = load_stack()
    store = open_store(stack.store())
    record = recorded(stack, store, found(store, release))
    if html:
        say(f"the page is in {write_page(record, html)}")
    if as_json:
        show_json(record)
    elif not html:
        show(record)


def found(store: Store, name: str) -> Release:
    """The release of that id, however old, a service's latest, or the only one whose id begins so.

    What was done to a service's traffic by hand is found by its id alone. Raises NotFound, Refused.
    """
    with suppress(NotFound):
        return store.release(name)
    matching = [r for r in store.releases(name, limit=_MOST) if r.stage not in _BY_PEOPLE][:1]
    matching = matching or [r for r in store.releases(limit=_MOST) if r.id.startswith(name)]
    if not matching:
        raise NotFound(f"there is no release {name!r}, and no service of that name has had one")
    if len(matching) > 1:
        rule = f"{len(matching)} releases begin so: {', '.join(r.id for r in matching[:5])}"
        raise Refused("release", name, rule, "write more of the id")
    return matching[0]


def recorded(stack: Stack, store: Store, release: Release) -> dict[str, Any]:
    """The record of a release, ended or under way, from its evidence and its files."""
    known = head(asdict(release), answers(store, release.id), map(asdict, store.versions(release.service)))
    return record_of({**release.evidence, **known}, stack.home / "reports" / release.id)


def show(record: dict[str, Any]) -> None:
    """The record for a person: decision, reason, evidence, where it differs most, answers that differ."""
    for line in lines(record):
        out.print(line, markup=False)
    if record["findings"]:
        show_table("evidence", COLUMNS, finding_rows(record))
    if record["distributions"]:
        show_table("ms", ("", "arm", "p50", "p90", "p95", "p99", "requests"), latency_rows(record))
    if record["worst"]:
        show_table("where it differs most", WORST_COLUMNS, worst_rows(record))
    if record["outputs"]:
        out.print(record["outputs"]["sentence"], markup=False)
    for row in example_rows(record):
        for what in ("prompt", "stable", "candidate", "told"):
            if row[what]:
                out.print(f"  {what}: {_line(row[what])}", markup=False)


def _line(text: str) -> str:
    """A text in one line; what would steer a terminal is shown, not sent."""
    plain = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return plain if len(plain) <= _SHOWN else f"{plain[:_SHOWN]} …"
