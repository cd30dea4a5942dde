"""What is told of a release whose run broke, or which somebody else ended: its evidence, page, tags and MLflow run.

Whatever its files hold is told; a part that cannot be written leaves the others as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from configs.order import champion_of
from configs.stack import Stack
from model_registry.port import ModelRegistry, ReleaseRun
from reports.head import NOTED, ORDERED, head
from reports.page import PAGE, write_page
from reports.points import points
from reports.record import record, record_of
from rollout.errors import NotFound, Unavailable
from rollout.json_text import json_text
from rollout.nouns import Phase
from store.port import Release, Store
from store.steer import STALE_S, answers
from tasks.telemetry import gpu_metrics

T = TypeVar("T")
log = logging.getLogger(__name__)


def known(store: Store, release: Release) -> dict[str, Any]:
    """What the store says of it."""
    return head(asdict(release), answers(store, release.id), map(asdict, store.versions(release.service)))


def tags_of(outcome: str, reason: str, release: str) -> dict[str, str]:
    """What a model version in the registry says of its release."""
    return {"roundhouse.verdict": outcome, "roundhouse.reason": reason[:4500], "roundhouse.release": release}


def run_of(told: Mapping[str, Any], files: Mapping[str, str], texts: Mapping[str, str] | None = None) -> ReleaseRun:
    """A release's run in the registry, from its record: its parameters, the verdict and its looks as metrics."""
    ordered = {
        "service": told["service"],
        "model": told["model"],
        "engine": told["engine_name"],
        "policy": told["policy"],
        "stable": told["stable"],
        "candidate": told["candidate"],
        **{f"spec.{name}": value for name, value in told["spec"].items() if name != "faults"},
    }
    gpu = [(name, 0, value) for name, value in gpu_metrics(told["gpu"] or {}).items()]
    tags = tags_of(str(told["outcome"]), told["reason"] or "", told["release"])
    return ReleaseRun(
        service=told["service"],
        name=told["release"],
        params={name: value for name, value in ordered.items() if value is not None},
        metrics=(*points(told), *gpu),
        texts={"release.json": json_text(told, indent=1), **(texts or {})},
        files=dict(files),
        tags={"roundhouse.service": told["service"], **tags},
    )


def lost(home: Path, releases: Iterable[Release], now: float) -> list[Release]:
    """The releases that have ended, of which nothing was told, and whose process was not heard of since ``STALE_S``:
    nobody else will tell of them. One that left no note of its order was no release, or is too old to be told of."""
    silent = (r for r in releases if not r.phase.active and not r.evidence and now - r.beat_at > STALE_S)
    return [r for r in silent if (home / "reports" / r.id / NOTED).exists()]


def tell_of_broken(stack: Stack, store: Store, registry: ModelRegistry, release: Release, late: bool = False) -> None:
    """Write what the release's own run did not: page, MLflow run and evidence where it has no evidence yet, tags where
    the model version bears none of it. ``late``: an alias may name another version by now, and is not followed.

    Evidence comes last: what it has was told. Raises Unavailable where the registry or the store is, to be done again.
    """
    directory, evidence = stack.home / "reports" / release.id, known(store, release)
    told, files = release.evidence, dict[str, str]()
    if not release.evidence:
        told = _attempt(release, "record", lambda: record_of(evidence, directory)) or record(evidence, ())
        page = _attempt(release, "page", lambda: write_page(told, directory / PAGE))
        files |= {"report": str(page)} if page else {}
    if not (late and "@" in told["model"]):
        _attempt(release, "tags", lambda: _tag(store, registry, release, told["model"]))
    if not release.evidence:
        _attempt(release, "MLflow run", lambda: registry.log_release(run_of(told, files)))
        store.attach_evidence(release.id, evidence | {name: told[name] for name in (*ORDERED, "findings")})


def _attempt(release: Release, what: str, act: Callable[[], T]) -> T | None:
    try:
        return act()
    except Unavailable:
        raise
    except Exception as error:  # the traffic is back; of what is told as much as can be
        log.warning("release %s: its %s could not be written: %s", release.id, what, error)
        return None


def _tag(store: Store, registry: ModelRegistry, release: Release, uri: str) -> None:
    """Once: a version that bears the tags of this release, or of a later one, keeps them. What is in service gets the
    champion alias."""
    if not uri.startswith("models:/"):
        return
    model = registry.resolve(uri)
    if not _is_told(store, dict(model.tags).get("roundhouse.release", ""), release):
        registry.tag(model.name, model.version, tags_of(str(release.phase), release.reason, release.id))
    if release.phase is Phase.PROMOTED and store.service(release.service).stable == release.candidate:
        registry.set_alias(model.name, champion_of(release.service), model.version)


def _is_told(store: Store, bears: str, release: Release) -> bool:
    """Whether tags of the release ``bears`` are those of this one or newer."""
    try:
        return bears == release.id or store.release(bears).created_at > release.created_at
    except NotFound:
        return False
