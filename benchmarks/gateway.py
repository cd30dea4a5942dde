"""What our gateway costs: requests/s, latency, processor time and instructions against bare Envoy and other proxies.

    python benchmarks/gateway.py [--quick | --changes | --ablate] [--json] [--write] [--peers DIR] [--install-peers]

Cases stand in front of the same upstream (nginx answering 200 bytes; for streams a server of ours, 64 chunks 10 ms
apart) and run by turns, forward and backward; figures are medians over rounds of ratios between neighbours, for such
machines drift by half within minutes. ``full`` is our whole configuration through our own API: 1,000 tokens in use, a
lease of 90/10, limits, records, and a mirror of 0 % (``full``) or 10 % (``mirror``). ``--quick`` takes under a minute
(direct, bare, full, changes); without it every peer, streams, instructions and the reading of records follow.
``--changes`` times changes alone; ``--ablate`` shows what each part of our configuration costs, in instructions.
Peers are looked for on PATH and in the environment ``--peers``, which ``--install-peers`` makes. ``--write`` puts the
tables into benchmarks/results/.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # this file bears the name of the package that it measures

from benchmarks import gateway_changes as changing  # noqa: E402
from benchmarks import gateway_instructions as instructions  # noqa: E402
from benchmarks import gateway_load as load  # noqa: E402
from benchmarks import gateway_peers as others  # noqa: E402
from benchmarks import gateway_reading as reading  # noqa: E402
from benchmarks import gateway_report as report  # noqa: E402
from benchmarks.gateway_envoys import Asked, Full, bare, full  # noqa: E402
from benchmarks.gateway_parts import Served, plain_upstream, stream_upstream  # noqa: E402
from benchmarks.gateway_report import Plan, Results  # noqa: E402
from gateway.render import Layout  # noqa: E402

QUICK = Plan(rounds=3, seconds=2, paced_rounds=2, changes=100, rollbacks=50, versions=3)
WHOLE = Plan(rounds=7, seconds=4, paced_rounds=7, changes=400, rollbacks=200, versions=15)
STREAM_ROUNDS, STREAM_S = 5, 4.0


def main() -> int:
    """Run what was asked for; the figure is on the last line."""
    asked = _arguments()
    lacking = load.missing_tools()
    if lacking:
        print(f"not installed: {', '.join(lacking)}; on Debian: apt-get install nginx-light wrk", file=sys.stderr)
        return 2
    if asked.install_peers:
        tell(f"installing peers into {asked.peers}")
        others.install(asked.peers)
    if asked.ablate:
        return ablate(asked.json, asked.write)
    results = measure(asked)
    report.show(results, asked.json)
    if asked.write:
        report.write(results, ROOT / "benchmarks" / "results")
    if not asked.json:
        print(report.headline(results))
    return 0


def measure(asked: argparse.Namespace) -> Results:
    """All that the chosen mode asks for."""
    plan = QUICK if asked.quick or asked.changes else WHOLE
    if asked.changes:
        plan = Plan(0, 0, 0, WHOLE.changes, WHOLE.rollbacks, WHOLE.versions)
    results = Results(plan=plan, machine=report.machine())
    with_peers = not asked.quick and not asked.changes
    chosen = others.peers(asked.peers) if with_peers else []
    for peer in (p for p in chosen if p.found is None):
        results.missing[peer.name] = f"{peer.program} is not installed"
    if chosen:
        results.machine["peers"] = ", ".join(p.version() for p in chosen if p.found is not None)
    with plain_upstream() as ports:
        plain(ports, chosen, results)
        if with_peers:
            count(ports, chosen, results)
    if with_peers:
        with stream_upstream() as ports:
            streams(ports, chosen, results)
    return results


def plain(ports: list[int], chosen: list[others.Peer], results: Results) -> None:
    """Whole answers as fast as they come, then at half of our own rate; changes; the reading of what was recorded."""
    plan = results.plan
    with contextlib.ExitStack() as stack:
        ours, cases = _ours(stack, ports)
        cases += _started(stack, ports, chosen, results)
        if plan.rounds:
            run = partial(load.plain, seconds=plan.seconds)
            results.plain = load.alternating(cases, plan.rounds, run, partial(tell, "plain"))
            results.rate = load.middle(results.plain["full"], "per_s") / 2
            few = [case for case in cases if chosen or case.name in ("bare", "full")]
            results.paced = load.alternating(few, plan.paced_rounds, partial(_paced, results), partial(tell, "paced"))
        tell("changes", f"{plan.changes} of weights, {plan.rollbacks} rollbacks, {plan.versions} versions")
        results.changes = changing.measure(ours, plan.changes, plan.rollbacks, plan.versions)
        if chosen:
            tell("reading", f"{reading.LINES:,} records")
            results.read_per_s = reading.measure(Layout.of(ours.settings).records)


def streams(ports: list[int], chosen: list[others.Peer], results: Results) -> None:
    """200 open streams through each."""
    with contextlib.ExitStack() as stack:
        _, cases = _ours(stack, ports)
        cases += _started(stack, ports, chosen, results)
        run = partial(load.streams, seconds=STREAM_S)
        results.streams = load.alternating(cases, STREAM_ROUNDS, run, partial(tell, "streams"))


def count(ports: list[int], chosen: list[others.Peer], results: Results) -> None:
    """Instructions per request of bare, ours, and those peers that can be counted."""
    lacking = instructions.missing()
    if lacking:
        results.missing["instructions"] = f"{lacking} is not installed"
        return
    tell("instructions", "a quarter of a minute each")
    results.counts["bare"] = instructions.bare_count(ports[0])
    results.counts["full"] = instructions.full_count(ports)
    results.counts["mirror"] = instructions.full_count(ports, Asked(mirror_permille=100))
    for peer in chosen:
        if peer.found is not None and peer.name in instructions.COUNTABLE and peer.name not in results.missing:
            results.counts[peer.name] = instructions.peer_count(peer, ports[0])


def ablate(as_json: bool, write: bool) -> int:
    """What a request would cost without each part."""
    lacking = instructions.missing()
    if lacking:
        print(f"not installed: {lacking}; on Debian: apt-get install valgrind", file=sys.stderr)
        return 2
    with plain_upstream() as ports:
        tell("instructions", "bare")
        found = {"bare": instructions.bare_count(ports[0])}
        for name, counted in instructions.profile(ports):
            tell("without", f"{name}: {counted.per_request / 1000:.1f} k" if counted else f"{name}: nothing works")
            found |= {name: counted} if counted else {}
    table = report.profile(found)
    if write:
        report.put(ROOT / "benchmarks" / "results" / "gateway-profile.md", report.profile_page(table))
    print(json.dumps({name: round(c.per_request) for name, c in found.items()}) if as_json else table)
    return 0


def tell(what: str, more: str = "") -> None:
    """Progress, beside the figures."""
    print(f"{what}: {more}" if more else what, file=sys.stderr, flush=True)


def _paced(results: Results, case: Served) -> load.Run:
    own = load.middle(results.plain[case.name], "per_s")
    return load.plain(case, results.plan.seconds, min(results.rate, own / 2))


def _ours(stack: contextlib.ExitStack, ports: list[int]) -> tuple[Full, list[Served]]:
    """The cases that need no peer: direct, bare, full, and full with a mirror of 10 %."""
    passthrough = stack.enter_context(bare(ports[0]))
    ours = stack.enter_context(full(ports))
    mirrored = ours.case("mirror", Asked(mirror_permille=100))
    return ours, [Served("direct", ports[0]), passthrough, ours.case("full", Asked()), mirrored]


def _started(
    stack: contextlib.ExitStack, ports: list[int], chosen: list[others.Peer], results: Results
) -> list[Served]:
    """The peers that are there and answer; why others do not is kept."""
    started = []
    for peer in (p for p in chosen if p.found is not None):
        tell("starting", peer.name)
        try:
            started.append(stack.enter_context(others.serving(peer, ports[0])))
        except RuntimeError as error:
            results.missing[peer.name] = str(error)
    return started


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--quick", action="store_true", help="direct, bare, full and the changes, under a minute")
    mode.add_argument("--changes", action="store_true", help="the changes alone")
    mode.add_argument("--ablate", action="store_true", help="instructions per request without each part (10 minutes)")
    parser.add_argument("--json", action="store_true", help="one object {name: number}")
    parser.add_argument("--write", action="store_true", help="put the tables into benchmarks/results/")
    parser.add_argument("--peers", type=Path, default=ROOT / "build" / "peers", help="environment with the peers")
    parser.add_argument("--install-peers", action="store_true", help="make that environment first")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
