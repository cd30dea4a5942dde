"""A release that broke, was ended by somebody else or lost all its processes is told of, once and as it was ordered."""

from __future__ import annotations

import json
import os
import socket
import sys
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from model_samples import tiny_gguf
from prefect.client.schemas.objects import FlowRun
from prefect.states import Failed

sys.path.insert(0, str(Path(__file__).parents[1] / "reports"))
from past_release import past_release

from configs.order import order
from configs.stack import Stack
from model_registry.memory import MemoryRegistry
from model_registry.port import MemorySettings, MlflowSettings, open_registry
from reports.head import NOTED
from rollout.errors import Unavailable
from rollout.nouns import Phase
from store.port import Release, ServiceState, Store, StoreSettings, VersionState, open_store
from store.steer import STALE_S, end_release
from tasks.aftermath import lost, run_of, tags_of, tell_of_broken
from tasks.endings import end_broken_release, ended_release, tell_of_lost
from tasks.reporting import note, written
from tasks.ticket import Ticket

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

    @property
    def folder(self) -> Path:
        """Where the release's files are."""
        return self.stack.home / "reports" / "chat-1"

    def lost(self, now: float) -> list[str]:
        """Whom another release finds."""
        return [release.id for release in lost(self.stack.home, self.store.releases(), now)]


def ordered(house: House, **changes: Any) -> None:
    """What the release's own process notes of it."""
    note(replace(order("chat"), stack=house.stack, **changes), Ticket("chat-1", "chat", None, os.getppid()))


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


def test_a_killed_release_is_told_of_with_its_order(house):
    """Policy, rules and engine settings reach evidence, page and MLflow run as its own ending would write them."""
    ordered(house, policy_name="careful", engine_name="q4_0")
    evidence, policy = house.tell().evidence, order("chat").policy
    assert (evidence["policy"], evidence["engine_name"]) == ("careful", "q4_0")
    assert evidence["rules"] == json.loads(json.dumps(asdict(policy)))
    assert "careful" in page_of(house) and "q4_0" in page_of(house)
    run = house.registry.kept.runs[0]
    assert run.params | {"policy": "careful", "engine": "q4_0", "candidate": 1} == run.params
    assert run.params["spec.slots"] == order("chat").spec.slots and "spec.faults" not in run.params
    assert run.tags["roundhouse.reason"] == "the run ended as Failed: a step broke"


def test_looks_give_the_same_points_by_either_way(house):
    """A release that ends by itself and one that broke: the same names, steps and numbers, and as many."""
    house.folder.mkdir(parents=True)
    evidence = past_release(house.folder, 1.3) | {"release": "chat-1", "seconds": None, "stress": None, "gpu": None}
    house.tell()
    told, page = written(house.store, evidence, house.folder, lambda warned: None)
    itself, broken = run_of(told, {"report": str(page)}), house.registry.kept.runs[0]
    assert itself.metrics == broken.metrics and len({step for _, step, _ in broken.metrics}) == 72
    assert {"ttft_stable", "ttft_candidate", "ttft_n"} <= {name for name, _, _ in broken.metrics}


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


def test_what_a_registry_did_not_take_is_told_another_time(house):
    """Its server is away: the page is drawn; evidence, which says that all was told, comes with the run."""
    house.store.finish_release("chat-1", Phase.FAILED, "the agent was restarted", 1e9 + 9, {})
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    away = open_registry(MlflowSettings(f"http://127.0.0.1:{port}", str(house.registry.cache)))
    with pytest.raises(Unavailable):
        tell_of_broken(house.stack, house.store, away, house.store.release("chat-1"))
    assert "the agent was restarted" in page_of(house) and not house.store.release("chat-1").evidence
    assert house.tell().evidence and len(house.registry.kept.runs) == 1


def test_what_nobody_told_of_is_found_once_its_process_is_silent(house):
    """Not one under way, nor one whose process may still tell, nor one that was told, nor what was no release."""
    ordered(house)
    assert house.lost(1e9 + 9 * STALE_S) == []
    house.store.finish_release("chat-1", Phase.FAILED, "the agent was restarted", 1e9 + 9, {})
    assert (house.lost(1e9 + STALE_S), house.lost(1e9 + STALE_S + 1)) == ([], ["chat-1"])
    house.tell()
    assert house.lost(1e9 + 9 * STALE_S) == []
    house.store.attach_evidence("chat-1", {})
    (house.folder / NOTED).unlink()
    assert house.lost(1e9 + 9 * STALE_S) == []


def test_told_late_it_takes_no_tags_from_a_later_release(house):
    """Of the same model version, and does not follow an alias that may name another version by now."""
    begun = Release("chat-2", "chat", house.uri, Phase.PENDING)
    house.store.finish_release("chat-1", Phase.FAILED, "all was killed", 1e9 + 9, {})
    house.store.begin_release(begun, 1e9 + 99, 60.0)
    model = house.registry.resolve(house.uri)
    house.registry.tag(model.name, model.version, tags_of("promoted", "good", "chat-2"))
    house.tell()
    assert dict(house.registry.resolve(house.uri).tags)["roundhouse.release"] == "chat-2"
    house.store.finish_release("chat-2", Phase.FAILED, "the fetch broke", 1e9 + 100, {})
    alias = Release("chat-3", "chat", "models:/m@candidate", Phase.PENDING)
    house.registry.set_alias("m", "candidate", model.version)
    house.store.begin_release(alias, 1e9 + 199, 60.0)
    broken = house.store.finish_release("chat-3", Phase.FAILED, "the fetch broke", 1e9 + 200, {})
    tell_of_broken(house.stack, house.store, house.registry, broken, late=True)
    assert dict(house.registry.resolve(house.uri).tags)["roundhouse.release"] == "chat-2"
    assert house.registry.kept.runs[-1].name == "chat-3"


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


def test_neither_the_hook_nor_who_looks_for_the_lost_raises(tmp_path):
    """Here nothing of a stack is there, and its home cannot be one."""
    (tmp_path / "file").write_text("no folder")
    before, names = dict(os.environ), {"ROUNDHOUSE_HOME": str(tmp_path / "file"), "ROUNDHOUSE_DATABASE_URL": "none://"}
    os.environ.update(names)
    try:
        assert end_broken_release(None, FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4()), Failed()) is None
        assert tell_of_lost() is None
    finally:
        for name in names:
            os.environ.pop(name)
            os.environ.update({name: before[name]} if name in before else {})
