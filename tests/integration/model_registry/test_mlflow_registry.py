"""MLflow's registry beyond the contract: what is kept, what is refused, what a failure leaves, what a release logs."""

from __future__ import annotations

import os
import signal
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from model_samples import tiny_gguf
from running_mlflow import Server

from model_registry.mlflow_registry import MlflowRegistry
from model_registry.port import MlflowSettings, Registered, ReleaseRun
from rollout.errors import Corrupt, NotFound, Refused, Unavailable


def quiet(what: str, share: float) -> None:
    """Nobody waits for it."""


@pytest.fixture
def registry(mlflow: Server, tmp_path: Path) -> MlflowRegistry:
    return MlflowRegistry(MlflowSettings(mlflow.uri, str(tmp_path / "cache")))


@pytest.fixture
def made(registry: MlflowRegistry, tmp_path: Path) -> Registered:
    folder = tiny_gguf(tmp_path / "tiny" / "tiny.gguf").parent
    return registry.register(f"m-{uuid.uuid4().hex[:8]}", str(folder), "a test", quiet)


def stored(mlflow: Server, made: Registered) -> Path:
    """Where the server keeps the file of a version."""
    return next(mlflow.home.rglob(f"{made.run_id}/**/tiny.gguf"))


def test_the_server_is_one_process_of_modest_size(mlflow: Server, registry: MlflowRegistry, made: Registered) -> None:
    """After work it takes less than 400 MiB, in one process, so that the stack fits into 1 GiB."""
    process = psutil.Process(mlflow.pid)
    assert process.children(recursive=True) == []
    assert process.memory_full_info().pss < 400 * 2**20


def test_the_sample_goes_in_and_comes_out(registry: MlflowRegistry, sample_gguf: Path) -> None:
    """A real model is registered and fetched, and the facts about it are right."""
    made = registry.register(f"smollm2-{uuid.uuid4().hex[:6]}", str(sample_gguf.parent), "sample", quiet)
    got = registry.fetch(made.uri, quiet)
    assert (got.architecture, got.parameters, got.format) == ("llama", 134_515_008, "gguf")
    assert got.files[0].sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert got.lineage == {"source": "sample", "run_id": str(made.run_id)}


def test_what_was_fetched_is_looked_up(mlflow: Server, registry: MlflowRegistry, made: Registered) -> None:
    """The second fetch needs no file of the server any more."""
    first = registry.fetch(made.uri, quiet)
    stored(mlflow, made).unlink()
    assert registry.fetch(made.uri, quiet) == first


def test_eight_fetches_at_once_get_it_once(registry: MlflowRegistry, made: Registered) -> None:
    """Those who ask for the same version at the same time get the same folder, and one of them fetches it."""
    told: list[str] = []
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda n: registry.fetch(made.uri, lambda what, share: told.append(what)), range(8)))
    assert len({g.directory for g in got}) == 1
    assert told.count("fetching tiny.gguf") == 1


def test_a_file_changed_on_the_server_leaves_nothing_here(
    mlflow: Server, registry: MlflowRegistry, made: Registered
) -> None:
    """A file that is not what the record says is refused by name, and the cache stays empty."""
    file = stored(mlflow, made)
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(Corrupt, match=rf"{made.uri}: tiny\.gguf has sha256"):
        registry.fetch(made.uri, quiet)
    assert [p for p in registry.cache.rglob("*") if p.is_file() and p.suffix != ".lock"] == []


def test_a_file_gone_from_the_server_is_corrupt(mlflow: Server, registry: MlflowRegistry, made: Registered) -> None:
    """A file that the record names and the server lost is told as such."""
    stored(mlflow, made).unlink()
    with pytest.raises(Corrupt, match="no longer in the registry"):
        registry.fetch(made.uri, quiet)


def test_a_full_check_finds_what_a_stamp_cannot(registry: MlflowRegistry, made: Registered) -> None:
    """A kept file changed with its size and time restored is found when every byte is hashed, and is got anew."""
    file = Path(registry.fetch(made.uri, quiet).directory) / "tiny.gguf"
    whole, seen = file.read_bytes(), file.stat()
    file.write_bytes(whole[:-1] + b"!")
    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    with pytest.raises(Corrupt, match="has sha256"):
        registry.fetch(made.uri, quiet, full=True)
    registry.fetch(made.uri, quiet)
    assert file.read_bytes() == whole


