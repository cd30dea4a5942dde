"""Turning back by hand, from the Prefect UI. The command line does the same without Prefect."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from configs.order import crown
from configs.stack import load_stack
from store.port import open_store
from store.steer import end_release as end_it
from store.steer import put_back as put_it_back


@task(cache_policy=NO_CACHE)
def end_release(service: str, reason: str) -> str | None:
    """End the release under way, traffic on stable; None when there is none."""
    return end_it(open_store(load_stack().store()), service, reason)


@task(cache_policy=NO_CACHE, timeout_seconds=1800)
def put_back(service: str, to: int, reason: str) -> str:
    """An earlier version in service again, and the champion alias on its model."""
    stack = load_stack()
    version = put_it_back(open_store(stack.store()), service, to, reason)
    return f"version {version.number} is in service again{crown(stack, service, version.model_uri)}"
