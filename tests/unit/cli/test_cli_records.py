"""``roundhouse records``: which are shown, and how."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from history import GOOD
from typer.testing import CliRunner

from cli.durations import seconds
from cli.main import app
from cli.record_commands import error_row, record_row
from cli.record_summary import summary
from gateway.port import Refusal
from gateway.record_line import COLUMNS
from rollout.errors import Refused

ROOT = Path(__file__).parents[3]
LIVE = {"at": "30", "kind": "L", "route": "chat/stable", "cluster": "chat@v1", "host": "v1.chat-v1-0"}
DONE = {"status": "200", "attempts": "1", "bytes_in": "8", "bytes_out": "9", "ttft_us": "100000", "total_us": "400000"}
LINE = LIVE | DONE | {"client": "chat/alice", "usage_header": "4,16", "content_type": "text/event-stream"}
LINES = [
    {"at": "9000"},
    {"status": "503", "flags": "UH", "host": "-", "ttft_us": "-", "cluster": "chat@v2+v1", "attempts": "0"},
    {"kind": "M", "route": "chat@v2", "cluster": "chat@v2", "host": "v2.chat-v2-0", "client": "-"},
    {"route": "prod/group", "client": "prod/bob"},
    {"route": "other/stable", "cluster": "other@v1"},
]
ERROR = {
    "kind": "live",
    "request_id": "r",
    "route": "chat/stable",
    "client": "chat/alice",
    "method": "POST",
    "path": "/v1/completions",
    "status": 413,
    "flags": "-",
    "details": "too_large",
    "agent": "curl",
}


def line(changes: dict[str, str]) -> str:
    """A line of the log, ``at`` given as seconds ago; what is not given is missing."""
    values = LINE | changes
    values["at"] = f"{time.time() - float(values['at']):.3f}"
    return "\t".join(values.get(name, "-") for name, _ in COLUMNS) + "\n"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A stack's home in which the gateway has recorded something, one request long ago."""
    run = tmp_path / "gateway" / "run"
    run.mkdir(parents=True)
    (run / "records.log").write_text("".join(line(changes) for changes in LINES))
    error = ERROR | {"at": f"{time.time() - 30:.3f}"}
    mirrored = error | {"kind": "mirror", "route": "chat@v2", "status": 504}
    (run / "errors.jsonl").write_text(json.dumps(error) + "\n" + json.dumps(mirrored) + "\n")
    return tmp_path


def shown(home: Path, *options: str) -> str:
    """What the command writes to stdout."""
    done = CliRunner().invoke(app, ["records", "chat", *options], env={"ROUNDHOUSE_HOME": str(home)})
    if done.exception is not None:
        raise done.exception
    return done.stdout


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ((), [("live", 200), ("live", 503), ("mirror", 200), ("live", 200)]),
        (("-n", "1"), [("live", 200)]),
        (("--since", "10m"), [("live", 503), ("mirror", 200), ("live", 200)]),
        (("--version", "2"), [("live", 503), ("mirror", 200)]),
        (("--status", "5xx"), [("live", 503)]),
        (("--status", "429,503"), [("live", 503)]),
        (("--kind", "mirror"), [("mirror", 200)]),
    ],
)
def test_records_are_chosen(home, options, found):
    """Of the service and its door, oldest first, by time, version, status and kind."""
    lines = [json.loads(text) for text in shown(home, "--json", *options).splitlines()]
    assert [(r["kind"], r["status"]) for r in lines] == found


@pytest.mark.parametrize(("options", "found"), [((), [413, 504]), (("--kind", "live"), [413]), (("-n", "1"), [504])])
def test_errors_come_with_path_and_details(home, options, found):
    """From the log of errors, by door, kind and status."""
    lines = [json.loads(text) for text in shown(home, "--errors", "--json", *options).splitlines()]
    assert [r["status"] for r in lines] == found
    assert {(r["path"], r["details"], r["agent"]) for r in lines} == {("/v1/completions", "too_large", "curl")}


