"""Redeploy: rebuild and release again what the champion alias names, if its engine is out of date."""

from __future__ import annotations

from prefect import flow

from configs.order import order as make_order
from configs.parameters import Service
from flows.release import release
from tasks.freshness import out_of_date


@flow(name="redeploy", flow_run_name="redeploy-{service}")
def redeploy(service: Service) -> str:
    """Compare the engine in service with what a build would make now; release when they differ.

    Args:
        service: a file of configs/services
    """
    order = make_order(service)
    champion = f"models:/{order.service.model}@{order.service.champion}"
    why = out_of_date(make_order(service, champion))
    if not why:
        return f"{service} needs no new engine"
    release(service, champion)
    return why
