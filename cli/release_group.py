"""``roundhouse release SERVICE`` starts one, and ``roundhouse release explain ID`` is a command of its own."""

from __future__ import annotations

import click
from typer.core import TyperGroup

START = "start"  #: the command that a first word stands for that is no command


class ReleaseGroup(TyperGroup):
    """A group whose first word may be a service: then it is ``start``, all words its own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """``release chat --wait`` is ``release start chat --wait``; ``release --help`` stays the group's."""
        known = {*self.commands, *ctx.help_option_names}
        if args and args[0] not in known:
            args = [START, *args]
        return super().parse_args(ctx, args)
