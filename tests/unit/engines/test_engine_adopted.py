"""Engines with folders in them, and engines that come from elsewhere: checked before they get their final name."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from engines.artifacts import adopt, build_once, directory_name, find, incoming, leftovers, sweep, used_at, verify
from rollout.errors import Corrupt

DIGEST = "ab" * 32
NAME = directory_name("vllm", DIGEST)
ROOT = Path(__file__).parents[3]


def _make(directory: Path) -> dict[str, str]:
    (directory / "model" / "deep").mkdir(parents=True)
    (directory / "model" / "config.json").write_text("{}")
    (directory / "model" / "deep" / "rank0.engine").write_bytes(b"weights")
    return {"note": "made"}


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A whole engine on another machine."""
    build_once(tmp_path / "other", "vllm", DIGEST, _make)
    return tmp_path / "other" / NAME


def test_files_in_folders_are_in_the_manifest(tmp_path: Path, elsewhere: Path) -> None:
    """Their paths are relative and POSIX, and a change in one of them is found."""
    paths = [entry["path"] for entry in verify(elsewhere)["files"]]
    assert paths == ["model/config.json", "model/deep/rank0.engine"]
    (elsewhere / "model" / "deep" / "rank0.engine").write_bytes(b"Weights")
    with pytest.raises(Corrupt, match=r"model/deep/rank0.engine has sha256"):
        verify(elsewhere)


def test_hard_links_are_files_like_others(tmp_path: Path) -> None:
    """A file that is linked from a model's folder is hashed and kept."""
    (tmp_path / "weights").write_bytes(b"shared")

    def link(directory: Path) -> dict[str, str]:
        os.link(tmp_path / "weights", directory / "weights")
        return {}

    build_once(tmp_path / "e", "vllm", DIGEST, link)
    assert verify(tmp_path / "e" / NAME)["files"][0]["size"] == 6


@pytest.mark.parametrize("folder", [False, True])
def test_a_symbolic_link_is_refused(tmp_path: Path, folder: bool) -> None:
    """What a link points to is no part of an engine: the build fails, names it, and leaves nothing."""
    (tmp_path / "target").mkdir()

    def link(directory: Path) -> dict[str, str]:
        (directory / "weights").symlink_to(tmp_path / "target" if folder else "/etc/hostname")
        return {}

    with pytest.raises(Corrupt, match="weights is a symbolic link"):
        build_once(tmp_path / "e", "vllm", DIGEST, link)
    assert list((tmp_path / "e").glob("vllm*")) == []


@pytest.mark.parametrize("path", ["/etc/hostname", "../other", "a/../../b", "manifest.json", "./a", ""])
def test_a_manifest_that_names_a_file_elsewhere_is_corrupt(tmp_path: Path, elsewhere: Path, path: str) -> None:
    """Paths of a manifest stay inside the engine."""
    manifest = json.loads((elsewhere / "manifest.json").read_text())
    manifest["files"].append({"path": path, "size": 0, "sha256": ""})
    (elsewhere / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Corrupt, match="no path inside the engine"):
        adopt(tmp_path / "here", elsewhere, "vllm", DIGEST)


def test_a_whole_engine_is_adopted(tmp_path: Path, elsewhere: Path) -> None:
    """It is found and verified under its final name afterwards, and what was downloaded is gone."""
    manifest = adopt(tmp_path / "here", elsewhere, "vllm", DIGEST)
    assert manifest == find(tmp_path / "here", "vllm", DIGEST) == verify(tmp_path / "here" / NAME)
    assert not elsewhere.exists()
    assert build_once(tmp_path / "here", "vllm", DIGEST, lambda directory: pytest.fail("built again"))[1] is True


