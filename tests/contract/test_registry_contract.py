"""The rules of ``model_registry.port``, for the registry in memory and for a real MLflow server alike."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from model_samples import tiny_folder, tiny_gguf
from running_mlflow import Server, running_mlflow

from model_registry.files import hash_files, list_files
from model_registry.port import (
    EVALUATION,
    EngineBuild,
    EngineRun,
    MemorySettings,
    MlflowSettings,
    ModelRegistry,
    Registered,
    ReleaseRun,
    open_registry,
)
from rollout.errors import Corrupt, NotFound, Refused


@dataclass
class Subject:
    """A registry, a model name that is new to it, and a hand that changes a stored file behind its back."""

    registry: ModelRegistry
    name: str
    tamper: Callable[[Registered], None]
    stored: Callable[[EngineRun, str], Path]  # where a file of an engine is kept

    def register(self, folder: Path) -> Registered:
        return self.registry.register(self.name, str(folder), "a test", quiet)


def quiet(what: str, share: float) -> None:
    """Nobody waits for it."""


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("mlflow")
    with running_mlflow(home) as server:
        yield server


@pytest.fixture(params=["memory", pytest.param("mlflow", marks=pytest.mark.integration)])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Subject:
    name, folder = f"m-{uuid.uuid4().hex[:8]}", tmp_path / "tiny"
    if request.param == "memory":
        registry = open_registry(MemorySettings(str(tmp_path)))
        return Subject(
            registry,
            name,
            lambda made: flip(folder / "tiny.gguf"),
            lambda run, path: tmp_path / "builds" / run.id / "engine" / path,
        )
    server: Server = request.getfixturevalue("mlflow")
    registry = open_registry(MlflowSettings(server.uri, str(tmp_path / "cache")))
    return Subject(
        registry,
        name,
        lambda made: flip(next(server.home.rglob(f"{made.run_id}/**/tiny.gguf"))),
        lambda run, path: next(server.home.rglob(f"{run.id}/artifacts/engine")) / path,
    )


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return tiny_gguf(tmp_path / "tiny" / "tiny.gguf").parent


def flip(path: Path) -> None:
    """Change the last byte of a file in place."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_versions_are_numbered_and_listed_newest_first(subject: Subject, tiny: Path) -> None:
    """The first version is 1, the next 2, and the list begins with the newest."""
    numbers = [subject.register(tiny).version for _ in range(2)]
    assert numbers == ["1", "2"]
    assert [v.version for v in subject.registry.versions(subject.name)] == ["2", "1"]


def test_a_version_tells_what_it_is(subject: Subject, tiny: Path) -> None:
    """Format, architecture, parameters, size and digest are known without its files."""
    made = subject.register(tiny)
    found = subject.registry.resolve(f"models:/{subject.name}/1")
    assert found == made
    assert (found.format, found.architecture, found.parameters) == ("gguf", "llama", 128)
    assert found.size == (tiny / "tiny.gguf").stat().st_size
    assert len(found.digest) == 64


def test_the_same_files_have_the_same_digest(subject: Subject, tiny: Path) -> None:
    """A version's digest depends on its files alone."""
    assert subject.register(tiny).digest == subject.register(tiny).digest


