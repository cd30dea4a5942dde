"""The record of a release and its page: all that is known, counted, escaped, and whole without looks or samples."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from past_release import past_release

from reports.explain import COLUMNS, finding_rows, lines
from reports.head import NOTED
from reports.page import render, write_page
from reports.points import MOST_LOOKS, points
from reports.record import SCHEMA, record, record_of
from rollout.policy import Veto
from rollout.vetoes import Reading, Watch, look

BARE = {"release": "r-1", "service": "chat", "outcome": "promoted", "reason": "first version", "candidate": 1}


@pytest.fixture(scope="module")
def past(tmp_path_factory):
    """The folder of a release that made the first token 1.3 times as late, and its evidence."""
    folder = tmp_path_factory.mktemp("past")
    return folder, past_release(folder, 1.3)


def test_the_record_is_json_and_counts_all_it_tells(past):
    """It survives JSON unchanged, and each distribution, path and stage says how many requests it is made of."""
    folder, evidence = past
    told = record_of(evidence, folder)
    assert json.loads(json.dumps(told)) == json.loads(json.dumps(told, allow_nan=False)) and told["schema"] == SCHEMA
    assert [s["stage"] for s in told["samples"]["stages"]] == ["before", "mirror", "canary 5 %", "canary 25 %"]
    assert len(told["timeline"]) == len(told["metrics"]["TTFT"]) == 72
    last = told["metrics"]["TTFT"][-1]
    assert last["n_candidate"] > 300 and last["harm_e"] > last["harm_needs"]
    arms = told["distributions"]["TTFT"]
    assert arms["candidate"]["p50"] > 1.15 * arms["stable"]["p50"] and arms["candidate"]["n"] > 300
    assert told["worst"][0]["metric"] == "TTFT" and len(told["examples"]) == 2


def test_the_page_runs_nothing_and_loads_nothing(past):
    """What a model answered is shown as text: no tag of its own, no address."""
    page = render(record_of(past[1], past[0]))
    assert "<script" not in page and "<img" not in page and "&lt;script&gt;" in page
    assert 'src="' not in page and "@import" not in page and "<link" not in page
    assert page.count("<svg") == 4 and "Rolled back: version 2 of chat serves no user" in page


@pytest.mark.parametrize("outcome", ["promoted", "rolled back", "failed", "running", "pending", "deployed"])
def test_a_release_of_which_little_is_known_has_a_page(tmp_path, outcome):
    """No looks, no samples, no stable version: the decision and its reason are told."""
    told = record_of(BARE | {"outcome": outcome}, tmp_path)
    page = write_page(told, tmp_path / "page.html").read_text()
    assert "first version" in page and "<svg" not in page and "chat" in page


def test_looks_that_were_not_written_whole_are_left_out_and_counted(past, tmp_path):
    """Wherever the half line is: a full disk is tried again, a machine that lost its power leaves zeros."""
    kept = (past[0] / "looks.jsonl").read_text().splitlines()
    (tmp_path / "looks.jsonl").write_text("\n".join([kept[0], kept[1][:50], kept[2], "\0" * 9, "[]", kept[3][:50]]))
    told = record_of(BARE, tmp_path)
    assert [look["at"] for look in told["timeline"]] == [json.loads(kept[n])["at"] for n in (0, 2)]
    assert len(told["unread"]) == 1 and "4 of 6 lines" in told["unread"][0]
    assert record_of(past[1], past[0])["unread"] == []


def test_files_that_cannot_be_read_are_told_and_the_rest_is_there(past, tmp_path):
    """The evidence alone makes a record and a page."""
    (tmp_path / "samples.csv.gz").write_bytes((past[0] / "samples.csv.gz").read_bytes()[9:])
    (tmp_path / "outputs.json").write_text('{"finding": ')
    (tmp_path / "looks.jsonl").mkdir()
    told = record_of(past[1], tmp_path)
    assert [name for name in ("looks", "outputs", "samples") for line in told["unread"] if name in line] == [
        "looks",
        "outputs",
        "samples",
    ]
    assert told["findings"] == past[1]["findings"] and told["samples"] == {"kept": 1.0, "stages": []}
    page = render(told)
    assert "Rolled back" in page and page.count("Missing on this page") == 3
    assert sum(line.startswith("Missing here") for line in lines(told)) == 3


def test_while_under_way_the_last_look_speaks():
    """Findings are those of the evidence, else of the last look."""
    last = {"at": 1.0, "stage": "mirror", "findings": [{"metric": "errors", "worst": []}]}
    assert record(BARE, [last])["findings"] == last["findings"]
    assert record(BARE | {"findings": [{"metric": "TTFT"}]}, [last])["findings"] == [{"metric": "TTFT"}]


def test_the_page_of_a_release_under_way_says_how_long_it_will_take():
    """As the last look said; one that has ended takes no longer."""
    last = {"at": 1.0, "stage": "mirror", "findings": [], "forecast": "about 7 min more at this traffic"}
    assert "about 7 min more" in render(record(BARE | {"outcome": "running"}, [last]))
    assert "about 7 min more" not in render(record(BARE, [last]))


def test_bounds_are_told_in_units_of_their_own():
    """That of a veto is neither a ratio nor a rate; which side of it is bad is told where the policy is known."""
    watch = Watch(Veto("hot gpu", "x", above=88.0))
    veto = asdict(look(watch, Reading({"": 70.0}), 1.0)[1])
    low = asdict(look(Watch(Veto("rate", "x", below=0.05)), Reading({"": 1.0}), 1.0)[1])
    rules = {"vetoes": [asdict(watch.veto)]}
    known = finding_rows(record(BARE | {"findings": [veto, low], "rules": rules}, ()))
    assert [row[COLUMNS.index("margin")] for row in known] == ["above 88", "0.05"]
    errors = {**veto, "metric": "errors", "kind": "difference", "margin": 0.01}
    ttft = {**veto, "metric": "TTFT", "kind": "ratio", "margin": 1.1}
    others = finding_rows(record(BARE | {"findings": [errors, ttft]}, ()))
    assert [row[COLUMNS.index("margin")] for row in others] == ["+1.00%", "1.1x"]


def test_what_was_noted_when_a_release_began_is_told(tmp_path):
    """Also while it runs, and of one that was killed; a note that cannot be read is told as missing."""
    noted = {
        "model": "models:/m/7",
        "policy": "careful",
        "rules": {"vetoes": []},
        "engine_name": "q4_0",
        "spec": {"slots": 2},
    }
    (tmp_path / NOTED).write_text(json.dumps({"release": "another", **noted}))
    told = record_of(BARE | {"model": "models:/m@candidate"}, tmp_path)
    assert {name: told[name] for name in noted} == noted and told["release"] == "r-1"
    assert "careful" in render(told) and "q4_0" in " ".join(lines(told))
    (tmp_path / NOTED).write_text("[]")
    assert "release.json" in record_of(BARE, tmp_path)["unread"][0]


def test_points_are_the_numbers_of_each_look(past):
    """A look a step; what a look does not know has no point, and its neighbours keep their steps."""
    told = record_of(past[1], past[0])
    told["metrics"]["TTFT"] = [point for n, point in enumerate(told["metrics"]["TTFT"]) if n != 1]
    found = {(name, step): value for name, step, value in points(told)}
    last = told["metrics"]["TTFT"][-1]
    seen = {name: last[name] for name in ("stable", "candidate", "effect", "low", "high", "harm_e", "allow_e")}
    assert {name: found[f"ttft_{name}", 71] for name in seen} == seen
    assert found["ttft_n", 71] == last["n_candidate"] and ("ttft_n", 1) not in found
    assert (found["canary_percent", 0], found["canary_percent", 71]) == (0.0, 25.0)
    assert (found["seconds_fetch", 0], found["stress_ttft_p95", 0]) == (1.2, 0.21)


def test_of_many_looks_some_become_points():
    """Evenly chosen, and the metrics at the same looks as the shares."""
    looks = [
        {"at": float(n), "stage": "x", "canary_permille": n, "findings": [{"metric": "TTFT", "effect": float(n)}]}
        for n in range(3 * MOST_LOOKS)
    ]
    found = points(record(BARE, looks))
    shares = {step: value * 10 for name, step, value in found if name == "canary_percent"}
    assert MOST_LOOKS / 2 < len(shares) <= MOST_LOOKS
    assert shares == pytest.approx({step: value for name, step, value in found if name == "ttft_effect"})
