"""Folders that are got once, checked once, and known again."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from model_registry.files import check, discard, hash_files, kept, stamped
from rollout.errors import Corrupt
from rollout.nouns import ModelFile


def quiet(what: str, share: float) -> None:
    """Nobody waits for it."""


def fill(aside: Path) -> tuple[ModelFile, ...]:
    (aside / "model").mkdir()
    (aside / "model" / "a").write_text("content")
    return hash_files(aside / "model", ["a"], quiet)


def never(aside: Path) -> tuple[ModelFile, ...]:
    raise AssertionError("it was got again")


def test_a_second_time_is_a_lookup(tmp_path: Path) -> None:
    """What was got and checked is not got again."""
    first = kept(tmp_path / "m", fill)
    assert kept(tmp_path / "m", never) == first
    assert (tmp_path / "m" / "a").read_text() == "content"


def test_a_touched_folder_is_got_again(tmp_path: Path) -> None:
    """A file that changed since it was checked is not trusted."""
    kept(tmp_path / "m", fill)
    (tmp_path / "m" / "a").write_text("CONTENT")
    assert stamped(tmp_path / "m") is None
    kept(tmp_path / "m", fill)
    assert (tmp_path / "m" / "a").read_text() == "content"


def test_other_files_than_recorded_are_got_again(tmp_path: Path) -> None:
    """A folder that was checked against another record is no hit."""
    kept(tmp_path / "m", lambda aside: (*fill(aside),))
    other = (ModelFile("a", 7, "0" * 64),)
    with pytest.raises(AssertionError, match="got again"):
        kept(tmp_path / "m", never, other)


def test_two_at_once_get_it_once(tmp_path: Path) -> None:
    """While one gets the files the other waits, and then finds them."""
    calls = []

    def slowly(aside: Path) -> tuple[ModelFile, ...]:
        calls.append(1)
        time.sleep(0.2)
        return fill(aside)

    threads = [threading.Thread(target=kept, args=(tmp_path / "m", slowly)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert (tmp_path / "m" / "a").read_text() == "content"


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    """What could not be got or does not pass leaves no folder behind, neither the final nor the one aside."""

    def wrong(aside: Path) -> tuple[ModelFile, ...]:
        fill(aside)
        raise Corrupt("a is not what the record says")

    with pytest.raises(Corrupt):
        kept(tmp_path / "m", wrong)
    assert [p.name for p in tmp_path.iterdir()] == ["m.lock"]


def test_what_a_killed_attempt_left_is_removed(tmp_path: Path) -> None:
    """Files that another process left aside do not come into the folder."""
    (tmp_path / "m.partial" / "model").mkdir(parents=True)
    (tmp_path / "m.partial" / "model" / "half").touch()
    kept(tmp_path / "m", fill)
    assert os.listdir(tmp_path / "m") == ["a"]


def test_discarded_is_gone(tmp_path: Path) -> None:
    """A discarded folder is neither there nor known."""
    kept(tmp_path / "m", fill)
    discard(tmp_path / "m")
    assert not (tmp_path / "m").exists()
    assert stamped(tmp_path / "m") is None


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (ModelFile("b", 1, ""), "b is named in the record and is missing"),
        (ModelFile("a", 9, ""), "a has 7 bytes, the record says 9"),
        (ModelFile("a", 7, "00"), "a has sha256 ed7002b439e9ac845f22357d822bac14"),
    ],
)
def test_check_says_which_file_differs_and_how(tmp_path: Path, record: ModelFile, why: str) -> None:
    """A missing file, another size and another digest each have their own message."""
    fill(tmp_path)
    with pytest.raises(Corrupt) as corrupt:
        check(tmp_path / "model", [record], quiet)
    assert str(corrupt.value).startswith(why)
