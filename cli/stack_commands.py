"""``roundhouse up | status | down``: the stack of this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated

import typer
from rich.live import Live
from rich.table import Table

from cli import stack as parts
from cli import stack_status
from cli.screen import err, out, say, show_json, show_table
from cli.stack_status import PartStatus
from configs.stack import Stack, load_stack

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
COLUMNS = ("part", "health", "pid", "port", "memory", "detail")


def up(as_json: AsJson = False) -> None:
    """Start all parts and wait until they can serve; what already runs is left alone.

    Exit code 4 if a port is taken (the error names its holder), 5 if a part does not get ready. Example:
    `roundhouse up`
    """
    stack = load_stack()
    with _steps(as_json) as step:
        parts.up(stack, step)
    if as_json:
        show_json([asdict(line) for line in stack_status.status(stack)])
    else:
        for line in addresses(stack):
            out.print(line)


def down(as_json: AsJson = False) -> None:
    """Stop everything, instances drained first; no process is left. Data and models stay.

    Example: `roundhouse down`
    """
    stack = load_stack()
    with _steps(as_json) as step:
        parts.down(stack, step)
    if as_json:
        show_json([asdict(line) for line in stack_status.status(stack)])


def status(as_json: AsJson = False) -> None:
    """Each part and instance with its health, pid, port and memory. Exit code 1 if a part does not serve.

    Example: `roundhouse status --json`
    """
    stack = load_stack()
    lines = stack_status.status(stack)
    if as_json:
        show_json([asdict(line) for line in lines])
    else:
        show_table("", COLUMNS, [row(line) for line in lines])
        if gpus := stack_status.gpu_line(stack):
            out.print(gpus, markup=False)
    raise typer.Exit(0 if well(lines) else 1)


def well(lines: list[PartStatus]) -> bool:
    """Whether every part serves. Instances that were stopped on purpose do not count."""
    return all(line.health in ("ready", "running", "stopping") or line.instance for line in lines)


def row(line: PartStatus) -> tuple[object, ...]:
    """A status as cells of the table."""
    memory = None if line.memory_mib is None else f"{line.memory_mib:.0f} MiB"
    return line.name, line.health, line.pid, line.port, memory, line.detail


def addresses(stack: Stack) -> list[str]:
    """Where a person looks next."""
    return [
        f"Prefect   http://{stack.host}:{stack.ports.prefect}",
        f"MLflow    {stack.mlflow_url}",
        f"Gateway   {stack.gateway_url}/api/predict/<service>/v1",
        f"Logs      {stack.logs}",
    ]


@contextmanager
def _steps(quiet: bool) -> Iterator[Callable[[str, str], None]]:
    """Steps as they get ready: one line each that changes in place, or plain lines where nobody watches."""
    if quiet:
        yield lambda name, state: None
    elif not err.is_terminal:
        yield lambda name, state: say(f"{name}: {state}")
    else:
        seen: dict[str, str] = {}
        with Live(console=err, auto_refresh=False) as live:

            def step(name: str, state: str) -> None:
                seen[name] = state
                live.update(steps_table(seen), refresh=True)

            yield step


def steps_table(seen: dict[str, str]) -> Table:
    """The steps so far, in the order in which they began."""
    table = Table.grid(padding=(0, 2))
    for name, state in list(seen.items()):
        table.add_row(name, state, style="dim" if state == "starting" else None)
    return table
