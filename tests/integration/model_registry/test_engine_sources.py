"""Where engines come from: several homes with one real MLflow server and one real DVC remote between them."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from history import ENGINE
from running_mlflow import Server
from tiny_models import write_tiny

from configs.engine_sources import make_engine, plan_engine
from configs.stack import EngineRemoteFile, Ports, Stack
from engines.artifacts import directory_name, verify
from engines.port import EngineSpec, Speculative
from engines.shelf import entries
from model_registry.port import open_registry
from rollout.errors import Refused
from rollout.nouns import Engine, ModelVersion, Phase
from store.port import Release, ServiceState, VersionState, open_store

SPEC = EngineSpec(context=128)


def quiet(what: str, share: float) -> None:
    """Nobody waits for it."""


class Homes:
    """Machines that share a registry. ``told`` is what the last build said."""

    def __init__(self, root: Path, mlflow_port: int) -> None:
        self.root, self.port, self.told = root, mlflow_port, list[str]()

    def stack(self, name: str, **settings: object) -> Stack:
        ports = Ports(mlflow=self.port)
        return Stack(project=self.root, home=self.root / name, ports=ports, **settings)

    def make(self, stack: Stack, model: ModelVersion, spec: EngineSpec = SPEC) -> Engine:
        self.told = []
        return make_engine(stack, spec, model, quiet, self.told.append)


@pytest.fixture
def homes(tmp_path: Path, mlflow: Server) -> Homes:
    return Homes(tmp_path, int(urlsplit(mlflow.uri).port or 0))


@pytest.fixture
def model(homes: Homes, request: pytest.FixtureRequest) -> ModelVersion:
    """A registered model that no other test has; its weights are too."""
    stack, name = homes.stack("registrar"), f"m-{abs(hash(request.node.name)) % 10**8}"
    folder = write_tiny(homes.root / "hf").folder
    (folder / "README.md").write_text(name)
    registry = open_registry(stack.registry())
    return registry.fetch(registry.register(name, str(folder), "a test", quiet).uri, quiet)


def _stored(mlflow: Server, digest: str) -> Path:
    """The newest copy of an engine's weights in the server's own store."""
    found = [p for p in mlflow.home.rglob("artifacts/engine/model.gguf") if digest in _manifest(p)]
    return max(found, key=lambda path: path.stat().st_mtime)


def _manifest(weights: Path) -> str:
    return (weights.parent / "manifest.json").read_text()


def flip(path: Path) -> None:
    """Change the last byte of a file in place."""
    content = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_built_on_one_machine_and_found_on_another_in_the_run(homes: Homes, model: ModelVersion) -> None:
    """The second builds nothing; the third time it is on its own disk."""
    built = homes.make(homes.stack("a"), model)
    assert built.cached is False and "built in" in homes.told[0]
    found = homes.make(homes.stack("b"), model)
    assert (found.cached, found.digest, found.size) == (True, built.digest, built.size)
    assert "the MLflow run that built it" in homes.told[0]
    assert verify(Path(found.directory)) == verify(Path(built.directory))
    homes.make(homes.stack("b"), model)
    assert homes.told == [f"engine {built.digest[:12]} found: this machine"]


def test_a_build_stands_on_the_model_version_with_its_log(homes: Homes, mlflow: Server, model: ModelVersion) -> None:
    """Seconds, bytes, fingerprint and the log's address; the log says what the build did."""
    stack = homes.stack("a")
    built = homes.make(stack, model)
    tags = dict(open_registry(stack.registry()).resolve(model.uri).tags)
    assert tags["roundhouse.build.digest"] == built.digest
    assert float(tags["roundhouse.build.seconds"]) >= 0 and int(tags["roundhouse.build.bytes"]) > built.size
    assert "xllamacpp" in tags["roundhouse.build.fingerprint"] and "xllamacpp" in tags["roundhouse.build.version"]
    assert tags["roundhouse.build.log"] in homes.told[-1]
    run_id = tags[f"roundhouse.engine.{built.digest[:16]}"]
    log = next(mlflow.home.rglob(f"{run_id}/artifacts/build.log")).read_text()
    assert "check digests" in log and "verify" in log


def test_a_bit_flipped_in_the_run_is_refused_and_the_engine_is_built_again(
    homes: Homes, mlflow: Server, model: ModelVersion
) -> None:
    """What was damaged never lies under an engine's name; the new build is what the next machine finds."""
    first = homes.make(homes.stack("a"), model)
    flip(_stored(mlflow, first.digest))
    second = homes.make(homes.stack("b"), model)
    assert second.cached is False and verify(Path(second.directory))["digest"] == first.digest
    assert "is not taken from the MLflow run" in homes.told[0] and "model.gguf has sha256" in homes.told[0]
    assert homes.make(homes.stack("c"), model).cached is True
    assert "the MLflow run that built it" in homes.told[0]


