"""Load tests by request: of a version in service or of any other that runs."""

from __future__ import annotations

import time
from dataclasses import asdict

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from configs.order import load_order
from configs.stack import load_stack
from loadtest.port import LoadReport, open_loadtest


@task(cache_policy=NO_CACHE, timeout_seconds=7200)
def load_version(service: str, version: int, load: str) -> LoadReport:
    """Run the load test against one ready instance. Raises NotFound when the version has none."""
    stack, logger = load_stack(), get_run_logger()
    plan, directory = load_order(stack, service, version, load, time.time())
    return open_loadtest(stack.loadtest()).run(plan, directory, lambda second: logger.info("%s", second))


@task(cache_policy=NO_CACHE)
def show_load(service: str, report: LoadReport) -> dict:
    """An artifact with the figures and where the page is; the figures."""
    rows = "".join(
        f"| {name} | {q.p50 * 1000:.1f} | {q.p95 * 1000:.1f} | {q.p99 * 1000:.1f} | {q.n} |\n"
        for name, q in (("TTFT", report.ttft), ("TPOT", report.tpot), ("E2E", report.e2e))
        if q is not None
    )
    text = (
        f"# Stress test of {service}\n\n{report.requests} requests, {report.failed} failed, {report.cut} cut, "
        f"{report.requests_per_s:.2f} requests/s, {report.tokens_per_s:.1f} tokens/s.\n\n"
        f"| ms | p50 | p95 | p99 | samples |\n|---|---|---|---|---|\n{rows}\nPage with plots: `{report.page}`\n"
    )
    create_markdown_artifact(
        text, key=f"stress-{service}", description=f"{report.requests} requests, {report.failed} failed"
    )
    return asdict(report)
