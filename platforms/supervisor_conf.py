"""supervisord's configuration as text. Pure: values in, text out.

supervisord reads a value through three layers: an INI reader for which " ;" and " #" start a comment, its own
``%(name)s`` expansion, and ``shlex``. Its ``environment=`` option has a fourth, lossy one, so variables go through
``env`` in the command instead, and one way of quoting serves all (http://supervisord.org/configuration.html). Only
secrets, which are plain words, take ``environment=``: a command line is public, a process's environment is not.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field

from rollout.errors import Refused

PLAIN_WORD = re.compile(r"[A-Za-z0-9_=+/.-]+")
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
LOG_BYTES = 10 * 1024 * 1024
LOG_BACKUPS = 2


@dataclass(frozen=True)
class Program:
    """One program under supervisord. Durations in seconds; ``env`` is added to supervisord's own environment."""

    name: str
    argv: tuple[str, ...]
    log: str
    env: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict, repr=False)  # variables too, kept off the command line
    directory: str = "/"
    stop_s: float = 10.0
    start_s: int = 0  # how long it must live to count as started
    restart: bool = False  # whether supervisord itself starts it again


@dataclass(frozen=True)
class Daemon:
    """supervisord's own files."""

    socket: str
    pid_file: str
    log: str
    include_directory: str
    directory: str


def render_daemon(daemon: Daemon, programs: tuple[Program, ...] = ()) -> str:
    """The main file: the daemon, its socket (owner only), the programs, and the folder of further programs."""
    head = f"""\
[unix_http_server]
file={_plain(daemon.socket)}
chmod=0700

[supervisord]
pidfile={_plain(daemon.pid_file)}
logfile={_plain(daemon.log)}
logfile_maxbytes={LOG_BYTES}
logfile_backups=1
childlogdir={_plain(daemon.directory)}
directory={_plain(daemon.directory)}
umask=077
minfds=1024
silent=true

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[include]
files={_plain(daemon.include_directory)}/*.conf
"""
    return "\n".join([head, *(render_program(program) for program in programs)])


def render_program(program: Program) -> str:
    """One ``[program:x]`` section. SIGTERM and SIGKILL reach the whole process group, so children die as well.

    Raises Refused for a name or an argument that supervisord's format cannot carry.
    """
    if not SAFE_NAME.fullmatch(program.name):
        raise Refused("id", program.name, "letters, digits and . _ - only", "rename it, for example chat-v1-0")
    return f"""\
[program:{program.name}]
command={command_line(program)}
environment={_environment(program.secrets)}
directory={_plain(program.directory)}
autostart=false
autorestart={"true" if program.restart else "false"}
startsecs={program.start_s}
startretries={3 if program.restart else 0}
stopsignal=TERM
stopwaitsecs={max(1, round(program.stop_s))}
stopasgroup=true
killasgroup=true
redirect_stderr=true
stdout_logfile={_plain(program.log)}
stdout_logfile_maxbytes={LOG_BYTES}
stdout_logfile_backups={LOG_BACKUPS}
"""


def command_line(program: Program) -> str:
    """``argv`` with its variables, quoted so that supervisord starts exactly that."""
    variables = [f"{name}={value}" for name, value in sorted(program.env.items())]
    argv = (["/usr/bin/env", *variables] if variables else []) + list(program.argv)
    return " ".join(_quoted(argument) for argument in argv)


def _environment(secrets: dict[str, str]) -> str:
    for name, value in secrets.items():
        if not PLAIN_WORD.fullmatch(value):
            raise Refused(name, "(secret)", "letters, digits and _ = + / . - only", "generate it anew")
    return ",".join(f'{name}="{value}"' for name, value in sorted(secrets.items()))


def _quoted(argument: str) -> str:
    if re.search(r"[\r\n\0]", argument):
        raise Refused("argv", argument, "an argument is one line", "take the line break out of it")
    # shlex.quote leaves " ;" inside single quotes; closing and opening them again hides it from the INI reader
    return re.sub(r"(\s)([;#])", r"\1''\2", shlex.quote(argument)).replace("%", "%%")


def _plain(path: str) -> str:
    """A path as an option's value. Raises Refused for one that the INI reader would cut."""
    if re.search(r"[\r\n\0]|\s[;#]", path):
        raise Refused("path", path, "supervisord cannot read such a path", "choose a folder without ; # or line breaks")
    return path.replace("%", "%%")