def test_fetch_gives_the_files(subject: Subject, tmp_path: Path) -> None:
    """Every file of a folder, those in folders below it too, comes back byte for byte."""
    folder = tiny_folder(tmp_path / "hf", shards=2)
    (folder / "extra").mkdir()
    (folder / "extra" / "notes.txt").write_text("kept")
    subject.register(folder)
    got = subject.registry.fetch(f"models:/{subject.name}/1", quiet)
    assert {f.path for f in got.files} == {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    for file in got.files:
        assert (Path(got.directory) / file.path).read_bytes() == (folder / file.path).read_bytes()
    assert (got.format, got.architecture, got.parameters) == ("safetensors", "qwen2", 64)


def test_an_alias_is_resolved_to_the_version_it_names_now(subject: Subject, tiny: Path) -> None:
    """Moving an alias changes what it resolves to; the answer names the version and never the alias."""
    subject.register(tiny)
    subject.register(tiny)
    for version in ("1", "2"):
        subject.registry.set_alias(subject.name, "champion", version)
        got = subject.registry.fetch(f"models:/{subject.name}@champion", quiet)
        assert got.uri == f"models:/{subject.name}/{version}"
    assert [v.aliases for v in subject.registry.versions(subject.name)] == [("champion",), ()]


def test_tags_are_read_back(subject: Subject, tiny: Path) -> None:
    """A tag that was written is on the version, beside where it came from."""
    subject.register(tiny)
    subject.registry.tag(subject.name, "1", {"rejected": "p99 2.4 s > 1.8 s"})
    tags = dict(subject.registry.resolve(f"models:/{subject.name}/1").tags)
    assert tags == {"rejected": "p99 2.4 s > 1.8 s", "roundhouse.source": "a test"}


def test_a_version_names_its_evaluation_set_or_the_model_does_for_all(subject: Subject, tiny: Path) -> None:
    """The version's own tag counts before the model's, which holds for versions that come later too."""
    name, registry = subject.name, subject.registry
    assert subject.register(tiny).evaluation == ""
    registry.tag(name, "", {EVALUATION: "dvc:all.jsonl@v1"})
    registry.tag(name, "1", {EVALUATION: "dvc:own.jsonl@v2"})
    later = subject.register(tiny)
    assert [v.evaluation for v in registry.versions(name)] == ["dvc:all.jsonl@v1", "dvc:own.jsonl@v2"]
    assert registry.resolve(f"models:/{name}/1").evaluation == "dvc:own.jsonl@v2"
    assert registry.resolve(f"models:/{name}/2") == later and later.evaluation == "dvc:all.jsonl@v1"
    with pytest.raises(NotFound):
        registry.tag("no-such-model", "", {EVALUATION: "x"})


def test_what_is_not_there_is_not_found(subject: Subject, tiny: Path) -> None:
    """An unknown model, version or alias is an error of its own, in every verb."""
    subject.register(tiny)
    name, registry = subject.name, subject.registry
    for asked in (f"models:/{name}/9", f"models:/{name}@nobody", "models:/no-such-model/1", "models:/no-such-model@x"):
        with pytest.raises(NotFound):
            registry.resolve(asked)
        with pytest.raises(NotFound):
            registry.fetch(asked, quiet)
    with pytest.raises(NotFound):
        registry.versions("no-such-model")
    with pytest.raises(NotFound):
        registry.set_alias(name, "champion", "9")
    with pytest.raises(NotFound):
        registry.tag(name, "9", {"a": "b"})


def test_what_is_no_model_leaves_nothing(subject: Subject, tmp_path: Path) -> None:
    """A folder without a model is refused before the registry changes."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refused, match=r"no \.gguf"):
        subject.register(tmp_path / "empty")
    with pytest.raises(NotFound):
        subject.registry.versions(subject.name)


@pytest.mark.parametrize("name", ["", "a/b", "a b", "@x", "-x"])
def test_a_name_that_no_uri_can_hold_is_refused(subject: Subject, tiny: Path, name: str) -> None:
    """A model's name must fit into its address."""
    with pytest.raises(Refused, match="name"):
        subject.registry.register(name, str(tiny), "a test", quiet)


@pytest.mark.parametrize("alias", ["latest", "v3", "a b", ""])
def test_an_alias_that_mlflow_reserves_is_refused(subject: Subject, tiny: Path, alias: str) -> None:
    """latest, v<number> and what cannot stand in an address are no aliases."""
    subject.register(tiny)
    with pytest.raises(Refused, match="alias"):
        subject.registry.set_alias(subject.name, alias, "1")


@pytest.mark.parametrize("uri", ["smollm2", "models:/x", "models:/x/one", "models:/x/1/2", "models:/x@a@b", "s3://x"])
def test_what_is_no_address_is_refused(subject: Subject, uri: str) -> None:
    """An address that cannot name a version is told apart from one that names none."""
    with pytest.raises(Refused, match="models:/NAME"):
        subject.registry.resolve(uri)


def test_a_changed_file_is_refused(subject: Subject, tiny: Path) -> None:
    """A file whose digest is not the recorded one is not handed out, and the message names it."""
    made = subject.register(tiny)
    subject.tamper(made)
    with pytest.raises(Corrupt, match="has sha256"):
        subject.registry.fetch(made.uri, quiet)


def test_a_release_is_written_down(subject: Subject, tmp_path: Path) -> None:
    """What a release did gets an address of its own."""
    (tmp_path / "plot.txt").write_text("o")
    files = {"plots": str(tmp_path / "plot.txt")}
    run = ReleaseRun("r1", {"a": 1}, (("share", 0, 50.0),), {"verdict.md": "# ok"}, files, {"k": "v"}, "chat")
    assert subject.registry.log_release(run) != subject.registry.log_release(run)


def _engine(folder: Path, model_uri: str = "models:/none/1", content: bytes = b"weights") -> EngineBuild:
    """A built engine with a folder in it, of a digest that nobody had before."""
    (folder / "model" / "deep").mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    (folder / "model" / "deep" / "weights").write_bytes(content)
    files = hash_files(folder, list_files(folder), quiet)
    digest = uuid.uuid4().hex * 2
    return EngineBuild(
        model_uri, "llama_cpp", digest, str(folder), files, 12.34, {"engine": "x 1"}, "x 1", "quantise\n"
    )


def test_an_engine_comes_back_from_the_run_that_built_it(subject: Subject, tmp_path: Path) -> None:
    """Every file, those in folders too, byte for byte, by the engine's digest alone."""
    build = _engine(tmp_path / "e", "hf:somebody/model")
    run = subject.registry.record_build(build)
    subject.registry.put_engine(run, build, quiet)
    assert subject.registry.get_engine(build.digest, str(tmp_path / "got" / "engine"), quiet) == run
    assert list_files(tmp_path / "got" / "engine") == ["manifest.json", "model/deep/weights"]
    assert (tmp_path / "got" / "engine" / "model" / "deep" / "weights").read_bytes() == b"weights"


def test_an_engine_that_no_run_keeps_is_not_found(subject: Subject, tmp_path: Path) -> None:
    """Neither one that was never built, nor one whose build was recorded and whose files were not sent."""
    build = _engine(tmp_path / "e", "dvc:models/m")
    for _ in range(2):
        with pytest.raises(NotFound, match=build.digest[:16]):
            subject.registry.get_engine(build.digest, str(tmp_path / "got" / "engine"), quiet)
        subject.registry.record_build(build)


def test_the_newest_of_two_builds_is_handed_out(subject: Subject, tmp_path: Path) -> None:
    """A build that was made because the one before was damaged takes its place."""
    first, second = _engine(tmp_path / "1"), _engine(tmp_path / "2", content=b"better!")
    runs = []
    for build in (first, replace(second, digest=first.digest)):
        build = replace(build, model_uri="sample")
        runs.append(subject.registry.record_build(build))
        subject.registry.put_engine(runs[-1], build, quiet)
    assert subject.registry.get_engine(first.digest, str(tmp_path / "got" / "engine"), quiet) == runs[1]
    assert (tmp_path / "got" / "engine" / "model" / "deep" / "weights").read_bytes() == b"better!"


def test_a_damaged_engine_is_refused(subject: Subject, tmp_path: Path) -> None:
    """A bit that was flipped in the store is named; a file that is missing there is."""
    build = _engine(tmp_path / "e", "sample")
    run = subject.registry.record_build(build)
    subject.registry.put_engine(run, build, quiet)
    flip(subject.stored(run, "model/deep/weights"))
    with pytest.raises(Corrupt, match=r"model/deep/weights has sha256"):
        subject.registry.get_engine(build.digest, str(tmp_path / "got" / "engine"), quiet)
    subject.stored(run, "model/deep/weights").unlink()
    with pytest.raises(Corrupt, match=build.digest[:16]):
        subject.registry.get_engine(build.digest, str(tmp_path / "again" / "engine"), quiet)


def test_a_build_is_told_on_the_model_version(subject: Subject, tiny: Path, tmp_path: Path) -> None:
    """Seconds, bytes, digest, fingerprint, version and the address of the log stand on the version as tags."""
    made = subject.register(tiny)
    build = replace(_engine(tmp_path / "e", made.uri), pointer="outs: []")
    run = subject.registry.record_build(build)
    tags = dict(subject.registry.resolve(made.uri).tags)
    short = f"roundhouse.engine.{build.digest[:16]}"
    assert (tags["roundhouse.build.seconds"], tags["roundhouse.build.bytes"]) == ("12.3", "9")
    assert (tags["roundhouse.build.digest"], tags["roundhouse.build.version"]) == (build.digest, "x 1")
    assert tags["roundhouse.build.fingerprint"] == '{"engine": "x 1"}'
    assert tags["roundhouse.build.log"] == run.address
    assert (tags[short], tags[f"{short}.dvc"]) == (run.id, "outs: []")


def test_a_build_of_a_model_that_is_gone_is_not_found(subject: Subject, tmp_path: Path) -> None:
    """Its record names a version that must exist."""
    with pytest.raises(NotFound):
        subject.registry.record_build(_engine(tmp_path / "e", f"models:/{subject.name}/7"))