def test_an_engine_too_large_for_its_run_is_found_in_the_dvc_remote(homes: Homes, model: ModelVersion) -> None:
    """The run tells of it without its files; the remote has them, and says so on the model version."""
    settings = {"engine_upload_gb": 0.0, "engine_remote": EngineRemoteFile(url="shared")}
    built = homes.make(homes.stack("a", **settings), model)
    assert any("recorded only" in line for line in homes.told)
    tags = dict(open_registry(homes.stack("a").registry()).resolve(model.uri).tags)
    assert "md5:" in tags[f"roundhouse.engine.{built.digest[:16]}.dvc"]
    found = homes.make(homes.stack("b", **settings), model)
    assert found.cached is True and "the DVC remote" in homes.told[0]
    assert verify(Path(found.directory)) == verify(Path(built.directory))


def test_a_bit_flipped_in_the_dvc_remote_is_refused_and_put_right(homes: Homes, model: ModelVersion) -> None:
    """The machine that finds it builds the engine, and puts a whole one into the remote."""
    settings = {"engine_upload_gb": 0.0, "engine_remote": EngineRemoteFile(url="shared")}
    homes.make(homes.stack("a", **settings), model)
    flip(max((homes.root / "shared").rglob("files/md5/*/*"), key=lambda path: path.stat().st_size))
    assert homes.make(homes.stack("b", **settings), model).cached is False
    assert "is not taken from the DVC remote" in homes.told[0]
    assert homes.make(homes.stack("c", **settings), model).cached is True


@pytest.fixture
def silent() -> Callable[[], int]:
    """A port whose holder takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield lambda: int(server.getsockname()[1])


def test_a_registry_that_does_not_answer_fails_no_build(
    tmp_path: Path, model: ModelVersion, silent: Callable[[], int], free_port: int
) -> None:
    """Neither one that is stopped nor one that hangs; both are told of."""
    for name, port in (("stopped", free_port), ("hangs", silent())):
        homes = Homes(tmp_path, port)
        built = homes.make(homes.stack(name), model)
        assert built.cached is False and verify(Path(built.directory))["digest"] == built.digest
        assert "is not taken from the MLflow run" in homes.told[0] and "does not answer" in homes.told[0]
        assert any("the engine is built all the same" in line for line in homes.told)


def test_a_remote_that_cannot_be_used_fails_no_build(homes: Homes, model: ModelVersion) -> None:
    """It is told of, and the run has the engine."""
    settings = {"engine_remote": EngineRemoteFile(url="/proc/none")}
    assert homes.make(homes.stack("a", **settings), model).cached is False
    assert any("the DVC remote failed" in line for line in homes.told)
    assert homes.make(homes.stack("b", **settings), model).cached is True


def test_a_draft_model_is_fetched_and_is_part_of_the_engine(homes: Homes, model: ModelVersion) -> None:
    """The draft is named by its address; another draft, or none, is another engine."""
    drafting = replace(SPEC, speculative=Speculative(method="draft", draft_model=model.uri))
    stack = homes.stack("a")
    plain, with_draft = (plan_engine(stack, spec, model, quiet) for spec in (SPEC, drafting))
    assert with_draft.draft is not None and with_draft.draft.digest == model.digest
    assert plain.draft is None and plain.digest != with_draft.digest
    assert (Path(homes.make(stack, model, drafting).directory) / "draft.gguf").exists()


def test_a_refused_plan_writes_nothing(homes: Homes, model: ModelVersion) -> None:
    """It is refused before any place is asked."""
    stack = homes.stack("a")
    with pytest.raises(Refused):
        homes.make(stack, model, replace(SPEC, quantization="nonsense"))
    assert entries(Path(stack.engines().directory)) == [] and homes.told == []


def test_the_size_bound_holds_after_each_build(homes: Homes, model: ModelVersion) -> None:
    """Beyond it the engine used longest ago goes; the one in service and the one just built stay."""
    stack = homes.stack("a", engine_cache_gb=0.0)
    root = Path(stack.engines().directory)
    built = [homes.make(stack, model, replace(SPEC, quantization=q)) for q in ("Q8_0", "Q4_0")]
    assert len(entries(root)) == 2  # used within the last minutes
    store = open_store(stack.store())
    store.put_service(ServiceState("chat"))
    release = store.begin_release(Release("r", "chat", model.uri, Phase.PENDING), 1.0, 60.0)
    engine = asdict(replace(ENGINE, digest=built[0].digest, directory=built[0].directory))
    store.add_version(VersionState("chat", 0, model.uri, engine, asdict(SPEC), 1), release.id)
    for entry in entries(root):
        _age(Path(entry.directory))
    third = homes.make(stack, model, replace(SPEC, quantization="F16"))
    names = {directory_name("llama_cpp", engine.digest) for engine in (built[0], third)}
    assert {entry.name for entry in entries(root)} == names
    assert any(directory_name("llama_cpp", built[1].digest) in line and "removed" in line for line in homes.told)


def _age(directory: Path) -> None:
    import os

    os.utime(directory / "manifest.json", (1.0, 1.0))
