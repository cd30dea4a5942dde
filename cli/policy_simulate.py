"""``roundhouse policy simulate``: what a policy would do with a service's traffic, beside two others."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Annotated, Any

import typer

from cli.durations import seconds
from cli.record_commands import Kind as RecordKind
from cli.record_commands import Wanted, aligned, newest
from cli.screen import out, progress, show_json
from configs.files import load_rollout
from configs.stack import load_stack
from gateway.render import Layout
from gateway.samples import to_sample
from rollout.errors import NotFound, Refused
from rollout.forecast import lasting
from rollout.nouns import Sample
from rollout.policy import AutoSteps, Policy
from rollout.schedule import Schedule, planned, quickest, schedule
from rollout.simulate import EFFECTS, Result, Simulated
from rollout.simulate import simulate as played
from rollout.traffic_model import Kind, TrafficModel, lognormal, traffic_of

PRESETS = ("cautious", "standard", "fast")
_MOST_RECORDS = 200_000
_LEGEND = """
median, 90 %: how long the releases took that were decided. exposed: users' requests that the candidate
answered, on average; harmed: those of them that failed, or were slow, and would not have been on stable."""
_COLUMNS = ("candidate", "should be", "promoted", "rolled back", "undecided", "median", "90 %", "exposed", "harmed")


@dataclass(frozen=True)
class Tried:
    """A policy played through, with its steps and the computed ones."""

    name: str
    simulated: Simulated
    fixed: Schedule
    automatic: Schedule
    mirrored: bool


def simulate(
    name: Annotated[str, typer.Argument(help="A file of configs/rollouts, for example standard.")],
    service: Annotated[str, typer.Option(help="Take this service's recorded traffic.")] = "",
    since: Annotated[str, typer.Option(help="Recorded in the last so long: 90s, 10m, 2h, 1d.")] = "1d",
    rate: Annotated[float, typer.Option(help="Or by hand: requests a second.")] = 0.0,
    ttft: Annotated[float, typer.Option(help="By hand: median time to the first token, seconds.")] = 0.2,
    tpot: Annotated[float, typer.Option(help="By hand: median time per further token, seconds.")] = 0.02,
    spread: Annotated[float, typer.Option(help="By hand: spread of the logarithm of TTFT; TPOT's is half.")] = 0.8,
    tokens: Annotated[int, typer.Option(help="By hand: tokens of an answer.")] = 64,
    errors: Annotated[float, typer.Option(help="By hand: percent of the requests that fail.")] = 0.5,
    against: Annotated[list[str] | None, typer.Option(help="Compare with these; else the other presets.")] = None,
    runs: Annotated[int, typer.Option(min=1, max=10_000, help="Releases played through per line.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of the random numbers; the same seed gives the same table.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Play releases through before one is made: wrong rollbacks, missed regressions, time to decide, users exposed.

    Examples: `roundhouse policy simulate standard --service chat --since 2h`
    or `roundhouse policy simulate fast --rate 10 --ttft 0.2 --errors 0.5 --runs 50`
    """
    if bool(service) == bool(rate):
        rule = "traffic comes either from a service's records or by hand"
        raise Refused("--service, --rate", f"{service or 'none'}, {rate:g}", rule, "give --service chat or --rate 10")
    policies = _policies(name, against)
    if rate:
        kind = Kind(1.0, lognormal(ttft, spread), lognormal(tpot, spread / 2), (tokens,))
        traffic = TrafficModel(60 * rate, (kind,), errors / 100)
    else:
        traffic = recorded(service, time.time() - seconds("--since", since))
    with progress(quiet=as_json) as report:
        tried = [_tried(label, policy, traffic, runs, seed, report) for label, policy in policies]
    if as_json:
        show_json({"traffic": _traffic(traffic), "runs": runs, "seed": seed, "policies": [_plain(t) for t in tried]})
    else:
        _show(traffic, tried)


def _policies(name: str, against: Sequence[str] | None) -> list[tuple[str, Policy]]:
    """The policy and those to compare with; presets that somebody has removed are left out."""
    found = [(name, load_rollout(name).policy())]
    if against:
        return found + [(other, load_rollout(other).policy()) for other in against]
    for other in PRESETS:
        if other != name and len(found) < len(PRESETS):
            try:
                found.append((other, load_rollout(other).policy()))
            except NotFound:
                continue
    return found


