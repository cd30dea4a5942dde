"""Real Locust against a real server that knows what it did."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from stand_in_llm import serving, truth_of

from loadtest.port import LoadPlan, LocustSettings
from loadtest.run import LocustLoadTest

TTFT_S, TPOT_S = 0.08, 0.01


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server whose first token takes 80 ms and each further one 10 ms."""
    with serving(TTFT_S, TPOT_S) as url:
        yield url


def run(url: str, folder: Path, **more):
    """The report of a short test."""
    plan = LoadPlan(url, **({"users": 3, "duration_s": 1.5, "max_tokens": 12} | more))
    return LocustLoadTest(LocustSettings()).run(plan, str(folder), lambda second: None)


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_times_are_those_that_the_server_recorded(server, tmp_path, api):
    """Medians of TTFT, TPOT and E2E are near the server's own, though Locust runs at low priority."""
    before = len(truth_of(server)["times"])
    report = run(f"{server}/good", tmp_path, api=api, duration_s=1.8)
    times = np.array(truth_of(server)["times"][before:])
    assert report.requests == len(times) and report.failed == 0
    true_ttft, true_tpot, true_e2e = np.median(times, axis=0)
    assert true_ttft * 0.95 < report.ttft.p50 < true_ttft * 1.25
    assert true_tpot * 0.9 < report.tpot.p50 < true_tpot * 1.25
    assert true_e2e * 0.95 < report.e2e.p50 < true_e2e * 1.25


def test_whole_answers_have_no_time_to_first_token(server, tmp_path):
    """Without streaming there is E2E and the server's count of tokens, and nothing is made up."""
    report = run(f"{server}/good", tmp_path, stream=False, duration_s=0.5)
    assert report.ttft is None and report.tpot is None and report.failed == 0
    assert report.e2e.p50 > TTFT_S * 0.95 and report.tokens == 12 * report.requests


@pytest.mark.parametrize(
    ("kind", "error", "cut"),
    [
        ("refuse", "HTTP 503: <b>no</b> capacity", False),
        ("cut", "cut", True),
        ("error", "error in the stream: slot lost", True),
        ("empty", "no token", False),
    ],
)
def test_each_way_of_failing_is_counted_by_name(server, tmp_path, kind, error, cut):
    """Every request failed, every one is counted, and the report says why."""
    report = run(f"{server}/{kind}", tmp_path, duration_s=0.4)
    assert report.requests == report.failed > 0
    assert report.errors == ((error, report.failed),) and report.cut == (report.failed if cut else 0)


def test_a_server_that_closes_after_each_answer_fails_nobody(server, tmp_path):
    """A new connection is opened where the old one cannot be used again."""
    report = run(f"{server}/close", tmp_path, duration_s=0.7)
    assert report.requests > 3 and report.failed == 0


def test_a_stream_that_falls_silent_is_a_failure(server, tmp_path):
    """After the plan's timeout the request counts as failed and cut, and the test ends."""
    report = run(f"{server}/drip", tmp_path, duration_s=0.2, timeout_s=0.5, users=2)
    assert report.failed == report.cut == report.requests == 2
    assert report.errors == (("timeout", 2),)


def test_a_stream_that_never_ends_is_given_up(server, tmp_path):
    """It counts as failed, not as cut by the server, and the test ends soon after the plan's timeout."""
    report = run(f"{server}/good", tmp_path, duration_s=0.2, timeout_s=0.5, users=1, max_tokens=100000)
    assert report.requests == report.failed == 1 and report.cut == 0 and report.tokens > 10
    assert report.errors == (("not finished when the test ended", 1),)


def test_requests_carry_headers_and_model_and_are_never_the_same_twice(server, tmp_path):
    """The token reaches the server and no file; no prefix cache can flatter the server."""
    before = len(truth_of(server)["requests"])
    run(f"{server}/good", tmp_path, headers={"Authorization": "Bearer sekret"}, model="smol", duration_s=0.5)
    asked = truth_of(server)["requests"][before:]
    assert {(r["token"], r["model"]) for r in asked} == {("Bearer sekret", "smol")}
    assert len({r["prompt"] for r in asked}) == len(asked) > 3
    assert all("sekret" not in path.read_text() for path in tmp_path.iterdir())


