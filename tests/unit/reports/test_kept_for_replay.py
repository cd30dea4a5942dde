"""Comparisons and values of vetoes on disk: as they were judged, bounded, and whole after a crash."""

from __future__ import annotations

import math

import pytest

from reports.comparisons_file import keep_comparisons, read_comparisons
from reports.lines import add_line, read_lines
from reports.vetoes_file import VetoFile
from rollout.answers import Comparison
from rollout.recorded import Batch
from rollout.vetoes import Reading

SEEN = Comparison(0.5, 0.25, 3, 1.5, (-1.5, -math.inf, 4), ("empty",), ("looped", "refused"), True)


def pair(after, until):
    return Batch((SEEN,), after, until)


def test_batches_are_read_back_as_they_were_kept(tmp_path):
    """Every value of every comparison, also one that an engine calls impossible."""
    path, batch = tmp_path / "r" / "c.jsonl", Batch((SEEN, Comparison()), None, 0.0, ("a", "dvc:b@1"), 5, 3, True)
    assert read_comparisons(path) == ()
    keep_comparisons(path, batch)
    keep_comparisons(path, pair(1.0, 5.5))
    assert read_comparisons(path) == (batch, pair(1.0, 5.5))


def test_what_was_compared_again_after_an_error_counts_once(tmp_path):
    """A stage goes on from what was saved, prompts begin anew."""
    path = tmp_path / "c.jsonl"
    for batch in (pair(1.0, 2.0), Batch((), None), pair(1.0, 5.0), pair(5.0, 10.0), pair(5.0, 12.0), pair(12.0, 20.0)):
        keep_comparisons(path, batch)
    assert [(b.after, b.until) for b in read_comparisons(path)] == [(None, 0), (1, 5), (5, 12), (12, 20)]


def test_a_file_is_never_larger_than_it_may_be(tmp_path):
    """What does not fit is left out, and the writer hears of it."""
    path = tmp_path / "c.jsonl"
    assert [keep_comparisons(path, pair(n, n + 1.0), most=900) for n in range(9)][-1] is False
    assert 0 < len(read_comparisons(path)) < 9 and path.stat().st_size <= 900


@pytest.mark.parametrize("half", ['{"after": null, "se', "[1]", '{"seen": [{"no": 1}]}', "\x00"])
def test_half_a_line_loses_itself_only(tmp_path, half):
    """In both files."""
    for name in ("c.jsonl", "v.jsonl"):
        (tmp_path / name).write_text(half)
    keep_comparisons(tmp_path / "c.jsonl", pair(1.0, 2.0))
    assert read_comparisons(tmp_path / "c.jsonl") == (pair(1.0, 2.0),)
    file = VetoFile(tmp_path / "v.jsonl")
    file.begin(["up"])
    add_line(tmp_path / "v.jsonl", '{"at": 1, "readings": ["no"]}')
    file.append(2.0, [Reading({"": 1.0})])
    assert [r.at for r in file] == [2.0] and next(read_lines(tmp_path / "none"), None) is None


def test_of_many_series_the_ends_are_kept(tmp_path):
    """With their labels and how many there were; no data and why; what is infinite; each stage's beginning."""
    file = VetoFile(tmp_path / "v.jsonl")
    for begin in (0.0, 100.0):
        file.begin(["temp", "up"])
        file.append(begin, [Reading({f"gpu={n}": n / 10 for n in range(9)}), Reading({}, "nobody answers")])
    file.append(103.0, [Reading({"a": math.inf, "b": math.nan}), Reading({"": math.nan})])
    first, second, third = file
    assert first.by_query == {
        "temp": Reading({"gpu=0": 0.0, "gpu=8": 0.8}, series=9),
        "up": Reading({}, "nobody answers"),
    }
    assert (first.begins, second.begins, third.begins) == (True, True, False)
    assert third.by_query == {"temp": Reading({"a": math.inf}, series=1), "up": Reading({})}
    assert [r.at for r in file] == [0.0, 100.0, 103.0]
