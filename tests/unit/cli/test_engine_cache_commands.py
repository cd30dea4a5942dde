"""``roundhouse engine ls | verify | gc | pin``: what is kept, what goes and why, and exit code 6 for a damaged one."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from history import ENGINE, begun
from typer.testing import CliRunner

from cli.main import app
from engines.artifacts import MANIFEST, build_once, directory_name
from engines.port import EngineSpec
from rollout.errors import Corrupt, NotFound, Refused
from store.port import ServiceState, StoreSettings, VersionState, open_store

DIGESTS = {"served": "aa" * 32, "young": "bb" * 32, "old": "cc" * 32}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Three engines of 1 MB; the first is the candidate of a release, the last was used longest ago."""
    for number, digest in enumerate(DIGESTS.values()):
        build_once(tmp_path / "engines", "llama_cpp", digest, _make)
        used = (1000.0 - number, 1000.0 - number)
        os.utime(_directory(tmp_path, digest) / MANIFEST, used)
    store = open_store(StoreSettings(f"sqlite:///{tmp_path / 'roundhouse.db'}"))
    store.put_service(ServiceState("chat"))
    engine = asdict(replace(ENGINE, digest=DIGESTS["served"]))
    store.add_version(VersionState("chat", 0, "models:/m/1", engine, asdict(EngineSpec()), 1), begun(store).id)
    return tmp_path


def _make(directory: Path) -> dict[str, Any]:
    (directory / "model.gguf").write_bytes(b"w" * 1_000_000)
    return {"model": {"uri": "models:/m/1"}, "built_at": 5.0}


def _directory(home: Path, digest: str) -> Path:
    return home / "engines" / directory_name("llama_cpp", digest)


def run(home: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["engine", *words], env={"ROUNDHOUSE_HOME": str(home), "COLUMNS": "200"})


def read(home: Path, *words: str) -> list[dict[str, Any]]:
    done = run(home, *words, "--json")
    assert done.exception is None, done.output
    return json.loads(done.stdout)


def test_ls_tells_what_is_kept_and_who_uses_it(home: Path) -> None:
    """The one used last comes first; the one of a running release names it."""
    listed = read(home, "ls")
    assert [entry["digest"] for entry in listed] == list(DIGESTS.values())
    assert [entry["used_by"] for entry in listed] == ["chat v1 is being released", "", ""]
    assert listed[0]["size"] > 1_000_000 and listed[0]["model"] == "models:/m/1"
    shown = run(home, "ls").output
    assert "chat v1 is being released" in shown and "3 engines, 0.00 GB of 200 GB" in shown


def test_ls_of_a_home_without_engines(tmp_path: Path) -> None:
    """An empty list, no error."""
    assert read(tmp_path, "ls") == []


def test_verify_says_whole_and_damaged_and_ends_with_6(home: Path) -> None:
    """A swapped byte is found, the file is named on stderr, and the others are said to be whole."""
    assert run(home, "verify", "--all").exit_code == 0
    _damage(home, "old")
    done = run(home, "verify", "--all")
    assert done.exit_code == Corrupt.exit_code
    assert "model.gguf has sha256" in done.stderr
    assert [line.rpartition(": ")[2] for line in done.stdout.splitlines()] == ["whole", "whole", "damaged"]
    assert run(home, "verify", DIGESTS["young"][:8]).exit_code == 0
    assert run(home, "verify", "cc").exit_code == Corrupt.exit_code


def test_verify_removes_a_damaged_one_that_nothing_uses(home: Path) -> None:
    """The next build makes it again; one in use is left to whoever runs it."""
    _damage(home, "old")
    _damage(home, "served")
    done = run(home, "verify", "--all", "--remove", "--json")
    told = {entry["name"]: entry["removed"] for entry in json.loads(done.stdout)}
    assert done.exit_code == Corrupt.exit_code
    assert told == {_directory(home, d).name: name == "old" for name, d in DIGESTS.items()}
    assert not _directory(home, DIGESTS["old"]).exists() and _directory(home, DIGESTS["served"]).exists()


@pytest.mark.parametrize(("words", "kind"), [((), Refused), (("aa", "--all"), Refused), (("ff",), NotFound)])
def test_verify_wants_one_engine_or_all(home: Path, words: tuple[str, ...], kind: type[Exception]) -> None:
    """None, both, and one that is not there are refused."""
    assert isinstance(run(home, "verify", *words).exception, kind)


def test_gc_says_what_would_go_and_takes_nothing(home: Path) -> None:
    """A dry run names each engine's fate and its reason."""
    fates = read(home, "gc", "--keep-gb", "0.0021", "--dry-run")
    assert [(fate["goes"], fate["why"]) for fate in fates] == [
        (False, "chat v1 is being released"),
        (False, "within the bound"),
        (True, "used longest ago"),
    ]
    shown = run(home, "gc", "--keep-gb", "0.0021", "--dry-run").output
    assert "would go" in shown and "1.0 MB would be freed" in shown
    assert len(read(home, "ls")) == 3


def test_gc_takes_the_oldest_and_never_one_in_use_or_pinned(home: Path) -> None:
    """With nothing to keep, only what nobody needs goes; unpinned, it goes too."""
    assert run(home, "pin", "bb").exit_code == 0
    assert "1.0 MB freed" in run(home, "gc", "--keep-gb", "0").output
    assert [entry["digest"] for entry in read(home, "ls")] == [DIGESTS["served"], DIGESTS["young"]]
    assert [fate["why"] for fate in read(home, "gc", "--keep-gb", "0")] == ["chat v1 is being released", "pinned"]
    assert run(home, "unpin", "bb").exit_code == 0
    read(home, "gc", "--keep-gb", "0")
    assert [entry["digest"] for entry in read(home, "ls")] == [DIGESTS["served"]]


def test_gc_spares_what_was_used_just_now_unless_told_otherwise(home: Path) -> None:
    """A release that has just found its engine may not have declared its version yet."""
    build_once(home / "engines", "llama_cpp", DIGESTS["old"], _make)
    assert {f["why"] for f in read(home, "gc", "--keep-gb", "0", "--dry-run") if not f["goes"]} == {
        "chat v1 is being released",
        "used within the last 15 min",
    }
    fates = read(home, "gc", "--keep-gb", "0", "--dry-run", "--idle-minutes", "0")
    assert [fate["goes"] for fate in fates if fate["digest"] == DIGESTS["old"]] == [True]


def _damage(home: Path, name: str) -> None:
    (_directory(home, DIGESTS[name]) / "model.gguf").write_bytes(b"W" + b"w" * 999_999)