def test_a_person_gets_a_line_each(home):
    """Times in milliseconds, tokens in and out, and who was to answer where nobody did; never folded."""
    head, _, failed, _, last = shown(home).splitlines()
    assert head.split()[:4] == ["time", "request", "id", "kind"]
    assert last.split()[-5:] == ["100.0", "ms", "400.0", "ms", "4+16"] and "  bob  " in last
    assert record_row(GOOD._replace(tokens_cached=3))[-1] == "4(3)+16"
    assert "  - for v2  " in failed
    assert "  POST /v1/completions  too_large  curl" in shown(home, "--errors")
    assert "  2xx:2  " in shown(home, "--summary")


def test_what_comes_is_followed(home):
    """With --follow, each line that is written later is shown once, until it is interrupted."""
    command = [sys.executable, "-m", "cli.main", "records", "chat", "-n", "1", "--follow", "--json"]
    env = os.environ | {"ROUNDHOUSE_HOME": str(home)}
    with subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        first = json.loads(process.stdout.readline())
        with (home / "gateway" / "run" / "records.log").open("a") as log:
            log.write(
                line({"status": "418"}) + line({"cluster": "x@v1", "route": "x/stable"}) + line({"status": "419"})
            )
        later = [json.loads(process.stdout.readline())["status"] for _ in range(2)]
        process.send_signal(signal.SIGINT)
    assert (first["status"], later, process.returncode) == (200, [418, 419], 130)


@pytest.mark.parametrize("options", [("--since", "m"), ("--status", "x"), ("--errors", "--version", "2")])
def test_what_cannot_be_meant_is_refused(home, options):
    """A unit without a length, a status that is none, a version where none is kept."""
    with pytest.raises(Refused):
        shown(home, *options)


@pytest.mark.parametrize(("text", "length_s"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("2d", 172800)])
def test_lengths_of_time(text, length_s):
    """Seconds, minutes, hours, days."""
    assert seconds("--since", text) == length_s


def test_nothing_is_said_where_there_is_nothing(tmp_path):
    """A stack that never ran: no line on stdout."""
    assert shown(tmp_path) == shown(tmp_path, "--errors") == shown(tmp_path, "--summary") == ""


def test_a_summary_has_a_row_per_version_and_kind():
    """Statuses, ends, quantiles of what an instance answered, and the rate of tokens over the stretch."""
    fast = [GOOD._replace(at=float(i), ttft_s=i / 100, total_s=1.0) for i in range(101)]
    refused = GOOD._replace(
        status=429, instance=None, version=None, arm=None, ttft_s=None, total_s=0.001, tokens_out=None
    )
    cut = GOOD._replace(version=2, arm=2, flags="UPE", kind="mirror", streamed=False)
    nobody, one, two = summary([*fast, refused, cut])
    assert (nobody.version, nobody.statuses, nobody.total_p50_s) == (None, {"4xx": 1}, None)
    assert (one.n, one.ttft_p50_s, one.ttft_p95_s) == (101, 0.5, pytest.approx(0.95))
    assert one.tokens_per_s == pytest.approx(16.0)  # 101 answers of 16 tokens in 101 s
    assert (two.kind, two.cut, two.ttft_p50_s, two.total_p95_s) == ("mirror", 1, None, 0.4)


def test_a_row_says_who_was_to_answer():
    """After a failover both versions are named."""
    assert record_row(GOOD)[3] == "v1"
    assert record_row(GOOD._replace(arm=2))[3] == "v1 for v2"


def test_what_a_client_sent_cannot_steer_the_terminal():
    """Control characters are shown, not sent."""
    wicked = Refusal(time.time(), "r", "live", "chat", None, "GET", "/\x1b[2J", 404, "-", "x", "a\x07\nb")
    assert error_row(wicked)[-3:] == ("GET /\\x1b[2J", "x", "a\\x07\\x0ab")
