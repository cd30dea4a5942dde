"""What every load test does, the real one against a real server and the one in memory alike."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from stand_in_llm import serving

from loadtest.port import LoadPlan, LoadTest, LocustSettings, MemorySettings, open_loadtest
from rollout.errors import Refused, Unavailable


@dataclass(frozen=True)
class Case:
    """One implementation, and where its good and its failing server are."""

    good: tuple[LoadTest, str]
    bad: tuple[LoadTest, str]
    nobody: tuple[LoadTest, str]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A real HTTP server with known latencies."""
    with serving(0.02, 0.005) as url:
        yield url


@pytest.fixture(params=["memory", pytest.param("locust", marks=pytest.mark.integration)])
def case(request: pytest.FixtureRequest) -> Case:
    """The implementation under test; the server is started for the real one alone."""
    if request.param == "memory":
        url = "http://127.0.0.1:1/good"
        good, bad = MemorySettings(), MemorySettings(fail_every=1)
        nobody = MemorySettings(unreachable=(url,))
        return Case((open_loadtest(good), url), (open_loadtest(bad), url), (open_loadtest(nobody), url))
    url, real = request.getfixturevalue("server"), open_loadtest(LocustSettings())
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        port = unheard.getsockname()[1]
    return Case((real, f"{url}/good"), (real, f"{url}/refuse"), (real, f"http://127.0.0.1:{port}"))


PLAN = LoadPlan("", users=2, duration_s=1.5, max_tokens=6, headers={"Authorization": "Bearer sekret"})
Lines = list[dict]


def run(one: tuple[LoadTest, str], folder: Path, on_second: Callable[[dict[str, float]], None] = lambda s: None):
    """The report of one run of ``PLAN``."""
    return one[0].run(replace(PLAN, url=one[1]), str(folder), on_second)


def lines(path: str) -> Lines:
    """A file of JSON lines."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_a_run_measures_each_request(case, tmp_path):
    """Counts, tokens, seconds and quantiles agree with the raw samples; no file holds a header's value."""
    seen: Lines = []
    report = run(case.good, tmp_path / "new" / "folder", seen.append)
    samples = lines(report.samples_file)
    assert report.requests == len(samples) > 2 and report.failed == report.cut == 0 and report.errors == ()
    assert report.tokens == sum(s["tokens"] for s in samples) == 6 * len(samples)
    assert seen == lines(report.seconds_file) and sum(s["requests"] for s in seen) == len(samples)
    assert sum(s["tokens"] for s in seen) == report.tokens
    for name in ("ttft", "tpot", "e2e"):
        found, raw = getattr(report, name), [s[f"{name}_s"] for s in samples]
        assert (found.n, found.p50, found.p99) == (len(raw), np.percentile(raw, 50), np.percentile(raw, 99))
    assert "<svg" in Path(report.page).read_text()
    assert all("sekret" not in path.read_text() for path in Path(report.directory).iterdir())


def test_failures_are_counted_with_their_reason(case, tmp_path):
    """A server that refuses gives a report, not an exception."""
    report = run(case.bad, tmp_path)
    assert report.failed == report.requests > 0 and report.cut == 0
    assert report.ttft is None and report.e2e is None and report.requests_per_s == 0
    assert [(what[:8], count) for what, count in report.errors] == [("HTTP 503", report.failed)]


def test_a_bad_plan_is_refused_before_anything_is_made(case, tmp_path):
    """No folder, no request."""
    with pytest.raises(Refused, match="users"):
        case.good[0].run(replace(PLAN, url=case.good[1], users=0), str(tmp_path / "new"), lambda second: None)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_made_is_refused(case, tmp_path):
    """A file in its place is an error of the caller's."""
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match="directory"):
        run(case.good, tmp_path / "file" / "below")


def test_nobody_at_the_address_is_unavailable(case, tmp_path):
    """It is found before the test starts, and the message names the address."""
    with pytest.raises(Unavailable, match="nothing answers at http://127"):
        run(case.nobody, tmp_path)


def test_a_listener_that_fails_ends_the_run(case, tmp_path):
    """Whatever the caller raises comes back to the caller."""
    with pytest.raises(ZeroDivisionError):
        run(case.good, tmp_path, lambda second: 1 / 0)
