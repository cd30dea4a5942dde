"""A release whose run broke, or which somebody else ended, is told of: evidence, page, tags and MLflow run, once."""

from __future__ import annotations

import json
import os
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from model_samples import tiny_gguf
from prefect.client.schemas.objects import FlowRun
from prefect.states import Failed

sys.path.insert(0, str(Path(__file__).parents[1] / "reports"))
from past_release import past_release

from configs.stack import Stack
from model_registry.memory import MemoryRegistry
from model_registry.port import MemorySettings
from rollout.nouns import Phase
from store.port import Release, ServiceState, Store, StoreSettings, VersionState, open_store
from store.steer import end_release
from tasks.aftermath import tags_of, tell_of_broken
from tasks.endings import end_broken_release, ended_release

RUN = "6f1d"


@dataclass
class House:
    """A stack's folder with a store, a registry with one model version, and a release of it under way."""

    stack: Stack
    store: Store
    registry: MemoryRegistry
    uri: str

    def tell(self) -> Release:
        """What the hook does, in this house."""
        release = ended_release(self.store, RUN, "the run ended as Failed: a step broke")
        tell_of_broken(self.stack, self.store, self.registry, release)
        return self.store.release(release.id)


@pytest.fixture
def house(tmp_path) -> House:
    """The release has a candidate and runs."""
    registry = MemoryRegistry(MemorySettings(str(tmp_path / "cache")))
    folder = tiny_gguf(tmp_path / "tiny" / "tiny.gguf").parent
    uri = registry.register("m", str(folder), "a test", lambda what, share: None).uri
    store = open_store(StoreSettings("sqlite://"))
    store.put_service(ServiceState("chat"))
    store.begin_release(Release("chat-1", "chat", "models:/m@candidate", Phase.PENDING, flow_run=RUN), 1e9, 60.0)
    engine = {"digest": "d" * 64, "cached": True}
    store.add_version(VersionState("chat", 0, uri, engine, {}, 1), "chat-1")
    return House(Stack(project=tmp_path, home=tmp_path), store, registry, uri)


def page_of(house: House) -> str:
    return (house.stack.home / "reports" / "chat-1" / "page.html").read_text()


@pytest.mark.parametrize(
    ("phase", "reason"), [(Phase.ROLLED_BACK, "asked for by hand"), (Phase.FAILED, "the agent was restarted")]
)
def test_a_release_that_somebody_else_ended_is_told_of(house, phase, reason):
    """As it was ended, and not as the run that died of it says."""
    house.store.finish_release("chat-1", phase, reason, 1e9 + 9, {})
    told = house.tell()
    assert (told.phase, told.reason) == (phase, reason)
    assert told.evidence["outcome"] == str(phase) and told.evidence["engine"]["digest"] == "d" * 64
    assert reason in page_of(house)
    tags = dict(house.registry.resolve(house.uri).tags)
    assert tags | tags_of(str(phase), reason, "chat-1") == tags
    run = house.registry.kept.runs[0]
    assert run.name == "chat-1" and run.tags["roundhouse.verdict"] == str(phase) and run.params["model"] == house.uri
    assert json.loads(run.texts["release.json"])["reason"] == reason and run.files


def test_a_release_under_way_is_ended_and_told_of_with_what_its_files_hold(house):
    """Its last look's findings are evidence, and its looks the run's metrics."""
    folder = house.stack.home / "reports" / "chat-1"
    folder.mkdir(parents=True)
    past_release(folder, 1.3)
    told = house.tell()
    assert told.phase is Phase.FAILED and told.reason == "the run ended as Failed: a step broke"
    assert {f["metric"] for f in told.evidence["findings"]} >= {"TTFT", "errors"}
    assert "<svg" in page_of(house) and "Failed: version 1 of chat" in page_of(house)
    metrics = {name for name, _, _ in house.registry.kept.runs[0].metrics}
    assert {"canary_percent", "ttft_effect", "errors_harm_e"} <= metrics


def test_what_was_told_is_not_told_again(house):
    """By the release's own run, or by the hook in another process."""
    house.tell()
    model = house.registry.resolve(house.uri)
    house.registry.tag(model.name, model.version, {"roundhouse.reason": "as it was written first"})
    house.tell()
    assert len(house.registry.kept.runs) == 1
    assert dict(house.registry.resolve(house.uri).tags)["roundhouse.reason"] == "as it was written first"


def test_a_part_that_cannot_be_told_leaves_the_others(house):
    """Samples that are no samples; a model version that is gone."""
    folder = house.stack.home / "reports" / "chat-1"
    folder.mkdir(parents=True)
    (folder / "samples.csv.gz").write_bytes(b"no gzip")
    house.registry.kept.entries.clear()
    told = house.tell()
    assert told.evidence["release"] == "chat-1" and "a step broke" in page_of(house)
    assert len(house.registry.kept.runs) == 1


def test_a_rollback_by_hand_reaches_the_registry(house):
    """``roundhouse rollback`` ends the row; the run that dies of it tells what the person said."""
    end_release(house.store, "chat", "too many complaints")
    house.tell()
    tags: dict[str, Any] = dict(house.registry.resolve(house.uri).tags)
    assert tags["roundhouse.verdict"] == "rolled back" and tags["roundhouse.reason"] == "too many complaints"


def test_a_run_without_a_release_changes_nothing(house):
    """One that broke before it had one, while another runs."""
    assert ended_release(house.store, "another", "the run ended as Failed") is None
    assert house.store.release("chat-1").phase.active


def test_the_hook_never_raises(tmp_path):
    """Here nothing of a stack is there, and its home cannot be one."""
    (tmp_path / "file").write_text("no folder")
    before, names = dict(os.environ), {"ROUNDHOUSE_HOME": str(tmp_path / "file"), "ROUNDHOUSE_DATABASE_URL": "none://"}
    os.environ.update(names)
    try:
        assert end_broken_release(None, FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4()), Failed()) is None
    finally:
        for name in names:
            os.environ.pop(name)
            os.environ.update({name: before[name]} if name in before else {})
