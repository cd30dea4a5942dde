"""What a release cost in the GPUs' work and energy: asked of the agent, which looks at them once a second."""

from __future__ import annotations

import httpx
from prefect import get_run_logger

from configs.order import Order
from loadtest.port import LoadReport
from rollout.nouns import Version
from store.port import open_store
from tasks.traffic import Stretch

PHASES = {"warm up": "warm_up", "stress": "stress", "evidence": "canary"}  # of the stopwatch -> in the records
Spans = dict[str, tuple[float, float]]


def gpus_of(order: Order, version: Version) -> tuple[str, ...]:
    """UUIDs of the GPUs that a version's instances have for themselves."""
    mine = [i for i in open_store(order.stack.store()).instances(version.service) if i.version == version.number]
    return tuple(dict.fromkeys(uuid for instance in mine for uuid in instance.placement.get("gpus", ())))


def gpu_use(agent_url: str, since: float, until: float, gpus: tuple[str, ...], tokens: int = 0) -> dict[str, float]:
    """These GPUs between two times (epoch seconds) as flat numbers; ``engines.devices.telemetry.together`` names them.

    Empty where there are no GPUs. Raises httpx.HTTPError when the agent does not tell.
    """
    if not gpus:
        return {}
    asked = {"since": since, "until": until, "gpus": ",".join(gpus), "tokens": tokens}
    answer = httpx.get(f"{agent_url}/v1/telemetry", params=asked, timeout=10.0, trust_env=False)
    answer.raise_for_status()
    return dict(answer.json()["together"])


def use_by_phase(
    order: Order, gpus: tuple[str, ...], spans: Spans, load: LoadReport | None, stretches: list[Stretch]
) -> dict[str, dict[str, float]]:
    """The candidate's GPUs during warm-up, stress and canary, with the energy of 1,000 tokens that it generated.

    What cannot be had is left out with a line in the log: a release is not judged by it.
    """
    tokens = {"stress": load.tokens if load else 0, "evidence": tokens_of(stretches)}
    found = {}
    for phase, name in PHASES.items():
        if phase in spans:
            try:
                found[name] = gpu_use(order.stack.agent_url, *spans[phase], gpus, tokens.get(phase, 0))
            except (httpx.HTTPError, KeyError, ValueError) as error:
                get_run_logger().warning("the GPUs' telemetry during %s is missing: %s", phase, error)
    return {name: use for name, use in found.items() if use}


def tokens_of(stretches: list[Stretch]) -> int:
    """Output tokens of the candidate's answers, copies included."""
    return sum(sample.tokens_out or 0 for stretch in stretches for sample in stretch.samples.candidate)


def gpu_metrics(use: dict[str, dict[str, float]]) -> dict[str, float]:
    """The same for a run's metrics: ``gpu_<phase>_<name>``, and the energy of 1,000 tokens under load where known."""
    flat = {f"gpu_{phase}_{name}": value for phase, numbers in use.items() for name, value in numbers.items()}
    energy = [use[phase].get("energy_j_per_1000_tokens") for phase in ("stress", "canary") if phase in use]
    known = [value for value in energy if value is not None]
    return flat | ({"energy_j_per_1000_tokens": known[0]} if known else {})
