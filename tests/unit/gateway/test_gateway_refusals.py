"""What went wrong, read back for people."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.port import Cursor, Refusal
from gateway.refusals import has_status, last_refusals, parse, read_refusals

LINE = {
    "at": "1795368278.207841",
    "kind": "live",
    "request_id": "r0",
    "route": "chat/stable",
    "client": "chat/alice",
    "method": "POST",
    "path": "/api/predict/chat/v1/completions",
    "status": 413,
    "flags": "-",
    "details": "request_payload_too_large",
    "agent": 'a"b\tc',
}


def line(**changes: object) -> str:
    """One line of the log."""
    return json.dumps(LINE | changes) + "\n"


def ids(refusals: list[Refusal]) -> list[str]:
    """Their request ids."""
    return [r.request_id for r in refusals]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Six refusals over two files, one broken line among them."""
    old = line() + line(request_id="r1", status=503, flags="UH", client=None) + line()[:50] + "\n"
    new = [
        line(request_id="r2", at="1795368300.0", route="prod/group", status=429),
        line(request_id="r3", at="1795368300.5", status=401, client="chat/alice"),
        line(request_id="r4", at="1795368301.0", kind="mirror", route="chat@v2", status=504, client=None),
    ]
    (tmp_path / "errors-1.jsonl").write_text(old)
    (tmp_path / "errors.jsonl").write_text("".join(new))
    return tmp_path / "errors.jsonl"


def test_a_line_becomes_a_refusal():
    """The door from the route's name, the client without it, the path as the engine would see it."""
    at, details = 1795368278.207841, "request_payload_too_large"
    wanted = ("r0", "live", "chat", "alice", "POST", "/v1/completions", 413, "-", details, 'a"b\tc')
    assert parse(line()) == Refusal(at, *wanted)


def test_a_request_that_was_none_is_told_too():
    """A broken request has no route, no path and no id."""
    nothing = dict.fromkeys(("request_id", "route", "client", "method", "path", "agent"))
    found = parse(line(**nothing, status=400, flags="DPE"))
    assert (found.door, found.client, found.path, found.status) == ("", None, "", 400)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", line()[:40], line(kind="x"), line(at=None), "[" * 100_000])
def test_a_broken_line_is_none(text):
    """Half lines, other JSON, and depth without end."""
    assert parse(text) is None


@pytest.mark.parametrize(
    ("wants", "found"),
    [
        ({}, ["r0", "r1", "r2", "r3", "r4"]),
        ({"most": 2}, ["r3", "r4"]),
        ({"since": 1795368300.2}, ["r3", "r4"]),
        ({"door": "prod"}, ["r2"]),
        ({"client": "alice"}, ["r0"]),  # r3 only says so
        ({"status": "5xx,401"}, ["r1", "r3", "r4"]),
        ({"kind": "mirror"}, ["r4"]),
        ({"door": "chat", "most": 1}, ["r4"]),
    ],
)
def test_the_last_ones_are_found(log, wants, found):
    """Oldest first, over turned files, by time, door, client, status and kind."""
    assert ids(last_refusals(log, **({"most": 20} | wants))) == found


def test_reading_goes_on(log):
    """From a cursor, over files, only what is new."""
    first, cursor = read_refusals(log, Cursor())
    with log.open("a") as f:
        f.write(line(request_id="r5"))
    assert (len(first), ids(read_refusals(log, cursor)[0])) == (5, ["r5"])


@pytest.mark.parametrize(
    ("status", "wanted", "holds"),
    [(503, "5xx", True), (503, "503", True), (503, "429,5xx", True), (503, "4xx", False), (503, "", True)],
)
def test_statuses_are_wanted_by_number_or_class(status, wanted, holds):
    """One or several with commas; nothing wanted lets all pass."""
    assert has_status(status, wanted) is holds
