"""Built engines in MLflow: a run for each build, with its numbers, its log and, unless too large, its files.

A run keeps an engine when it has the tag ``roundhouse.engine.files``, which is written last.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from model_registry.engine_record import (
    ENGINE,
    FILES,
    FOLDER,
    LIST,
    LOG,
    list_text,
    read_list,
    run_tags,
    sha256_of_text,
)
from model_registry.files import check
from model_registry.mlflow_runs import experiment_of
from model_registry.port import EngineBuild, EngineRun, Progress
from rollout.errors import Corrupt, NotFound
from rollout.nouns import ModelFile

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EXPERIMENT = "roundhouse/engines"


def open_run(client: MlflowClient, uri: str, build: EngineBuild) -> EngineRun:
    """A finished run with tags, parameters, metrics and log of a build."""
    from mlflow.entities import Metric, Param

    experiment, now = experiment_of(client, EXPERIMENT), int(time.time() * 1000)
    name = f"{build.kind}-{build.digest[:16]}"
    run_id = client.create_run(experiment, run_name=name, tags=run_tags(build)).info.run_id
    numbers = {"build_seconds": build.seconds, "engine_bytes": float(build.size), "engine_files": len(build.files)}
    facts = {"model": build.model_uri, "kind": build.kind, "digest": build.digest, **build.built_with}
    client.log_batch(
        run_id,
        metrics=[Metric(key, value, now, 0) for key, value in numbers.items()],
        params=[Param(key, str(value)) for key, value in facts.items()],
    )
    client.log_text(run_id, build.log or "the build said nothing\n", LOG)
    client.set_terminated(run_id)
    return _named(uri, experiment, run_id)


def send(client: MlflowClient, run_id: str, build: EngineBuild, progress: Progress) -> None:
    """Files first, then their list, then the tag that says that all are there."""
    sent, text = 0, list_text(build.files)
    for file in build.files:
        progress(f"sending {file.path}", sent / (build.size or 1))
        folder = Path(FOLDER, file.path).parent.as_posix()
        client.log_artifact(run_id, str(Path(build.directory) / file.path), folder)
        sent += file.size
    client.log_text(run_id, text, LIST)
    client.set_tag(run_id, FILES, sha256_of_text(text))
    progress("sent", 1.0)


def newest(client: MlflowClient, digest: str) -> Run:
    """The newest run that keeps the engine. Raises NotFound."""
    from mlflow.entities import ViewType

    experiment = client.get_experiment_by_name(EXPERIMENT)
    asked = f"tags.`{ENGINE}` = '{digest}' and tags.`{FILES}` != ''"
    order = ["attributes.start_time DESC"]
    ids = [experiment.experiment_id] if experiment else []
    found = client.search_runs(ids, asked, ViewType.ACTIVE_ONLY, 1, order) if ids else []
    if not found:
        raise NotFound(f"no run keeps engine {digest[:16]}")
    return found[0]


def receive(client: MlflowClient, uri: str, run: Run, into: Path, progress: Progress) -> EngineRun:
    """The engine's files of a run, compared with the list that was recorded. Raises Corrupt, NotFound."""
    run_id, subject = run.info.run_id, f"engine {run.data.tags[ENGINE][:16]} in run {run.info.run_id}"
    with tempfile.TemporaryDirectory(prefix="roundhouse-") as aside:
        text = _download(client, run_id, LIST, Path(aside)).read_text(encoding="utf-8")
    files = read_list(text, run.data.tags[FILES], subject)
    total, got = sum(file.size for file in files) or 1, 0
    for file in files:
        progress(f"fetching {file.path}", got / total)
        _download(client, run_id, f"{FOLDER}/{file.path}", (into / file.path).parent)
        got += file.size
    _compare(into, files, subject, progress)
    return _named(uri, run.info.experiment_id, run_id)


def fail_run(client: MlflowClient, run_id: str) -> None:
    """Mark a run whose upload broke, as far as the server still answers."""
    with contextlib.suppress(Exception):
        client.set_terminated(run_id, "FAILED")


def _compare(into: Path, files: tuple[ModelFile, ...], subject: str, progress: Progress) -> None:
    try:
        check(into, files, progress)
    except Corrupt as wrong:
        raise Corrupt(f"{subject}: {wrong}") from wrong


def _download(client: MlflowClient, run_id: str, path: str, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return Path(client.download_artifacts(run_id, path, str(folder)))


def _named(uri: str, experiment: str, run_id: str) -> EngineRun:
    return EngineRun(run_id, f"{uri}/#/experiments/{experiment}/runs/{run_id}/artifacts/{LOG}")
