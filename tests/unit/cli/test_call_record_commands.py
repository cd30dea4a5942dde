"""``roundhouse calls``: what a person and a script see of call records on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from gateway.calls import Body, CallFiles, CallRecord, as_line
from rollout.errors import NotFound


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A stack's folder with a live call and its copy."""
    live = CallRecord(
        at=1795368618.8,
        request_id="id-1",
        kind="live",
        door="prod",
        service="chat",
        version=1,
        instance="chat-v1-0",
        client="alice",
        method="POST",
        path="/v1/completions",
        agent="curl",
        status=200,
        request=Body('{"prompt": "[hi]"}', 17, "application/json"),
        answer=Body(None, 900, "text/plain", left_out="not JSON, so the fields to redact cannot be found"),
    )
    copy = CallRecord(**{**live.__dict__, "kind": "mirror", "door": "", "client": "", "version": 2})
    other = CallRecord(**{**live.__dict__, "request_id": "id-2"})
    CallFiles(tmp_path / "gateway" / "calls").append("chat", [as_line(r) for r in (live, copy, other)])
    return tmp_path


def calls(home: Path, *arguments: str) -> str:
    """What the command prints; its errors are raised."""
    done = CliRunner().invoke(app, ["calls", *arguments], env={"ROUNDHOUSE_HOME": str(home), "COLUMNS": "200"})
    if isinstance(done.exception, Exception):
        raise done.exception
    return done.output


def test_the_last_calls_are_listed(home: Path) -> None:
    """A row a call, the newest last, with who served it and what was left out."""
    shown = calls(home, "chat", "-n", "2")
    assert shown.count("id-") == 2 and "v2" in shown and "left out" in shown


def test_one_call_is_shown_with_its_copy_and_their_bodies(home: Path) -> None:
    """Bodies as they are, brackets and all; what is missing says why."""
    shown = calls(home, "chat", "--id", "id-1")
    assert shown.count('{"prompt": "[hi]"}') == 2 and "not JSON" in shown and "mirror call id-1" in shown


def test_a_script_gets_json(home: Path) -> None:
    """The whole records, and with --id the request's own record beside them."""
    assert [r["request_id"] for r in json.loads(calls(home, "chat", "--json"))] == ["id-1", "id-1", "id-2"]
    found = json.loads(calls(home, "chat", "--id", "id-2", "--json"))
    assert found[0]["answer"]["left_out"] and found[0]["record"] is None


@pytest.mark.parametrize("arguments", [("embed",), ("chat", "--id", "id-9"), ("../../secrets",), ("/etc/*",)])
def test_what_does_not_exist_is_said_to_be_missing(home: Path, arguments: tuple[str, ...]) -> None:
    """No such service, no such call, no way out of the folder."""
    with pytest.raises(NotFound):
        calls(home, *arguments)
