"""What is told of a release whose run broke, or which somebody else ended: its evidence, page, tags and MLflow run.

Whatever its files hold is told; a part that cannot be written leaves the others as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from configs.order import champion_of
from configs.stack import Stack
from model_registry.port import ModelRegistry, ReleaseRun
from reports.head import head
from reports.page import PAGE, write_page
from reports.record import record, record_of
from rollout.json_text import json_text
from rollout.nouns import Phase
from store.port import Release, Store
from store.steer import answers

T = TypeVar("T")
log = logging.getLogger(__name__)

_MOST_LOOKS = 500  # whose numbers become step metrics
_ENGINE = ("digest", "cached", "size", "build_s")
_NUMBERS = ("effect", "low", "high", "harm_e", "allow_e")


def tags_of(outcome: str, reason: str, release: str) -> dict[str, str]:
    """What a model version in the registry says of its release."""
    return {"roundhouse.verdict": outcome, "roundhouse.reason": reason[:4500], "roundhouse.release": release}


def tell_of_broken(stack: Stack, store: Store, registry: ModelRegistry, release: Release) -> None:
    """Write what the release's own run did not: evidence, page and MLflow run where it has no evidence yet, tags where
    the model version bears none of it. Raises only what the store does."""
    directory, known = stack.home / "reports" / release.id, _known(store, release)
    told: dict[str, Any] = {}
    if not release.evidence:
        told = _attempt(release, "record", lambda: record_of(known, directory)) or record(known, ())
        store.attach_evidence(release.id, known | {"findings": told["findings"]})
        _attempt(release, "page", lambda: write_page(told, directory / PAGE))
    _attempt(release, "tags", lambda: _tag(store, registry, release, known["model"]))
    if told:
        _attempt(release, "MLflow run", lambda: registry.log_release(_run(told, directory / PAGE)))


def _attempt(release: Release, what: str, act: Callable[[], T]) -> T | None:
    try:
        return act()
    except Exception as error:  # the traffic is back; of what is told as much as can be
        log.warning("release %s: its %s could not be written: %s", release.id, what, error)
        return None


def _known(store: Store, release: Release) -> dict[str, Any]:
    """What the store says of it."""
    known = head(asdict(release), answers(store, release.id))
    version = next((v for v in store.versions(release.service) if v.number == release.candidate), None)
    if version is not None:
        known |= {"model": version.model_uri, "engine": {name: version.engine.get(name) for name in _ENGINE}}
    return known


def _tag(store: Store, registry: ModelRegistry, release: Release, uri: str) -> None:
    """Once: a version that bears this release's tags was told of it. What is in service gets the champion alias."""
    if not uri.startswith("models:/"):
        return
    model = registry.resolve(uri)
    if dict(model.tags).get("roundhouse.release") != release.id:
        registry.tag(model.name, model.version, tags_of(str(release.phase), release.reason, release.id))
    if release.phase is Phase.PROMOTED and store.service(release.service).stable == release.candidate:
        registry.set_alias(model.name, champion_of(release.service), model.version)


def _run(told: Mapping[str, Any], page: Path) -> ReleaseRun:
    return ReleaseRun(
        service=told["service"],
        name=told["release"],
        params={"service": told["service"], "model": told["model"]},
        metrics=_metrics(told),
        texts={"release.json": json_text(told, indent=1)},
        files={"report": str(page)} if page.exists() else {},
        tags={"roundhouse.service": told["service"], "roundhouse.verdict": str(told["outcome"])},
    )


def _metrics(told: Mapping[str, Any]) -> tuple[tuple[str, int, float], ...]:
    """The looks as step metrics, by the names that a release that ends by itself uses."""
    every = 1 + len(told["timeline"]) // _MOST_LOOKS
    looks = enumerate(told["timeline"][::every])
    numbers = [("canary_percent", step, (look["canary_permille"] or 0) / 10) for step, look in looks]
    for metric, path in told["metrics"].items():
        key = metric.lower().replace(" ", "_")
        for step, point in enumerate(path[::every]):
            numbers += [(f"{key}_{name}", step, point[name]) for name in _NUMBERS if point[name] is not None]
    return tuple(numbers)
