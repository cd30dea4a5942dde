"""Whether the engine in service is what a build would make now."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from configs.order import Order
from engines.port import open_engine
from model_registry.sources import fetch_any
from store.port import open_store


@task(cache_policy=NO_CACHE, timeout_seconds=3600)
def out_of_date(order: Order) -> str:
    """Why the engine of the version in service should be rebuilt; empty when it need not."""
    store = open_store(order.stack.store())
    stable = {s.name: s.stable for s in store.services()}.get(order.service.name)
    serving = {v.number: v for v in store.versions(order.service.name)}.get(stable or 0)
    if serving is None:  # nothing was ever released: there is nothing to renew
        return ""
    model = fetch_any(order.model, order.stack.registry(), lambda what, share: None, str(order.stack.project))
    wanted = open_engine(order.spec.kind, order.stack.engines()).plan(model, order.spec).digest
    present = str(serving.engine["digest"])
    return "" if wanted == present else f"engine {present[:12]} is in service, a build now makes {wanted[:12]}"
