"""A release as an MLflow run: few calls, each with as much as MLflow takes at once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from model_registry.port import ReleaseRun

if TYPE_CHECKING:
    from mlflow import MlflowClient

METRICS_PER_CALL = 1000  # MLflow's limit
PARAMS_PER_CALL = 100  # MLflow's limit, and that of tags


def log_run(client: MlflowClient, run: ReleaseRun) -> str:
    """Write ``run`` into the experiment ``roundhouse/<service>``; returns ``experiments/<id>/runs/<id>``.

    When a part cannot be written the run stays, marked FAILED, with what was.
    """
    experiment = experiment_of(client, f"roundhouse/{run.service}" if run.service else "roundhouse")
    run_id = client.create_run(experiment, run_name=run.name).info.run_id
    try:
        _log_values(client, run_id, run)
        for path, text in run.texts.items():
            client.log_text(run_id, text, path)
        for folder, file in run.files.items():
            client.log_artifact(run_id, file, folder or None)
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id)
    return f"experiments/{experiment}/runs/{run_id}"


def _log_values(client: MlflowClient, run_id: str, run: ReleaseRun) -> None:
    from mlflow.entities import Metric, Param, RunTag

    now = int(time.time() * 1000)
    metrics = [Metric(name, float(value), now, step) for name, step, value in run.metrics]
    params = [Param(name, str(value)) for name, value in run.params.items()]
    tags = [RunTag(name, value) for name, value in run.tags.items()]
    for part in _parts(params, PARAMS_PER_CALL):
        client.log_batch(run_id, params=part)
    for part in _parts(tags, PARAMS_PER_CALL):
        client.log_batch(run_id, tags=part)
    for part in _parts(metrics, METRICS_PER_CALL):
        client.log_batch(run_id, metrics=part)


def _parts(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (values[at : at + size] for at in range(0, len(values), size))


def experiment_of(client: MlflowClient, name: str) -> str:
    """The experiment's id, made when it is not there; of two who make it at once, the second finds it."""
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_experiment_by_name(name)
        return found.experiment_id if found else client.create_experiment(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return client.get_experiment_by_name(name).experiment_id