def recorded(service: str, since: float) -> TrafficModel:
    """The traffic of a service as its gateway recorded it since then (epoch seconds). Raises Refused.

    Latencies and errors are those of the version that answered most; the rate is that of all.
    """
    path = Layout.of(load_stack().gateway()).records
    wanted = Wanted(service, since, kind=RecordKind.LIVE.value)
    seen = (sample for record in islice(newest(path, wanted), _MOST_RECORDS) if (sample := to_sample(record)))
    samples = [sample for sample in seen if not sample.mirrored]
    stable = _most_common(samples)
    traffic = traffic_of(stable)
    return replace(traffic, per_minute=traffic.per_minute * len(samples) / len(stable))


def _most_common(samples: Sequence[Sample]) -> list[Sample]:
    versions = Counter(sample.version for sample in samples)
    most = versions.most_common(1)[0][0] if versions else None
    return [sample for sample in samples if sample.version == most]


def _tried(
    name: str,
    policy: Policy,
    traffic: TrafficModel,
    runs: int,
    seed: int,
    report: Callable[[str, float], None],
) -> Tried:
    names = [effect.name for effect in EFFECTS]

    def told(effect: str, share: float) -> None:
        report(name, (names.index(effect) + share) / len(names))

    found = played(planned(policy, traffic), traffic, runs, seed, told=told)
    automatic = quickest(policy if policy.auto else replace(policy, auto=AutoSteps(), approvals=()), traffic)
    return Tried(name, found, schedule(policy, traffic, policy.steps), automatic, policy.mirror > 0)


def _show(traffic: TrafficModel, tried: Iterable[Tried]) -> None:
    kinds = "1 kind of request" if len(traffic.kinds) == 1 else f"{len(traffic.kinds)} kinds of requests"
    out.print(f"{traffic.per_minute:.4g} requests/min of {kinds}, {traffic.errors:.2%} of them fail")
    for one in tried:
        steps = ", ".join(f"{step / 10:g}" for step in one.simulated.steps)
        out.print(f"\n{one.name}: {steps} %", style="bold")
        for line in aligned([_COLUMNS, *(_row(result) for result in one.simulated.results)]):
            out.print(f"  {line}", markup=False, soft_wrap=True)
        wrong, missed = one.simulated.wrong_rollbacks, one.simulated.missed
        out.print(f"  wrong rollbacks: {wrong:.1%} of the good; missed: {missed:.1%} of the harmful")
        after = " after mirroring" if one.mirrored else ""
        out.print(f"  its steps{after}: {one.fixed.sentence}", markup=False, soft_wrap=True)
        out.print(f"  computed ones{after}: {one.automatic.sentence}", markup=False, soft_wrap=True)
    out.print(_LEGEND, markup=False)


def _row(result: Result) -> tuple[Any, ...]:
    ended = (f"{share:.0%}" for share in (result.promoted, result.rolled_back, result.undecided))
    took = ("-" if s is None else lasting(s) for s in (result.median_s, result.p90_s))
    return (result.effect, result.right, *ended, *took, f"{result.exposed:.0f}", f"{result.harmed:.1f}")


def _plain(tried: Tried) -> dict[str, Any]:
    found = tried.simulated
    return {
        "name": tried.name,
        "steps_permille": list(found.steps),
        "wrong_rollbacks": found.wrong_rollbacks,
        "missed": found.missed,
        "results": [asdict(result) for result in found.results],
        "fixed_schedule": _finite(asdict(tried.fixed)),
        "automatic_schedule": _finite(asdict(tried.automatic)),
    }


def _finite(numbers: Any) -> Any:
    """JSON knows no infinity: what is never reached is null."""
    if isinstance(numbers, dict):
        return {key: _finite(value) for key, value in numbers.items()}
    if isinstance(numbers, list | tuple):
        return [_finite(value) for value in numbers]
    return None if numbers == math.inf else numbers


def _traffic(traffic: TrafficModel) -> dict[str, Any]:
    events = {"errors": traffic.errors, "refusals": traffic.refusals, "left": traffic.left}
    kinds = [{"share": k.share, "bytes_in": k.bytes_in, "ttft_median_s": _median(k.ttft_s)} for k in traffic.kinds]
    return {"requests_per_minute": traffic.per_minute, "kinds": kinds, **events}


def _median(seconds: Sequence[float]) -> float | None:
    return seconds[len(seconds) // 2] if seconds else None
