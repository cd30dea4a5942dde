"""The record of a release and its page: all that is known, counted, escaped, and whole without looks or samples."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from past_release import past_release

from reports.explain import COLUMNS, finding_rows
from reports.page import render, write_page
from reports.record import SCHEMA, record, record_of
from rollout.errors import Corrupt
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


def test_a_look_that_was_not_written_whole_is_left_out(past, tmp_path):
    """The last line may be half; one before it may not."""
    lines = (past[0] / "looks.jsonl").read_text().splitlines()
    (tmp_path / "looks.jsonl").write_text("\n".join([*lines[:3], lines[3][:50]]))
    assert len(record_of(BARE, tmp_path)["timeline"]) == 3
    (tmp_path / "looks.jsonl").write_text("\n".join([lines[0][:50], lines[1]]))
    with pytest.raises(Corrupt, match="line 1"):
        record_of(BARE, tmp_path)


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
