"""Model files and engines: fetch and build."""

from __future__ import annotations

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from configs.engine_sources import make_engine
from configs.order import Order
from model_registry.sources import fetch_any
from rollout.nouns import Engine, ModelVersion
from store.port import open_store
from tasks.ticket import Ticket, tell


@task(
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=2,
    retry_condition_fn=lambda t, r, s: _passing(s),
    timeout_seconds=3600,
)
def fetch(order: Order) -> ModelVersion:
    """The model's files, verified against the registry's record."""
    model = fetch_any(order.model, order.stack.registry(), _logged(), str(order.stack.project))
    get_run_logger().info("fetched %s: %s, %s parameters", model.uri, model.architecture, f"{model.parameters:,}")
    return model


@task(cache_policy=NO_CACHE, timeout_seconds=6 * 3600)
def build(order: Order, model: ModelVersion, ticket: Ticket | None = None) -> Engine:
    """The engine for that model and spec, from the nearest place that has it, else built; once per digest."""
    if ticket is not None:
        tell(open_store(order.stack.store()), ticket, "build")
    return make_engine(order.stack, order.spec, model, _logged(), get_run_logger().info)


def _logged():  # type: ignore[no-untyped-def]
    """Progress into the run's log, a line each quarter of the way."""
    logger, last = get_run_logger(), {"what": "", "quarter": -1}

    def progress(what: str, share: float) -> None:
        verb, quarter = what.split()[0], int(share * 4)
        if (verb, quarter) != (last["what"], last["quarter"]):
            last.update(what=verb, quarter=quarter)
            logger.info("%s: %.0f %%", what, share * 100)

    return progress


def _passing(state) -> bool:  # type: ignore[no-untyped-def]
    """Only what may pass by itself is tried again."""
    from rollout.errors import Unavailable

    try:
        state.result()
    except Unavailable:
        return True
    except BaseException:
        return False
    return False
