"""The whole answer to "does this model fit there": the verdict, the recommended split, what else there is. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from engines.hardware import Hardware
from engines.sizing.fit import check_context, check_fit
from engines.sizing.measure import Demand, fit_on
from engines.sizing.recommend import Option, alternatives, as_asked, best_split, closest_split
from engines.sizing.rules import check_architecture, check_parallel
from engines.sizing.shape import ModelShape
from rollout.errors import Refused


@dataclass(frozen=True)
class Plan:
    """``option`` is what was asked for or recommended; ``refusal`` says why it cannot be, where it cannot."""

    shape: ModelShape
    demand: Demand
    hardware: Hardware
    option: Option
    alternatives: tuple[Option, ...]
    refusal: Refused | None = None


def plan_on(shape: ModelShape, demand: Demand, hardware: Hardware, recommend: bool = True, recipe: str = "") -> Plan:
    """What the model needs there. With ``recommend`` the split is chosen, else the one of the demand is judged.

    Raises Refused for what no GPU would help: an unknown format, an architecture that the engine does not have,
    a request that is longer than the model's positions.
    """
    demand = replace(demand, device="gpu" if hardware.gpus else "cpu")
    check_architecture(shape, demand.engine, recipe)
    check_context(shape, demand)
    chosen = best_split(shape, demand, hardware) or closest_split(shape, demand, hardware) if recommend else None
    if chosen:
        demand = replace(demand, tensor=chosen.tensor, pipeline=chosen.pipeline)
    refusal = _refused(shape, demand, hardware)
    option = chosen or as_asked(shape, demand, hardware, fit_on(shape, demand, hardware))
    return Plan(shape, demand, hardware, option, alternatives(shape, demand, hardware), refusal)


def _refused(shape: ModelShape, demand: Demand, hardware: Hardware) -> Refused | None:
    try:
        check_parallel(shape, demand.tensor, demand.pipeline, demand.expert, demand.weights, demand.engine)
        check_fit(shape, demand, hardware)
    except Refused as refusal:
        return refusal
    return None
