"""What people and scripts see: tables, progress, JSON, complaints."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from rollout.json_text import json_text

out = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
err = Console(stderr=True, highlight=False, soft_wrap=True)


def complain(error: Exception) -> None:
    """One line on stderr."""
    err.print(f"[bold red]error[/] {_plain(str(error))}")


def show_json(value: Any) -> None:
    """``value`` for a script, and nothing else on stdout."""
    sys.stdout.write(json_text(value, indent=1, default=str) + "\n")


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table for a person."""
    table = Table(title=title or None, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else _plain(str(cell)) for cell in row))
    out.print(table)


@contextmanager
def progress(quiet: bool = False) -> Iterator[Callable[[str, float], None]]:
    """A bar for each thing being done; call it with (what, share done). Goes to stderr."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, disable=quiet, transient=False) as bars:
        known: dict[str, Any] = {}

        def report(what: str, share: float) -> None:
            if what not in known:
                for earlier in known.values():
                    bars.update(earlier, completed=1.0)
                known[what] = bars.add_task(what, total=1.0)
            bars.update(known[what], completed=share)

        yield report


def say(text: str) -> None:
    """A line for a person, on stderr so that stdout stays for results."""
    err.print(_plain(text))


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
