"""An engine directory under its final name is whole, made once per digest, and found without hashing it again."""

import json
import threading
from pathlib import Path

import pytest

from engines.artifacts import build_once, directory_name, find, read_manifest, verify
from rollout.errors import Corrupt

DIGEST = "ab" * 32


def _make(directory: Path) -> dict[str, str]:
    (directory / "model.gguf").write_bytes(b"weights")
    return {"note": "made"}


def test_a_second_build_is_a_lookup(tmp_path: Path) -> None:
    """The first makes it, the second finds the same manifest and makes nothing."""
    first, found = build_once(tmp_path, "llama_cpp", DIGEST, _make)
    second, again = build_once(tmp_path, "llama_cpp", DIGEST, lambda directory: pytest.fail("made twice"))
    assert (found, again) == (False, True)
    assert first == second == verify(tmp_path / f"llama_cpp-{DIGEST[:16]}")
    assert first["note"] == "made" and first["files"][0]["size"] == 7


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    """An error in the middle removes what was begun, and the next build succeeds."""

    def fail(directory: Path) -> dict[str, str]:
        (directory / "half").write_bytes(b"half")
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        build_once(tmp_path, "llama_cpp", DIGEST, fail)
    assert [p.name for p in tmp_path.iterdir()] == [".locks"]
    assert build_once(tmp_path, "llama_cpp", DIGEST, _make)[1] is False


def test_what_a_killed_build_left_is_cleaned_by_the_next(tmp_path: Path) -> None:
    """A left .building directory is no engine; a build of another digest removes it, unless its lock is held."""
    left = tmp_path / (directory_name("llama_cpp", "cd" * 32) + ".building")
    left.mkdir()
    (left / "model.gguf").write_bytes(b"half")
    assert find(tmp_path, "llama_cpp", "cd" * 32) is None
    build_once(tmp_path, "llama_cpp", DIGEST, _make)
    assert not left.exists()


def test_a_build_that_is_at_work_is_left_alone(tmp_path: Path) -> None:
    """Cleaning takes only what nobody works on: a build in between finishes."""
    inside, go = threading.Event(), threading.Event()

    def slow(directory: Path) -> dict[str, str]:
        inside.set()
        go.wait(20)
        return _make(directory)

    worker = threading.Thread(target=build_once, args=(tmp_path, "llama_cpp", "cd" * 32, slow))
    worker.start()
    inside.wait(20)
    build_once(tmp_path, "llama_cpp", DIGEST, _make)
    go.set()
    worker.join()
    assert find(tmp_path, "llama_cpp", "cd" * 32) is not None


def test_a_damaged_engine_is_not_found_and_is_built_again(tmp_path: Path) -> None:
    """A file of the wrong size is Corrupt to a reader and absent to a lookup; a build replaces it."""
    build_once(tmp_path, "llama_cpp", DIGEST, _make)
    directory = tmp_path / directory_name("llama_cpp", DIGEST)
    (directory / "model.gguf").write_bytes(b"weigh")
    with pytest.raises(Corrupt, match=r"model.gguf has 5 bytes and its manifest says 7"):
        read_manifest(directory)
    assert find(tmp_path, "llama_cpp", DIGEST) is None
    assert build_once(tmp_path, "llama_cpp", DIGEST, _make)[1] is False
    assert verify(directory)["digest"] == DIGEST


def test_a_swapped_byte_is_found_by_verify_only(tmp_path: Path) -> None:
    """The quick look compares sizes; verify hashes."""
    build_once(tmp_path, "llama_cpp", DIGEST, _make)
    directory = tmp_path / directory_name("llama_cpp", DIGEST)
    (directory / "model.gguf").write_bytes(b"Weights")
    assert read_manifest(directory)["digest"] == DIGEST
    with pytest.raises(Corrupt, match="sha256"):
        verify(directory)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"digest": "x", "files": []}', '{"files": [{"path": 1}]}'])
def test_a_manifest_that_says_nothing_is_corrupt(tmp_path: Path, content: str) -> None:
    """No half manifest is taken for a whole one."""
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(Corrupt):
        read_manifest(tmp_path)


def test_two_digests_with_one_name_are_not_confused(tmp_path: Path) -> None:
    """The name holds 16 digits of the digest; the manifest decides."""
    build_once(tmp_path, "llama_cpp", DIGEST, _make)
    assert find(tmp_path, "llama_cpp", DIGEST[:16] + "0" * 48) is None
    manifest = json.loads((tmp_path / directory_name("llama_cpp", DIGEST) / "manifest.json").read_text())
    assert manifest["digest"] == DIGEST
