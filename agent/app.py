"""The agent's small HTTP interface: health, status, and the registry's signed webhook."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import httpx
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool

from agent.metrics_page import CONTENT_TYPE
from agent.telemetry import GpuWatch
from configs.files import service_for
from model_registry.webhook import Promotion, verify
from rollout.errors import RoundhouseError
from store.port import Event, Store

log = logging.getLogger("roundhouse.agent")
EVENT = "roundhouse.promotion"  # what the automation in prefect.yaml waits for
Emit = Callable[[dict[str, Any]], None]
Page = Callable[[], bytes]
Seen = dict[str, Any]


def make_app(
    store: Store,
    secret: str,
    emit: Emit,
    alive: Callable[[], bool],
    metrics: Page,
    traffic: Callable[[], Seen],
    watch: GpuWatch,
) -> FastAPI:
    """The application. ``emit`` hands an event to Prefect; ``alive`` says whether the loop still turns; ``metrics``
    makes the page for Prometheus; ``traffic`` says what the records show of splits and mirrors; ``watch`` what the
    machine has and does."""
    app = FastAPI(title="Roundhouse agent", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/healthz")
    def healthz(response: Response) -> dict[str, str]:
        response.status_code = 200 if alive() else 503
        return {"status": "ok" if alive() else "the loop is stuck"}

    @app.get("/v1/status")
    def status() -> dict[str, Any]:
        return {
            "in_force": _plain(store.in_force()),
            "services": [{**asdict(s), "observed": _plain(store.observed(s.name))} for s in store.services()],
            "groups": [{**asdict(g), "observed": _plain(store.observed(g.name))} for g in store.groups()],
            "versions": [asdict(v) for v in store.versions()],
            "instances": [asdict(i) for i in store.instances()],
            "releases": [asdict(r) for r in store.releases(limit=20)],
            "events": [asdict(e) for e in store.events(limit=50)],
        }

    @app.get("/v1/traffic")
    def traffic_seen() -> Seen:
        return traffic()

    @app.get("/metrics")
    def metrics_page() -> Response:
        return Response(metrics(), media_type=CONTENT_TYPE)

    @app.post("/hooks/mlflow")
    async def mlflow_hook(request: Request, response: Response) -> dict[str, str]:
        answer = verify(dict(request.headers), await request.body(), secret, time.time())
        if not isinstance(answer, Promotion):
            response.status_code = answer.status
            return {"status": "refused", "reason": answer.reason}
        try:
            told = await run_in_threadpool(receive, store, answer, emit, time.time())
        except (httpx.HTTPError, RoundhouseError) as error:
            response.status_code = 503  # MLflow tries again
            log.error("a promotion could not be passed on: %s", error)
            return {"status": "could not be passed on", "reason": type(error).__name__}
        response.status_code = 202
        return {"status": told}

    _tell_of_the_machine(app, watch)
    return app


def _tell_of_the_machine(app: FastAPI, watch: GpuWatch) -> None:
    @app.get("/v1/hardware")
    def hardware() -> Seen:
        return watch.hardware()

    @app.get("/v1/telemetry")
    def telemetry(since: float, until: float | None = None, gpus: str = "", tokens: int = 0) -> Seen:
        return watch.telemetry(since, until, gpus, tokens)


def receive(store: Store, promotion: Promotion, emit: Emit, now: float) -> str:
    """Start the release that ``configs/services`` binds to this alias; each delivery once."""
    service = service_for(promotion.name, promotion.alias)
    if service is None:
        return f"no service is bound to alias {promotion.alias!r} of model {promotion.name!r}"
    if not store.first_delivery(promotion.delivery_id, now):
        return "seen before"
    try:
        emit(prefect_event(service.name, promotion, now))
    except httpx.HTTPError:
        store.forget_delivery(promotion.delivery_id)
        raise
    text = f"alias {promotion.alias} was set on {promotion.name} version {promotion.version}: release requested"
    store.note(Event(now, service.name, "promotion", text))
    return "release requested"


def prefect_event(service: str, promotion: Promotion, now: float) -> dict[str, Any]:
    """The event as Prefect's API takes it (POST /events)."""
    return {
        "id": str(uuid.uuid4()),
        "occurred": datetime.fromtimestamp(now, UTC).isoformat(),
        "event": EVENT,
        "resource": {"prefect.resource.id": f"roundhouse.service.{service}", "prefect.resource.name": service},
        "related": [],
        "payload": {
            "service": service,
            "model": f"models:/{promotion.name}/{promotion.version}",
            "delivery_id": promotion.delivery_id,
        },
    }


def prefect_emitter(api: str) -> Emit:
    """Hands events to the Prefect server; raises httpx.HTTPError so that MLflow tries the delivery again."""

    def emit(event: dict[str, Any]) -> None:
        httpx.post(f"{api}/events", json=[event], timeout=5.0, trust_env=False).raise_for_status()

    return emit


def _plain(value: Any) -> dict[str, Any] | None:
    return None if value is None else asdict(value)