def test_a_version_that_others_registered_is_refused(registry: MlflowRegistry, made: Registered) -> None:
    """A version without our record is listed, and not fetched, for nothing says what its files should be."""
    source = f"runs:/{made.run_id}/model"
    registry.client.create_model_version(made.name, source, run_id=made.run_id, await_creation_for=0)
    assert registry.resolve(f"models:/{made.name}/2").digest == ""
    with pytest.raises(Refused, match="without the digests"):
        registry.fetch(f"models:/{made.name}/2", quiet)


def test_a_failed_upload_leaves_no_version(mlflow: Server, registry: MlflowRegistry, made: Registered) -> None:
    """When the server cannot keep the files, no model, no version and no live run is left."""
    name, folder = f"m-{uuid.uuid4().hex[:8]}", stored(mlflow, made).parents[3]
    aside = folder.rename(folder.with_name("aside"))
    folder.write_text("a file where a folder was")
    try:
        with pytest.raises(Unavailable):
            registry.register(name, str(registry.cache.parent / "tiny"), "a test", quiet)
    finally:
        folder.unlink()
        aside.rename(folder)
    with pytest.raises(NotFound):
        registry.versions(name)
    experiment = registry.client.get_run(str(made.run_id)).info.experiment_id
    assert name not in [r.info.run_name for r in registry.client.search_runs([experiment])]


def test_a_failed_version_leaves_no_files(mlflow: Server, registry: MlflowRegistry, made: Registered) -> None:
    """When only the last step fails (MLflow refuses the record), the uploaded files go again."""
    folder = registry.cache.parent / "tiny"
    before, told = len(list(mlflow.home.rglob("tiny.gguf"))), []
    with pytest.raises(Refused):
        registry.register(f"{made.name}-x", str(folder), "s" * 200_000, lambda what, share: told.append(what))
    assert told[-1] == "sent"
    assert len(list(mlflow.home.rglob("tiny.gguf"))) == before
    with pytest.raises(NotFound):
        registry.versions(f"{made.name}-x")


def test_a_release_is_logged_in_the_experiment_of_its_service(registry: MlflowRegistry, tmp_path: Path) -> None:
    """Parameters, more metrics than one call takes, texts, files and tags can all be read back."""
    service = f"chat-{uuid.uuid4().hex[:6]}"
    (tmp_path / "plot.svg").write_text("<svg/>")
    metrics = tuple(("share", step, float(step)) for step in range(1500))
    params = {f"p{n}": n for n in range(150)}
    files = {"plots": str(tmp_path / "plot.svg")}
    url = registry.log_release(ReleaseRun("r1", params, metrics, {"verdict.md": "# ok"}, files, {"k": "v"}, service))
    client, run_id = registry.client, url.rsplit("/", 1)[1]
    run = client.get_run(run_id)
    assert client.get_experiment(run.info.experiment_id).name == f"roundhouse/{service}"
    assert (run.info.status, len(run.data.params), run.data.tags["k"]) == ("FINISHED", 150, "v")
    assert len(client.get_metric_history(run_id, "share")) == 1500
    assert {f.path for f in client.list_artifacts(run_id)} == {"verdict.md", "plots"}


def test_a_release_that_cannot_be_logged_is_marked(registry: MlflowRegistry) -> None:
    """A run whose file is missing stays, as FAILED, and the error is raised."""
    service = f"chat-{uuid.uuid4().hex[:6]}"
    with pytest.raises(FileNotFoundError):
        registry.log_release(ReleaseRun("r1", {}, (), {}, {"plots": "/nowhere/plot.svg"}, {}, service))
    experiment = registry.client.get_experiment_by_name(f"roundhouse/{service}").experiment_id
    assert [r.info.status for r in registry.client.search_runs([experiment])] == ["FAILED"]


def test_nobody_at_the_address_is_unavailable(tmp_path: Path, free_port: int) -> None:
    """Without a server each verb says so, and says how to start one."""
    registry = MlflowRegistry(MlflowSettings(f"http://127.0.0.1:{free_port}", str(tmp_path)))
    with pytest.raises(Unavailable, match="roundhouse up"):
        registry.resolve("models:/m/1")


def test_a_server_that_hangs_is_unavailable(mlflow: Server, registry: MlflowRegistry, made: Registered) -> None:
    """A stopped process still accepts connections; the answer that does not come is not waited for long."""
    os.kill(mlflow.pid, signal.SIGSTOP)
    began = time.monotonic()
    try:
        with pytest.raises(Unavailable, match="does not answer"):
            registry.resolve(made.uri)
        waited = time.monotonic() - began
    finally:
        os.kill(mlflow.pid, signal.SIGCONT)
    assert waited < 30, "MLflow's own client would have waited for four minutes"
