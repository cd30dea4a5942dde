"""Who tells of a broken run, in a stack's folder, with a real MLflow server."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from mlflow import MlflowClient
from model_samples import tiny_gguf
from prefect.client.schemas.objects import FlowRun
from prefect.states import Failed
from running_mlflow import Server

from configs.order import order
from configs.stack import Stack, load_stack
from model_registry.port import open_registry
from rollout.nouns import Phase
from store.port import Release, ServiceState, open_store
from tasks.endings import end_broken_release, tell_of_lost
from tasks.reporting import note
from tasks.ticket import Ticket


@pytest.fixture
def stack(mlflow: Server, tmp_path: Path) -> Iterator[Stack]:
    """A stack whose MLflow is that server."""
    settings = tmp_path / "stack.yaml"
    settings.write_text(f"kind: stack\nports: {{mlflow: {urlsplit(mlflow.uri).port}}}\n")
    before = dict(os.environ)
    os.environ |= {"ROUNDHOUSE_HOME": str(tmp_path), "ROUNDHOUSE_STACK": str(settings)}
    yield load_stack()
    for name in ("ROUNDHOUSE_HOME", "ROUNDHOUSE_STACK"):
        os.environ.pop(name)
        os.environ.update({name: before[name]} if name in before else {})


def test_what_a_person_ended_is_written_back_once(stack: Stack, mlflow: Server, tmp_path: Path):
    """Tags on the model version and one run with the page, although the hook is called twice."""
    registry, store = open_registry(stack.registry()), open_store(stack.store())
    name, run = f"m-{uuid.uuid4().hex[:8]}", FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4())
    model = registry.register(name, str(tiny_gguf(tmp_path / "tiny" / "tiny.gguf").parent), "a test", print)
    store.put_service(ServiceState(name))
    begun = Release(f"{name}-1", name, model.uri, Phase.PENDING, flow_run=str(run.id))
    store.begin_release(begun, 1e9, 60.0)
    store.finish_release(begun.id, Phase.ROLLED_BACK, "too many complaints", 1e9 + 9, {})
    for _ in range(2):
        end_broken_release(None, run, Failed(message="release has ended; it may not move traffic"))
    tags = dict(registry.resolve(model.uri).tags)
    assert tags["roundhouse.verdict"] == "rolled back" and tags["roundhouse.reason"] == "too many complaints"
    client = MlflowClient(mlflow.uri)
    experiment = client.get_experiment_by_name(f"roundhouse/{name}")
    (logged,) = client.search_runs([experiment.experiment_id])
    assert logged.data.tags["roundhouse.verdict"] == "rolled back"
    assert {file.path for file in client.list_artifacts(logged.info.run_id)} >= {"release.json", "report"}
    assert "too many complaints" in (stack.home / "reports" / begun.id / "page.html").read_text()
    assert store.release(begun.id).evidence["outcome"] == "rolled back"


def test_what_ended_with_all_its_processes_is_told_of_by_the_next(stack: Stack, mlflow: Server, tmp_path: Path):
    """The agent has ended it, no hook was left: tags, page and one run that knows the policy, looked for twice."""
    registry, store = open_registry(stack.registry()), open_store(stack.store())
    name = f"m-{uuid.uuid4().hex[:8]}"
    model = registry.register(name, str(tiny_gguf(tmp_path / "tiny" / "tiny.gguf").parent), "a test", print)
    store.put_service(ServiceState(name))
    begun = store.begin_release(Release(f"{name}-1", name, model.uri, Phase.PENDING), 1e9, 60.0)
    note(replace(order("chat"), stack=stack, model=model.uri), Ticket(begun.id, name, None, os.getppid()))
    store.finish_release(begun.id, Phase.FAILED, "the agent was restarted", 1e9 + 9, {})
    for _ in range(2):
        tell_of_lost()
    assert dict(registry.resolve(model.uri).tags)["roundhouse.reason"] == "the agent was restarted"
    client = MlflowClient(mlflow.uri)
    experiment = client.get_experiment_by_name(f"roundhouse/{name}")
    (logged,) = client.search_runs([experiment.experiment_id])
    assert logged.data.params["policy"] == store.release(begun.id).evidence["policy"] == order("chat").policy_name
    assert "the agent was restarted" in (stack.home / "reports" / begun.id / "page.html").read_text()
