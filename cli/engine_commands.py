"""``roundhouse engine``: engines before, during and after their build. Each command is a module of its own."""

from __future__ import annotations

import typer

from cli import engine_cache
from cli.engine_compare import compare
from cli.engine_plan import plan
from cli.engine_preview import preview

app = typer.Typer(help="Engines: what fits where, what will run, what is kept.", no_args_is_help=True)
app.command()(plan)
app.command()(compare)
app.command()(preview)
for command in (engine_cache.ls, engine_cache.verify, engine_cache.gc, engine_cache.pin, engine_cache.unpin):
    app.command()(command)
