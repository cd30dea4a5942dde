"""Stress: a load test of the version in service, or of any version that runs, past the gateway."""

from __future__ import annotations

from prefect import flow

from configs.parameters import Load, Number, Service
from tasks.loading import load_version, show_load


@flow(name="stress", flow_run_name="stress-{service}")
def stress(service: Service, version: Number = 0, load: Load = "short") -> dict:
    """Load a version directly and leave a page with plots.

    Args:
        service: a service that was released at least once
        version: its number; 0: the one in service
        load: a file of configs/loads
    """
    report = load_version(service, version, load)
    return show_load(service, report)
