"""``python -m loadtest run --url ... --out DIR``: a load test without a server around it, as ``dvc.yaml`` calls it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtest.plans import authorization
from loadtest.port import LoadPlan, LoadTestSettings, LocustSettings, open_loadtest
from loadtest.report import as_csv, metrics, put, read_lines
from rollout.errors import RoundhouseError


def main(arguments: Sequence[str] | None = None, settings: LoadTestSettings | None = None) -> int:
    """Run one load test; also writes ``metrics.json`` (flat numbers) and ``plots.csv``. Returns the exit status."""
    given = _parser().parse_args(arguments)
    try:
        plan = _plan(given)
        report = open_loadtest(settings or LocustSettings()).run(plan, given.out, _show)
    except RoundhouseError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    folder, numbers = Path(report.directory), metrics(report)
    put(folder / "metrics.json", json.dumps(numbers, indent=2) + "\n")
    put(folder / "plots.csv", as_csv(read_lines(Path(report.seconds_file))))
    print(json.dumps(numbers | {"errors": dict(report.errors), "page": report.page}))
    return 0


def _plan(given: argparse.Namespace) -> LoadPlan:
    return LoadPlan(
        given.url, given.users, given.duration, given.max_tokens, given.api, not given.no_stream, given.ramp,
        authorization(given.token_file), model=given.model,
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest", description="Load tests of OpenAI servers")
    run = parser.add_subparsers(dest="verb", required=True).add_parser("run", help="run one and write its report")
    run.add_argument("--url", required=True, help="base, for example http://127.0.0.1:8800/api/predict/chat")
    run.add_argument("--out", required=True, metavar="DIR", help="folder of the results")
    run.add_argument("--users", type=int, default=LoadPlan.users, help="clients, each with one request open")
    run.add_argument("--duration", type=float, default=LoadPlan.duration_s, help="seconds")
    run.add_argument("--max-tokens", type=int, default=LoadPlan.max_tokens)
    run.add_argument("--api", choices=("chat", "completions"), default=LoadPlan.api)
    run.add_argument("--no-stream", action="store_true", help="ask for whole answers; no TTFT, no TPOT")
    run.add_argument("--ramp", type=float, default=LoadPlan.ramp_s, help="seconds over which the users start")
    run.add_argument("--model", default=LoadPlan.model, help="left out where not given")
    run.add_argument("--token-file", help="file with the token for Authorization")
    return parser


def _show(second: dict[str, float]) -> None:
    latency = f", TTFT p50 {second['ttft_p50'] * 1000:.0f} ms" if "ttft_p50" in second else ""
    print(
        f"{second['t']:6.1f} s  {second['requests']:4.0f} requests, {second['failed']:.0f} failed, "
        f"{second['tokens']:.0f} tokens{latency}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    sys.exit(main())
