"""Which engines are kept: those in use, then those used last, until the rest is within the bound."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.artifacts import MANIFEST, build_once, directory_name, locked
from engines.shelf import Entry, choose, collect, drop, entries, named, pin
from rollout.errors import NotFound, Refused

NOW = 1_000_000.0
DIGESTS = ["aa" * 32, "bb" * 32, "cc" * 32]


def _kept(root: Path, digest: str, size: int, used: float) -> Entry:
    """An engine of ``size`` bytes of weights that was used so many seconds before NOW."""

    def make(directory: Path) -> dict[str, object]:
        (directory / "model").mkdir()
        (directory / "model" / "weights").write_bytes(b"w" * size)
        return {"model": {"uri": "models:/m/1"}, "built_at": 5.0}

    build_once(root, "llama_cpp", digest, make)
    manifest = root / directory_name("llama_cpp", digest) / MANIFEST
    os.utime(manifest, (NOW - used, NOW - used))
    return named(root, digest)


def _there(root: Path) -> set[str]:
    return {entry.digest for entry in entries(root)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three engines of about 10 kB; the first was used last, the third longest ago."""
    for digest, used in zip(DIGESTS, (2000.0, 3000.0, 4000.0), strict=True):
        _kept(tmp_path, digest, 10_000, used)
    return tmp_path


def test_entries_tell_what_there_is(root: Path) -> None:
    """The one used last comes first, with its model, its bytes and its times; what else lies there is no engine."""
    (root / ".logs").mkdir()
    (root / "llama_cpp-my-notes").mkdir()
    first, *rest = entries(root)
    assert [first.digest, *(e.digest for e in rest)] == DIGESTS
    assert (first.kind, first.model, first.built_at, first.used_at) == ("llama_cpp", "models:/m/1", 5.0, NOW - 2000)
    assert first.size == first.own_bytes == 10_000 + (Path(first.directory) / MANIFEST).stat().st_size
    assert (first.damage, first.pinned) == ("", False)


def test_a_damaged_engine_is_told_and_goes_first(root: Path) -> None:
    """However large the bound is: nothing finds it any more."""
    (root / directory_name("llama_cpp", DIGESTS[0]) / "model" / "weights").write_bytes(b"short")
    assert "has 5 bytes" in entries(root)[0].damage
    assert named(root, "aa") == entries(root)[0]
    gone = [fate.entry.name for fate in collect(root, {}, 10**12, NOW) if fate.goes]
    assert gone == [directory_name("llama_cpp", DIGESTS[0])] and _there(root) == set(DIGESTS[1:])


def test_the_ones_used_longest_ago_go_until_the_rest_is_within_the_bound(root: Path) -> None:
    """Two of three fit: the oldest goes and says why, the others say why they stay."""
    fates = {fate.entry.digest: fate for fate in collect(root, {}, 25_000, NOW)}
    assert [fates[d].goes for d in DIGESTS] == [False, False, True]
    assert (fates[DIGESTS[0]].why, fates[DIGESTS[2]].why) == ("within the bound", "used longest ago")
    assert _there(root) == set(DIGESTS[:2])


def test_what_is_kept_pinned_or_just_used_stays(root: Path) -> None:
    """With a bound of nothing each of them stays, for its own reason."""
    pin(root, directory_name("llama_cpp", DIGESTS[1]))
    _kept(root, DIGESTS[2], 10_000, used=10.0)
    fates = {f.entry.digest: f for f in collect(root, {DIGESTS[0]: "chat v3 is in service"}, 0, NOW)}
    assert [fates[d].why for d in DIGESTS] == ["chat v3 is in service", "pinned", "used within the last 15 min"]
    pin(root, directory_name("llama_cpp", DIGESTS[1]), keep=False)
    collect(root, {DIGESTS[0]: "chat v3 is in service"}, 0, NOW, idle_s=0.0)
    assert _there(root) == {DIGESTS[0]}


def test_a_damaged_engine_in_service_stays(root: Path) -> None:
    """Its processes may still have it open."""
    (root / directory_name("llama_cpp", DIGESTS[0]) / MANIFEST).write_text("{")
    fates = {f.entry.name: f for f in collect(root, {DIGESTS[0]: "chat v3 is in service"}, 10**12, NOW)}
    assert fates[directory_name("llama_cpp", DIGESTS[0])].why == "chat v3 is in service"


