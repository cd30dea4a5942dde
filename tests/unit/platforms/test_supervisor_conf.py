"""supervisord's configuration: what we render is what its own reader understands."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from supervisor.options import UnhosedConfigParser, expand

from platforms.supervisor_conf import Daemon, Program, command_line, render_daemon, render_program
from rollout.errors import Refused

ARGUMENT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp", "Cs"], exclude_characters="\x85"))


def as_supervisord_reads(text: str, name: str) -> list[str]:
    """The argument list that supervisord would start."""
    parser = UnhosedConfigParser()
    parser.read_string(text)
    return shlex.split(expand(parser.get(f"program:{name}", "command"), {}, "command"))


@given(st.lists(ARGUMENT, min_size=1, max_size=4))
def test_any_argument_survives(tail: list[str]) -> None:
    """Quotes, percent signs, semicolons, hashes and spaces reach the process unchanged."""
    program = Program("a", ("/bin/echo", *tail), "/tmp/a.log")
    assert as_supervisord_reads(render_program(program), "a") == ["/bin/echo", *tail]


@given(st.dictionaries(st.from_regex(r"[A-Z_]{1,8}", fullmatch=True), ARGUMENT, max_size=3))
def test_any_variable_survives(env: dict[str, str]) -> None:
    """Variables go through ``env`` with their values unchanged."""
    words = as_supervisord_reads(render_program(Program("a", ("/bin/true",), "/tmp/a.log", env)), "a")
    assert words[words.index("/bin/true") :] == ["/bin/true"]
    assert sorted(words[1:-1]) == sorted(f"{k}={v}" for k, v in env.items())


def test_line_break_in_an_argument_is_refused() -> None:
    """An argument of two lines could add options of its own."""
    with pytest.raises(Refused, match="one line"):
        command_line(Program("a", ("x", "y\nautostart=true"), "/tmp/a.log"))


def test_path_that_would_be_cut_is_refused() -> None:
    """A log path with ' ;' in it would be read as a comment from there on."""
    with pytest.raises(Refused, match="path"):
        render_program(Program("a", ("x",), "/tmp/a ;b.log"))


def test_daemon_includes_programs_and_folder(tmp_path: Path) -> None:
    """The main file holds the programs and reads the folder of instances; its socket is for the owner only."""
    daemon = Daemon("/r/s.sock", "/r/pid", "/r/log", "/r/i.d", "/r")
    parser = UnhosedConfigParser()
    parser.read_string(render_daemon(daemon, (Program("envoy", ("envoy",), "/r/envoy.log", restart=True),)))
    assert parser.get("include", "files") == "/r/i.d/*.conf"
    assert parser.get("unix_http_server", "chmod") == "0700"
    assert parser.get("program:envoy", "autorestart") == "true"


def test_group_signals_reach_children() -> None:
    """Both signals go to the whole process group and supervisord restarts no instance by itself."""
    text = render_program(Program("a", ("x",), "/tmp/a.log", stop_s=35.0))
    assert {"stopasgroup=true", "killasgroup=true", "stopwaitsecs=35", "autorestart=false"} <= set(text.splitlines())
