"""``roundhouse policy``: the rules of a release, read, checked, and tried out before they are trusted."""

from __future__ import annotations

import typer

from cli.policy_files import check, ls, schema, show
from cli.policy_replay import replay
from cli.policy_simulate import simulate

app = typer.Typer(help="The rules of releases: read, check, and try them on a service's traffic.", no_args_is_help=True)
for command in (ls, show, check, schema, simulate, replay):
    app.command()(command)