def test_an_engine_that_is_being_built_stays(root: Path) -> None:
    """Whoever holds its lock works on it."""
    name = directory_name("llama_cpp", DIGESTS[2])
    with locked(root, name):
        fates = {f.entry.digest: f for f in collect(root, {}, 0, NOW)}
    assert (fates[DIGESTS[2]].goes, fates[DIGESTS[2]].why) == (False, "it is being built or used")
    assert _there(root) == {DIGESTS[2]}


def test_an_engine_that_was_used_since_it_was_listed_stays(root: Path) -> None:
    """Between the look and the removal a release may have found it."""
    entry = named(root, DIGESTS[2])
    build_once(root, "llama_cpp", DIGESTS[2], lambda directory: pytest.fail("built again"))
    assert drop(root, entry) is False and DIGESTS[2] in _there(root)


def test_links_of_other_files_free_nothing(tmp_path: Path) -> None:
    """Bytes that stay elsewhere do not count as the engine's own; two links of one file in it count once."""
    (tmp_path / "weights").write_bytes(b"w" * 5000)

    def make(directory: Path) -> dict[str, str]:
        os.link(tmp_path / "weights", directory / "shared")
        (directory / "own").write_bytes(b"o" * 300)
        os.link(directory / "own", directory / "again")
        return {}

    build_once(tmp_path / "e", "vllm", DIGESTS[0], make)
    (entry,) = entries(tmp_path / "e")
    manifest = (Path(entry.directory) / MANIFEST).stat().st_size
    assert (entry.size - manifest, entry.own_bytes - manifest) == (5300, 300)


def test_half_built_leftovers_go(root: Path) -> None:
    """What killed processes left is no engine, and is removed with the first collection."""
    for suffix in (".building", ".going", ".incoming"):
        (root / f"vllm-dddd{suffix}").mkdir()
    assert len(entries(root)) == 3
    collect(root, {}, 10**12, NOW)
    assert sorted(p.name for p in root.iterdir() if not p.name.startswith((".", "llama_cpp-"))) == []


def test_an_engine_is_named_by_the_beginning_of_its_digest(root: Path) -> None:
    """A beginning that fits one is enough; none and several are errors of their own."""
    assert named(root, "bb").digest == named(root, "llama_cpp-bb").digest == DIGESTS[1]
    with pytest.raises(NotFound, match="llama_cpp-aaaa"):
        named(root, "ff")
    with pytest.raises(Refused, match="3 engines begin so"):
        named(root, "llama")


ENTRY = Entry("n", "/e/n", "llama_cpp", "", "m", 0, 0, 0.0, 0.0)
ENTRIES = st.lists(
    st.tuples(st.integers(0, 10**9), st.floats(0, 2 * NOW), st.booleans(), st.sampled_from(["", "damaged"])),
    max_size=12,
).map(
    lambda rows: [
        replace(ENTRY, name=f"k-{n}", digest=f"{n:064}", own_bytes=size, used_at=at, pinned=pinned, damage=damage)
        for n, (size, at, pinned, damage) in enumerate(rows)
    ]
)


@given(ENTRIES, st.integers(0, 10**9), st.sets(st.integers(0, 11)))
def test_rules_of_the_choice(there: list[Entry], bound: int, kept: set[int]) -> None:
    """Nothing that must stay goes; no more goes than needed; what goes was used no later than what could have gone."""
    keep = {f"{n:064}": "in service" for n in kept}
    fates = choose(there, keep, bound, NOW)
    assert [fate.entry for fate in fates] == there and all(fate.why for fate in fates)
    gone = [f.entry for f in fates if f.goes]
    assert not [e for e in gone if e.digest in keep or (not e.damage and (e.pinned or NOW - e.used_at < 900))]
    whole = [e for e in gone if not e.damage]
    left = sum(f.entry.own_bytes for f in fates if not f.goes)
    free = [f.entry for f in fates if not f.goes and f.why == "within the bound"]
    assert left <= bound or not free
    if whole:
        assert left + max(whole, key=lambda e: e.used_at).own_bytes > bound
        assert all(e.used_at >= max(w.used_at for w in whole) for e in free)
