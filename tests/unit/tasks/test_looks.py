"""What each look saw, on disk: lines that any parser reads, also after a full disk."""

from __future__ import annotations

import json
import math
import resource

import pytest

from reports.points import points
from reports.record import record_of
from rollout.nouns import Verdict
from rollout.policy import Veto
from rollout.vetoes import Reading, Watch, look
from tasks.looks import Look, LookFile

EVIDENCE = {"release": "r-1", "service": "chat", "outcome": "running"}


def refuse(name):
    raise AssertionError(f"{name} is no JSON")


def seen(file, at, verdict):
    """Write a look of that time."""
    return file.write(Look(at, f"stage {at:g}", 50, 0), verdict, 0.0)


def test_an_infinite_veto_is_written_as_no_number_and_told_in_its_sentence(tmp_path):
    """Errors by requests give infinity where there is no request: no JSON, and no point of a metric."""
    _, finding = look(Watch(Veto("errors", "errors / requests", above=0.1)), Reading({"": math.inf}), 1.0)
    verdict = Verdict(finding.outcome, finding.sentence, (finding,))
    seen(LookFile(tmp_path / "looks.jsonl"), 1.0, verdict)
    told = json.loads((tmp_path / "looks.jsonl").read_text(), parse_constant=refuse)
    assert told["findings"][0]["candidate"] is None and "inf, above 0.1" in told["findings"][0]["sentence"]
    names = {name for name, _, _ in points(record_of(EVIDENCE, tmp_path))}
    assert "veto_errors_stable" not in names and "veto_errors_candidate" not in names and "canary_percent" in names


def test_a_look_that_the_disk_did_not_take_spoils_no_other(tmp_path):
    """The same file, tried again and opened anew: the half line is left out, and told."""
    path, verdict = tmp_path / "looks.jsonl", Verdict("undecided", "too few requests")
    file = LookFile(path)
    seen(file, 1.0, verdict)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, hard))
    try:
        with pytest.raises(OSError):
            seen(file, 2.0, verdict)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert seen(file, 2.0, verdict) and seen(LookFile(path), 3.0, verdict)
    told = record_of(EVIDENCE, tmp_path)
    assert [point["at"] for point in told["timeline"]] == [1.0, 2.0, 3.0]
    assert "1 of 4 lines" in told["unread"][0]
