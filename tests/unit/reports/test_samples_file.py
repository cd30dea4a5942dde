"""The samples of a release: kept exactly, in order, whole after a crash, and bounded."""

from __future__ import annotations

import gzip
import resource
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reports.samples_file import SampleFile, halved, read
from rollout.errors import Corrupt, NotFound
from rollout.nouns import ERRORS, Sample

NUMBERS = st.floats(allow_nan=False, allow_infinity=False, min_value=0)
SAMPLES = st.builds(
    Sample,
    at=NUMBERS,
    version=st.integers(1, 9),
    mirrored=st.booleans(),
    failed=st.booleans(),
    ttft_s=st.none() | NUMBERS,
    total_s=st.none() | NUMBERS,
    tokens_out=st.none() | st.integers(0, 10**6),
    cut=st.booleans(),
    streamed=st.booleans(),
    error=st.sampled_from(("", *ERRORS)),
    bytes_in=st.integers(0, 10**9),
    cached=st.none() | st.booleans(),
    weight=NUMBERS,
    instance=st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    request_id=st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)


@contextmanager
def room_for(size):
    """No file can grow beyond so many bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def numbered(number: int, version: int = 1) -> Sample:
    """The request of that number."""
    return Sample(float(number), version, False, False, 0.1, 0.5, 8, request_id=f"r{number}")


@settings(deadline=None, max_examples=50)
@given(looks=st.lists(st.tuples(st.sampled_from(["mirror", "canary 5 %"]), st.lists(SAMPLES, max_size=4)), max_size=4))
def test_what_is_written_is_read_back_to_the_last_bit(tmp_path_factory, looks):
    """Every field of every sample, in the order of the looks."""
    path = tmp_path_factory.mktemp("samples") / "samples.csv.gz"
    for stage, samples in looks:
        SampleFile(path).append(stage, samples)
    wanted = [(stage, sample) for stage, samples in looks for sample in samples]
    assert (list(read(path)) if path.exists() else []) == wanted


def test_a_killed_writer_loses_its_last_rows_only(tmp_path):
    """Wherever it was stopped: what is half is not read, and the next writer goes on behind what is whole."""
    path = tmp_path / "samples.csv.gz"
    file, sizes = SampleFile(path), []
    for number in (1, 2):
        file.append("a", [numbered(number)])
        sizes.append(path.stat().st_size)
    whole = path.read_bytes()
    for size in range(*sizes):
        path.write_bytes(whole[:size])
        left = list(read(path))
        assert left == [("a", numbered(1))] or left == [("a", numbered(1)), ("a", numbered(2))]
        SampleFile(path).append("b", [numbered(3)])
        assert list(read(path)) == [*left, ("b", numbered(3))]


def test_a_writer_goes_on_where_the_disk_was_full(tmp_path):
    """The half that was written is gone with the next rows, of the same writer too."""
    path = tmp_path / "samples.csv.gz"
    file = SampleFile(path)
    file.append("a", [numbered(1)])
    with room_for(path.stat().st_size + 40), pytest.raises(OSError):
        file.append("a", [numbered(2)])
    file.append("a", [numbered(3)])
    assert list(read(path)) == [("a", numbered(1)), ("a", numbered(3))]


def test_nothing_is_read_again_to_write_and_nothing_is_written_anew(tmp_path):
    """A writer needs the file's end alone, whatever is before it, and thins out without touching what is there."""
    path = tmp_path / "samples.csv.gz"
    for first in range(0, 20_000, 2000):
        SampleFile(path, most=5000).append("a", [numbered(n) for n in range(first, first + 2000)])
    there, times = path.read_bytes(), halved(path)
    path.write_bytes(bytes(len(there) - 2000) + there[-2000:])
    for first in range(20_000, 60_000, 2000):
        SampleFile(path, most=5000).append("a", [numbered(n) for n in range(first, first + 2000)])
    after = path.read_bytes()
    assert after[len(there) - 2000 : len(there)] == there[-2000:] and halved(path) > times
    path.write_bytes(there + after[len(there) :])
    kept = [sample.at for _, sample in read(path)]
    assert 2000 < len(kept) <= 5000 and min(kept) < 500 and max(kept) > 59_500


def test_the_file_grows_by_half_of_what_is_kept_with_each_doubling(tmp_path):
    """Rows that count no more are left in it; there is an end to them."""
    path = tmp_path / "samples.csv.gz"
    file = SampleFile(path, most=1000)
    for first in range(0, 64_000, 500):
        file.append("a", [numbered(n) for n in range(first, first + 500)])
    there = gzip.decompress(path.read_bytes()).decode().count("\r\na,")
    assert halved(path) in (6, 7) and there < 1000 * (1 + halved(path) / 2) * 1.15


def test_a_client_that_sends_one_id_fills_no_disk(tmp_path):
    """All requests of an id are kept or left out together."""
    path = tmp_path / "samples.csv.gz"
    file = SampleFile(path, most=1000)
    for _ in range(20):
        file.append("a", [numbered(7)] * 300)
    assert gzip.decompress(path.read_bytes()).count(b"r7") <= 1000 and list(read(path)) == []


def test_any_gzip_program_reads_it(tmp_path):
    """It is one gzip file of lines."""
    path = tmp_path / "samples.csv.gz"
    file = SampleFile(path)
    for number in range(3):
        file.append("a", [numbered(number)])
    assert gzip.decompress(path.read_bytes()).decode().count("r2") == 1


def test_too_many_are_thinned_out_evenly_and_both_answers_to_a_request_stay_together(tmp_path):
    """At most so many rows, about as many from the beginning as from the end, and it is told which part is kept. The
    copy's answer comes a look later."""
    path = tmp_path / "samples.csv.gz"
    file = SampleFile(path, most=1000)
    for first in range(0, 4000, 100):
        file.append("a", [numbered(n) for n in range(first, first + 100)])
        file.append("a", [numbered(n, 2) for n in range(first - 100, first)])
    kept = [sample for _, sample in read(path)]
    early = sum(sample.at < 2000 for sample in kept)
    assert 250 < len(kept) <= 1000 and halved(path) >= 3
    assert abs(len(kept) * 2 ** halved(path) / 7900 - 1) < 0.15
    assert abs(early / len(kept) - 0.5) < 0.12
    assert {s.at for s in kept if s.version == 1 and 0 <= s.at < 3900} == {
        s.at for s in kept if s.version == 2 and s.at >= 0
    }


def test_thinning_goes_on_after_a_restart(tmp_path):
    """A new writer keeps the same requests as the old one would have."""
    one, other = tmp_path / "one.csv.gz", tmp_path / "other.csv.gz"
    file = SampleFile(one, most=100)
    for number in range(500):
        file.append("a", [numbered(number)])
        SampleFile(other, most=100).append("a", [numbered(number)])
    assert list(read(one)) == list(read(other)) and halved(one) == halved(other) > 0


def test_what_is_no_such_file_is_said(tmp_path):
    """A missing one, one that is no gzip, and one with other columns."""
    with pytest.raises(NotFound, match="no samples"):
        list(read(tmp_path / "none"))
    (tmp_path / "text").write_text("at,version\n1,2\n")
    with pytest.raises(Corrupt, match="no gzip"):
        list(read(tmp_path / "text"))
    (tmp_path / "old").write_bytes(gzip.compress(b"0\nstage,at\n"))
    with pytest.raises(Corrupt, match="columns"):
        list(read(tmp_path / "old"))
