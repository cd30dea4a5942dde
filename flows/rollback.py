"""Rollback: end the release under way, or put an earlier version back in service."""

from __future__ import annotations

from prefect import flow

from configs.parameters import Number, Service
from tasks.undoing import end_release, put_back


@flow(name="rollback", flow_run_name="rollback-{service}")
def rollback(service: Service, to: Number = 0, reason: str = "asked for by hand") -> str:
    """Turn traffic back.

    Args:
        service: the service
        to: a version number; 0: end the release under way, or else return to the version before the present one
        reason: what the records will say
    """
    return (None if to else end_release(service, reason)) or put_back(service, to, reason)
