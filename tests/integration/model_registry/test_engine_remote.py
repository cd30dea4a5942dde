"""A real DVC remote for engines, as a folder that several machines share, and storages that do not answer."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from model_registry.engine_remote import EngineRemote
from model_registry.port import RemoteSettings, open_remote
from rollout.errors import Corrupt, NotFound, Unavailable

NAME = "llama_cpp-0123456789abcdef"


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """A directory with folders in it and two files of the same content."""
    directory = tmp_path / "machine-1" / NAME
    (directory / "model" / "deep").mkdir(parents=True)
    (directory / "manifest.json").write_text("{}")
    for name in ("weights", "deep/again"):
        (directory / "model" / name).write_bytes(b"w" * 100_000)
    return directory


@pytest.fixture
def remote(tmp_path: Path) -> EngineRemote:
    return open_remote(RemoteSettings(str(tmp_path / "shared")))


def _work(tmp_path: Path, name: str) -> str:
    (tmp_path / name).mkdir()
    return str(tmp_path / name)


def _content(directory: Path) -> dict[str, bytes]:
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_what_one_machine_puts_another_gets(tmp_path: Path, engine: Path, remote: EngineRemote) -> None:
    """All files with their folders, writable again; the first machine's engine is as it was."""
    before = _content(engine)
    pointer = remote.put(str(engine), NAME)
    assert "path: engine" in pointer and "nfiles: 3" in pointer
    got = remote.get(NAME, _work(tmp_path, "machine-2"))
    assert _content(got) == before == _content(engine)
    assert all(p.stat().st_mode & 0o200 for p in (*got.rglob("*"), *engine.rglob("*")))


def test_putting_it_twice_changes_nothing(tmp_path: Path, engine: Path, remote: EngineRemote) -> None:
    """Content is stored by its hash, once."""
    first = remote.put(str(engine), NAME)
    stored = {p: p.stat().st_mtime_ns for p in (tmp_path / "shared" / "files" / "md5").glob("??/*")}
    assert len(stored) == 3  # two contents and the list of the folder
    assert remote.put(str(engine), NAME) == first
    assert {p: p.stat().st_mtime_ns for p in stored} == stored


def test_an_engine_that_is_not_there_is_not_found(tmp_path: Path, engine: Path, remote: EngineRemote) -> None:
    """Neither in an empty remote nor beside another engine."""
    with pytest.raises(NotFound, match=NAME):
        remote.get(NAME, _work(tmp_path, "1"))
    remote.put(str(engine), "vllm-other")
    with pytest.raises(NotFound, match=NAME):
        remote.get(NAME, _work(tmp_path, "2"))


@pytest.mark.parametrize("damage", ["flipped", "missing", "list"])
def test_damaged_content_is_refused_and_sent_again(
    tmp_path: Path, engine: Path, remote: EngineRemote, damage: str
) -> None:
    """It is taken out of the remote, so that the next machine that builds the engine can put it there whole."""
    remote.put(str(engine), NAME)
    stored = (tmp_path / "shared" / "files" / "md5").glob("??/*.dir" if damage == "list" else "??/*")
    victim = max(stored, key=lambda path: path.stat().st_size)
    content = victim.read_bytes()
    victim.unlink()
    if damage != "missing":
        victim.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        victim.chmod(0o444)
    with pytest.raises(Corrupt, match="damaged or missing"):
        remote.get(NAME, _work(tmp_path, "2"))
    with pytest.raises(NotFound):
        remote.get(NAME, _work(tmp_path, "3"))
    remote.put(str(engine), NAME)
    assert _content(remote.get(NAME, _work(tmp_path, "4"))) == _content(engine)


@pytest.mark.parametrize("text", ["", "outs: []", "outs: [{md5: x, path: ../../etc, size: 1}]", "{", "outs: [{}]"])
def test_a_pointer_that_says_nothing_is_corrupt(tmp_path: Path, engine: Path, remote: EngineRemote, text: str) -> None:
    """A .dvc file that was cut off, or names something else, is no engine's."""
    remote.put(str(engine), NAME)
    (tmp_path / "shared" / "roundhouse" / f"{NAME}.dvc").write_text(text)
    with pytest.raises(Corrupt, match=r"\.dvc file cannot be used"):
        remote.get(NAME, _work(tmp_path, "2"))


def test_a_storage_that_does_not_answer_is_unavailable_in_time(tmp_path: Path, engine: Path) -> None:
    """A server that takes the connection and says nothing does not hold a build for longer than its limit."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        remote = EngineRemote(RemoteSettings(f"http://127.0.0.1:{silent.getsockname()[1]}/engines"), answer_s=4.0)
        start = time.monotonic()
        with pytest.raises(Unavailable, match="did not finish within 4 s"):
            remote.get(NAME, _work(tmp_path, "2"))
        assert time.monotonic() - start < 15


@pytest.mark.parametrize("url", ["/proc/none/engines", "s3://bucket-without-its-library/engines", "nonsense://x"])
def test_a_storage_that_cannot_be_used_is_unavailable(engine: Path, url: str) -> None:
    """A folder that cannot be written and a protocol that DVC lacks are told by name."""
    with pytest.raises(Unavailable, match="the DVC remote"):
        EngineRemote(RemoteSettings(url)).put(str(engine), NAME)
