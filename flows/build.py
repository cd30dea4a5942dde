"""Build: a model version to an engine, without releasing it."""

from __future__ import annotations

from prefect import flow

from configs.order import order as make_order
from configs.parameters import Engine, Model, Service
from tasks.artifacts import build as build_engine
from tasks.artifacts import fetch


@flow(name="build", flow_run_name="build-{service}")
def build(service: Service, model: Model = "", engine: Engine = "") -> dict:
    """Build the engine that a release would use; a later release finds it.

    Args:
        service: a file of configs/services
        model: models:/NAME/VERSION, models:/NAME@ALIAS or dvc:PATH@REV; empty: the service's candidate alias
        engine: a file of configs/engines; empty: the service's
    """
    order = make_order(service, model, engine)
    built = build_engine(order, fetch(order))
    return {"digest": built.digest, "directory": built.directory, "cached": built.cached, "build_s": built.build_s}
