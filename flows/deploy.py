"""Deploy: a version started and warmed up beside the one in service, without any traffic."""

from __future__ import annotations

from prefect import flow

from configs.order import order as make_order
from configs.parameters import Engine, Model, Service
from flows.release import HOOKS
from tasks.artifacts import build, fetch
from tasks.endings import stand_by
from tasks.room import make_room
from tasks.serving import deploy as declare
from tasks.serving import warm_up
from tasks.ticket import begin


@flow(name="deploy", flow_run_name="deploy-{service}", **HOOKS)
def deploy(service: Service, model: Model = "", engine: Engine = "") -> int:
    """Start a version and leave it ready; `roundhouse traffic set` or `mirror` can then send it requests.

    Args:
        service: a file of configs/services
        model: models:/NAME/VERSION, models:/NAME@ALIAS or dvc:PATH@REV; empty: the service's candidate alias
        engine: a file of configs/engines; empty: the service's
    """
    order = make_order(service, model, engine)
    ticket = begin(order)
    files = fetch(order)
    order = make_room(order, files, ticket)
    candidate = warm_up(order, declare(order, files, build(order, files, ticket), ticket), ticket)
    return stand_by(order, ticket, candidate)