DAMAGES = {
    "a flipped byte": lambda e: (e / "model" / "deep" / "rank0.engine").write_bytes(b"Weights"),
    "a missing file": lambda e: (e / "model" / "config.json").unlink(),
    "a file too many": lambda e: (e / "model" / "extra.py").write_text("import os"),
    "a link too many": lambda e: (e / "model" / "link").symlink_to("/etc"),
    "a link instead of a file": lambda e: (
        (e / "model" / "config.json").unlink(),
        (e / "model" / "config.json").symlink_to("/etc/hostname"),
    ),
    "a link instead of a folder": lambda e: (
        shutil.move(e / "model", e.parent / "moved"),
        (e / "model").symlink_to(e.parent / "moved"),
    ),
    "no manifest": lambda e: (e / "manifest.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_download_never_becomes_an_engine(tmp_path: Path, elsewhere: Path, damage: str) -> None:
    """It is refused, nothing is left of it, and a build fills its place."""
    DAMAGES[damage](elsewhere)
    with pytest.raises(Corrupt):
        adopt(tmp_path / "here", elsewhere, "vllm", DIGEST)
    assert list((tmp_path / "here").glob("vllm*")) == []
    assert build_once(tmp_path / "here", "vllm", DIGEST, _make)[1] is False


@pytest.mark.parametrize(("kind", "digest"), [("vllm", "cd" * 32), ("llama_cpp", DIGEST), ("vllm", DIGEST[:16] + "0")])
def test_another_engine_than_the_one_asked_for_is_refused(
    tmp_path: Path, elsewhere: Path, kind: str, digest: str
) -> None:
    """A whole engine under a wrong name is as bad as a damaged one."""
    with pytest.raises(Corrupt, match="holds engine vllm"):
        adopt(tmp_path / "here", elsewhere, kind, digest)
    assert find(tmp_path / "here", kind, digest) is None


def test_one_that_is_there_stays(tmp_path: Path, elsewhere: Path) -> None:
    """The engine in place may be in service: it is not replaced, whatever was downloaded."""
    adopt(tmp_path / "here", elsewhere, "vllm", DIGEST)
    (tmp_path / "damaged").mkdir()
    assert adopt(tmp_path / "here", tmp_path / "damaged", "vllm", DIGEST)["digest"] == DIGEST


def test_an_engine_of_another_file_system_is_copied_and_checked(tmp_path: Path, elsewhere: Path) -> None:
    """Where a rename cannot do it the files are copied."""
    shared = Path("/dev/shm") / f"roundhouse-{tmp_path.name}-{os.getpid()}"
    try:
        shutil.copytree(elsewhere, shared)
        adopt(tmp_path / "here", shared, "vllm", DIGEST)
    finally:
        shutil.rmtree(shared, ignore_errors=True)
    assert verify(tmp_path / "here" / NAME)["note"] == "made"


def test_two_downloads_of_one_engine_wait_for_each_other(tmp_path: Path) -> None:
    """The second gets its folder when the first has ended, and it is empty."""
    second = threading.Event()

    def other() -> None:
        with incoming(tmp_path, "vllm", DIGEST) as folder:
            assert list(folder.iterdir()) == []
            second.set()

    with incoming(tmp_path, "vllm", DIGEST) as folder:
        (folder / "part").write_text("x")
        worker = threading.Thread(target=other)
        worker.start()
        assert not second.wait(0.2)
        sweep(tmp_path)
        assert (folder / "part").exists()
    worker.join(20)
    assert second.is_set() and leftovers(tmp_path) == []


def test_a_lookup_notes_that_the_engine_is_used(tmp_path: Path) -> None:
    """Each hit is a use; a mere look is none."""
    build_once(tmp_path, "vllm", DIGEST, _make)
    os.utime(tmp_path / NAME / "manifest.json", (1.0, 1.0))
    find(tmp_path, "vllm", DIGEST)
    assert used_at(tmp_path / NAME) == 1.0
    build_once(tmp_path, "vllm", DIGEST, _make)
    assert used_at(tmp_path / NAME) > 1.0


CHILDREN = {
    "build": """
def make(directory):
    (directory / "half").write_bytes(b"half")
    print("now", flush=True)
    time.sleep(60)
artifacts.build_once(root, "vllm", digest, make)""",
    "adopt": """
print("now", flush=True)
artifacts.adopt(root, source, "vllm", digest)""",
    "download": """
with artifacts.incoming(root, "vllm", digest) as aside:
    (aside / "half").write_bytes(b"half")
    print("now", flush=True)
    time.sleep(60)""",
    "remove": """
with artifacts.locked(root, name):
    print("now", flush=True)
    artifacts.remove(root, name)""",
}
LEFT = {"build": ".building", "adopt": ".building", "download": ".incoming", "remove": ".going"}


def _killed_in_the_middle(what: str, root: Path, source: Path) -> None:
    """Run it in a process of its own and kill that one when its half work can be seen."""
    head = "import sys, time; from pathlib import Path; from engines import artifacts\n"
    given = f"root, source, digest, name = Path({str(root)!r}), Path({str(source)!r}), {DIGEST!r}, {NAME!r}\n"
    process = subprocess.Popen(
        [sys.executable, "-c", head + given + CHILDREN[what]], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "now\n"
    until, half = time.monotonic() + 30, root / (NAME + LEFT[what])
    while not half.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    process.stdout.close()


def _large(directory: Path) -> dict[str, str]:
    """So many files and bytes that working on them takes longer than to see it begin."""
    for number in range(3000):
        (directory / f"{number}").write_bytes(b"x")
    with (directory / "sparse").open("wb") as file:
        file.truncate(400_000_000)
    return {}


@pytest.mark.parametrize("what", CHILDREN)
def test_a_kill_in_the_middle_leaves_no_half_engine(tmp_path: Path, what: str) -> None:
    """Under the final name there is nothing; the next process removes the rest and does it again."""
    root, source = tmp_path / "here", tmp_path / "other" / NAME
    root.mkdir()
    if what in ("adopt", "remove"):
        build_once(root if what == "remove" else tmp_path / "other", "vllm", DIGEST, _large)
    _killed_in_the_middle(what, root, source)
    assert [p.name for p in root.glob("vllm*")] == [NAME + LEFT[what]]
    assert find(root, "vllm", DIGEST) is None
    assert build_once(root, "vllm", DIGEST, _make)[1] is False
    sweep(root)
    assert [p.name for p in root.glob("vllm*")] == [NAME] and verify(root / NAME)["note"] == "made"
