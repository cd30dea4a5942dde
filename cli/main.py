"""``roundhouse``: the command line.

Exit codes: 0 done, 1 failed, 2 refused input, 3 not found, 4 somebody else holds it, 5 a part does not answer,
6 a file is not what its record says, 7 the gateway refused,
8 an alarm stands, 10 a release was rolled back.
"""

from __future__ import annotations

import sys

import typer

from cli import (
    call_record_commands,
    engine_commands,
    gateway_commands,
    group_commands,
    model_commands,
    policy_commands,
    record_commands,
    release_approve,
    release_commands,
    release_explain,
    token_commands,
    traffic_commands,
    use_commands,
)
from cli.apply_command import apply
from cli.demo import demo
from cli.engine_stress import stress_engine
from cli.release_group import ReleaseGroup
from cli.screen import complain
from cli.stack_commands import down, status, up
from rollout.errors import RoundhouseError

app = typer.Typer(
    name="roundhouse",
    help="Builds, proves and releases LLM inference engines behind a gateway, on evidence.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.command()(up)
app.command()(down)
app.command()(status)
app.add_typer(model_commands.app, name="model")
app.add_typer(engine_commands.app, name="engine")
app.add_typer(policy_commands.app, name="policy")
releases = typer.Typer(
    cls=ReleaseGroup,
    no_args_is_help=True,
    help="Take a model version to live traffic (`release SERVICE MODEL`); explain what was decided; say yes or no.",
)
releases.command("start")(release_commands.release)
for decided in (release_explain.explain, release_approve.approve, release_approve.reject):
    releases.command()(decided)
app.add_typer(releases, name="release")
app.add_typer(gateway_commands.app, name="gateway")
app.add_typer(traffic_commands.app, name="traffic")
app.add_typer(token_commands.app, name="token")
app.add_typer(group_commands.app, name="group")
for command in (
    release_commands.build,
    release_commands.deploy,
    release_commands.rollback,
    release_commands.redeploy,
    release_commands.retire,
    use_commands.stress,
    use_commands.logs,
    use_commands.call,
    apply,
    record_commands.records,
    call_record_commands.calls,
    stress_engine,
    demo,
):
    app.command()(command)


def main() -> None:
    """Run the command line; an error that a user is meant to read is one line, not a trace."""
    try:
        app(standalone_mode=True)
    except RoundhouseError as error:
        complain(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
