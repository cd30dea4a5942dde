"""Redeploy: rebuild and release again what the champion alias names, if its engine is out of date."""

from __future__ import annotations

from prefect import flow

from configs.files import load_service
from configs.parameters import Service
from flows.release import release
from tasks.endings import tell_of_lost
from tasks.freshness import renewal


@flow(name="redeploy", flow_run_name="redeploy-{service}")
def redeploy(service: Service) -> str:
    """Compare the engine in service with what a build would make now; release when they differ.

    Args:
        service: a file of configs/services
    """
    tell_of_lost()
    file = load_service(service)
    due = renewal(service, file.model, file.champion)
    if due is None:
        return f"{service} needs no new engine"
    release(service, due.model, due.engine_name)
    return due.reason
