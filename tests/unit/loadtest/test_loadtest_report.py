"""From raw samples to the report, its files and its page."""

from __future__ import annotations

import csv
import io
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.memory import MemoryLoadTest
from loadtest.page import render
from loadtest.port import LoadPlan, MemorySettings
from loadtest.report import as_csv, errors, metrics, quantiles, read_lines, summarise, warnings
from loadtest.run import new_lines
from rollout.errors import Corrupt

PLAN = LoadPlan("http://127.0.0.1:1/api/predict/chat", users=3, duration_s=4.0, max_tokens=8)


@pytest.fixture
def ran(tmp_path):
    """Report, samples and seconds of a load test with failures."""
    report = MemoryLoadTest(MemorySettings(fail_every=7)).run(PLAN, str(tmp_path), lambda second: None)
    return report, read_lines(tmp_path / "samples.jsonl"), read_lines(tmp_path / "seconds.jsonl")


@given(st.lists(st.one_of(st.none(), st.floats(0, 1e6)), max_size=50))
def test_quantiles_are_numpys_of_the_raw_values(values):
    """Nothing is rounded or put into buckets; undefined values are left out; none at all has no quantiles."""
    known, found = [v for v in values if v is not None], quantiles(values)
    if not known:
        assert found is None
        return
    assert found is not None and found.n == len(known)
    for name, rank in (("p50", 50), ("p90", 90), ("p95", 95), ("p99", 99)):
        assert getattr(found, name) == np.percentile(known, rank)
    assert found.mean == pytest.approx(np.mean(known))


def test_a_failed_request_is_counted_and_not_timed(ran):
    """Rates and latencies are of what succeeded, the errors say why the rest did not."""
    report, samples, _ = ran
    bad = [s for s in samples if s["error"]]
    assert bad and report.failed == len(bad) and report.requests == len(samples)
    assert report.e2e.n == report.requests - report.failed
    assert report.requests_per_s == pytest.approx((report.requests - report.failed) / report.seconds)
    assert report.errors == (("HTTP 503: as the settings say", len(bad)),)


def test_a_test_without_a_request_has_a_report(tmp_path):
    """Nothing measured is no number, and no division by zero."""
    report = summarise([], [], tmp_path)
    assert (report.requests, report.requests_per_s, report.ttft, report.e2e) == (0, 0.0, None, None)
    page = render(PLAN, report, [], [])
    assert "no such request succeeded" in page


def test_errors_beyond_twenty_kinds_are_summed_up():
    """The most frequent come first and no count is lost."""
    found = errors([f"kind {n}" for n in range(30)] + ["kind 7"] * 5)
    assert found[0] == ("kind 7", 6) and len(found) == 21
    assert found[-1] == ("others", 10) and sum(count for _, count in found) == 35


def test_a_client_that_was_busy_or_late_is_told_of():
    """Numbers that the client itself may have worsened carry a warning; others none."""
    calm = {"client_cpu": 0.2, "lag_s": 0.001}
    assert warnings([calm]) == ()
    assert len(warnings([calm, {"client_cpu": 0.9, "lag_s": 0.5}])) == 2


def test_the_page_has_plots_and_needs_nothing_else(ran):
    """Three rows of plots, the quantiles and the errors; no script, no address to load from."""
    page = render(PLAN, *ran)
    assert page.count("<svg") == 3 and "tokens/s" in page and "TPOT" in page
    assert f"{ran[0].ttft.p50 * 1000:,.1f}" in page and "HTTP 503: as the settings say" in page
    assert not re.search(r"<script|<link|@import|src=|href=\"(?!#)|url\((?!#)", page)


def test_the_page_escapes_what_a_server_said(tmp_path):
    """An error message is text, never markup."""
    sample = {"error": "<script>alert(1)</script>", "cut": False, "tokens": 0, "ttft_s": None, "tpot_s": None}
    samples = [sample | {"e2e_s": None}]
    page = render(PLAN, summarise(samples, [], tmp_path), samples, [])
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_the_same_plan_gives_the_same_page(ran):
    """A page changes only where a number does, so that it can be kept under version control."""
    assert render(PLAN, *ran) == render(PLAN, *ran)


def test_metrics_are_flat_numbers(ran):
    """What dvc and MLflow read: names to numbers, nothing nested, nothing undefined."""
    found = metrics(ran[0])
    assert all(isinstance(value, float) for value in found.values())
    assert found["ttft_p50_s"] == pytest.approx(ran[0].ttft.p50, abs=1e-6) and found["failed"] == ran[0].failed


def test_the_table_for_plots_has_a_row_per_second(ran):
    """Rates are per second of the row's own length."""
    rows = list(csv.DictReader(io.StringIO(as_csv(ran[2]))))
    assert [float(row["t"]) for row in rows] == [s["t"] for s in ran[2]]
    assert float(rows[0]["tokens_per_s"]) == ran[2][0]["tokens"] / ran[2][0]["span_s"]


def test_lines_are_followed_only_when_complete(tmp_path):
    """A reader that is faster than the writer sees each line once and never half of one."""
    path, seen, offset = tmp_path / "lines", [], 0
    assert new_lines(path, 0) == (0, [])
    text = '{"t": 1.0}\n{"t": 2.0}\n'
    for end in range(len(text) + 1):
        path.write_text(text[:end])
        offset, lines = new_lines(path, offset)
        seen += lines
    assert seen == [{"t": 1.0}, {"t": 2.0}]


def test_a_damaged_file_of_samples_is_named(tmp_path):
    """The error says which line of which file."""
    (tmp_path / "samples.jsonl").write_text(json.dumps({"a": 1}) + "\n{half")
    with pytest.raises(Corrupt, match=r"samples\.jsonl, line 2"):
        read_lines(tmp_path / "samples.jsonl")