def test_users_start_over_the_ramp(server, tmp_path):
    """In the first part of the ramp fewer users are at work than at the end."""
    report = run(f"{server}/good", tmp_path, users=6, ramp_s=1.5, duration_s=1.9)
    starts = [json.loads(line)["t_start"] for line in Path(report.samples_file).read_text().splitlines()]
    early = sum(t < min(starts) + 0.6 for t in starts)
    late = sum(t >= max(starts) - 0.6 for t in starts)
    assert 0 < early < late


PARENT = """
import sys
from loadtest.port import LoadPlan, LocustSettings
from loadtest.run import LocustLoadTest
plan = LoadPlan(sys.argv[1], duration_s=600)
LocustLoadTest(LocustSettings()).run(plan, sys.argv[2], lambda second: print("second", flush=True))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_locust_dies_with_its_parent(server, tmp_path, number):
    """However the caller is ended, no load goes on behind its back."""
    command = [sys.executable, "-c", PARENT, f"{server}/good", str(tmp_path)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert parent.stdout is not None and parent.stdout.readline() == "second\n"
    children = psutil.Process(parent.pid).children(recursive=True)
    assert any("locust" in " ".join(child.cmdline()) for child in children)
    parent.send_signal(number)
    parent.wait(20)
    parent.stdout.close()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


STEADY = [sys.executable, "-m", "loadtest.steady"]


def steady(url: str, out: Path, *more: str) -> subprocess.Popen[str]:
    """The steady client, running; its counts are in ``out`` when this returns."""
    process = subprocess.Popen([*STEADY, "--url", url, "--out", str(out), *more], stdout=subprocess.PIPE, text=True)
    for _ in range(200):
        if out.exists() and json.loads(out.read_text())["requests_ended"]:
            break
        time.sleep(0.05)
    return process


def test_the_steady_client_counts_what_the_server_saw(server, tmp_path):
    """On SIGTERM open streams are finished, and its counts are the server's; one line of JSON is all it prints."""
    before = len(truth_of(server)["times"])
    (tmp_path / "token").write_text("witness\n")
    process = steady(
        f"{server}/good", tmp_path / "c.json", "--max-tokens", "6", "--token-file", str(tmp_path / "token")
    )
    process.send_signal(signal.SIGTERM)
    shown, _ = process.communicate(timeout=20)
    counts, truth = json.loads((tmp_path / "c.json").read_text()), truth_of(server)
    assert json.loads(shown) == {k: v for k, v in counts.items() if k != "failures"} and process.returncode == 0
    assert counts["requests_sent"] == counts["requests_ended"] == len(truth["times"]) - before > 0
    assert counts["requests_failed"] == counts["streams_cut"] == 0 and counts["failures"] == []
    assert counts["tokens"] == 6 * counts["requests_sent"]
    assert counts["ttft_s"]["p50"] > TTFT_S * 0.95 and truth["requests"][-1]["token"] == "Bearer witness"


@pytest.mark.parametrize(("kind", "status", "cut"), [("refuse", 503, 0), ("cut", 200, 1), ("error", 200, 1)])
def test_the_steady_client_sees_each_failure(server, tmp_path, kind, status, cut):
    """Failures are counted once each, without a retry, and the first hundred are told in detail."""
    process = steady(f"{server}/{kind}", tmp_path / "c.json", "--seconds", "0.5")
    process.communicate(timeout=20)
    counts = json.loads((tmp_path / "c.json").read_text())
    assert counts["requests_failed"] == counts["requests_sent"] == len(counts["failures"]) > 0
    assert counts["streams_cut"] == cut * counts["requests_sent"]
    assert {(f["status"], f["cut"]) for f in counts["failures"]} == {(status, bool(cut))}


def test_the_steady_client_keeps_its_rate(server, tmp_path):
    """With a rate it waits between its requests instead of asking again at once."""
    process = steady(f"{server}/good", tmp_path / "c.json", "--rate", "4", "--seconds", "2", "--max-tokens", "2")
    counts = json.loads(process.communicate(timeout=20)[0])
    assert 3 <= counts["requests_sent"] <= 4 * counts["seconds"] + 2
