"""What a release cost in the GPUs' work and energy: asked of the agent, which looks at them once a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import httpx
from prefect import get_run_logger

from configs.order import Order
from loadtest.port import LoadReport
from rollout.nouns import Version
from store.port import InstanceState, open_store
from tasks.traffic import Stretch

PHASES = {"warm up": "warm_up", "stress": "stress", "evidence": "canary"}  # of the stopwatch -> in the records
Spans = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class CandidateGpus:
    """UUIDs: of all its instances; of the one that a stress test loads; of those that other instances are on too."""

    every: tuple[str, ...]
    loaded: tuple[str, ...]
    shared: frozenset[str] = frozenset()

    def of(self, phase: str) -> tuple[str, ...]:
        """Those that work in that phase of the stopwatch."""
        return self.loaded if phase == "stress" else self.every


def gpus_of(order: Order, version: Version) -> CandidateGpus:
    """The GPUs of a version's instances, as its service's agent gave them out."""
    return candidate_gpus(open_store(order.stack.store()).instances(), version)


def candidate_gpus(instances: Sequence[InstanceState], version: Version) -> CandidateGpus:
    """The same of every instance on the machine. ``stress`` loads the first that is ready."""
    loaded = version.ready[0].id if version.ready else ""
    users: dict[str, set[str]] = {}  # GPU -> versions on it
    every: list[str] = []
    first: list[str] = []
    for instance in instances:
        mine = (instance.service, instance.version) == (version.service, version.number)
        for uuid in instance.placement.get("gpus", ()):
            users.setdefault(uuid, set()).add(f"{instance.service} {instance.version}")
            every += [uuid] * mine
            first += [uuid] * (mine and instance.id == loaded)
    shared = frozenset(uuid for uuid in every if len(users[uuid]) > 1)
    return CandidateGpus(tuple(dict.fromkeys(every)), tuple(dict.fromkeys(first)), shared)


def gpu_use(agent_url: str, since: float, until: float, gpus: tuple[str, ...], tokens: int = 0) -> dict[str, float]:
    """These GPUs between two times (epoch seconds) as flat numbers; ``engines.devices.telemetry.together`` names them.

    Empty where there are no GPUs. The energy of 1,000 tokens is left out where it is not known of each of them. Raises
    httpx.HTTPError when the agent does not tell.
    """
    if not gpus:
        return {}
    asked = {"since": since, "until": until, "gpus": ",".join(gpus), "tokens": tokens}
    answer = httpx.get(f"{agent_url}/v1/telemetry", params=asked, timeout=10.0, trust_env=False)
    answer.raise_for_status()
    told = dict(answer.json()["together"])
    if told.get("gpus") != len(gpus):
        told.pop("energy_j_per_1000_tokens", None)
    return told


def use_by_phase(
    order: Order, gpus: CandidateGpus, spans: Spans, load: LoadReport | None, stretches: list[Stretch]
) -> dict[str, dict[str, float]]:
    """The candidate's GPUs during warm-up, stress and canary, with the energy of 1,000 tokens that it generated.

    What cannot be had is left out with a line in the log: a release is not judged by it. Where others work on the same
    GPUs, ``gpus_shared`` says on how many, and there is no energy of 1,000 tokens.
    """
    tokens = {"stress": load.tokens if load else 0, "evidence": tokens_of(stretches)}
    found = {}
    for phase, name in PHASES.items():
        if phase in spans:
            try:
                found[name] = _phase_use(order.stack.agent_url, spans[phase], gpus, phase, tokens.get(phase, 0))
            except (httpx.HTTPError, KeyError, ValueError) as error:
                get_run_logger().warning("the GPUs' telemetry during %s is missing: %s", phase, error)
    return {name: use for name, use in found.items() if use}


def _phase_use(
    agent_url: str, span: tuple[float, float], gpus: CandidateGpus, phase: str, tokens: int
) -> dict[str, float]:
    busy = gpus.of(phase)
    shared = len(gpus.shared.intersection(busy))
    use = gpu_use(agent_url, *span, busy, 0 if shared else tokens)
    return use | ({"gpus_shared": float(shared)} if use and shared else {})


def tokens_of(stretches: list[Stretch]) -> int:
    """Output tokens of the candidate's answers, copies included."""
    return sum(stretch.trail.tokens for stretch in stretches)


def gpu_metrics(use: dict[str, dict[str, float]]) -> dict[str, float]:
    """The same for a run's metrics: ``gpu_<phase>_<name>``, and the energy of 1,000 tokens under load where known."""
    flat = {f"gpu_{phase}_{name}": value for phase, numbers in use.items() for name, value in numbers.items()}
    energy = [use[phase].get("energy_j_per_1000_tokens") for phase in ("stress", "canary") if phase in use]
    known = [value for value in energy if value is not None]
    return flat | ({"energy_j_per_1000_tokens": known[0]} if known else {})
