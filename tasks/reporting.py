"""What a release leaves behind for people: a page in the Prefect UI, a run in MLflow, and the store's evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from configs.order import Order
from loadtest.port import LoadReport
from model_registry.port import open_registry
from reports.files import put
from reports.head import NOTED
from reports.page import PAGE, write_page
from reports.record import record, record_of
from rollout.json_text import finite, json_text
from rollout.nouns import ModelVersion, Verdict
from store.port import Store, open_store
from tasks.aftermath import known, run_of
from tasks.serving import report_directory
from tasks.ticket import Ticket, as_plain
from tasks.traffic import Stretch


def note(order: Order, ticket: Ticket, model: ModelVersion | None = None) -> None:
    """Keep what was ordered beside the release's files, as far as it is known, so that whoever tells of the release
    knows it too; again whenever it has become another. Raises OSError."""
    put(report_directory(order, ticket) / NOTED, json_text({"release": ticket.release, **_ordered(order, model)}, 1))


def _ordered(order: Order, model: ModelVersion | None) -> dict[str, Any]:
    """By the names of the record: ``reports.head.ORDERED``."""
    return {
        "model": model.uri if model else order.model,
        "policy": order.policy_name,
        "rules": as_plain(order.policy),
        "engine_name": order.engine_name,
        "spec": as_plain(order.spec),
    }


@task(cache_policy=NO_CACHE)
def report(
    order: Order,
    ticket: Ticket,
    model: ModelVersion,
    load: LoadReport | None,
    stretches: list[Stretch],
    verdict: Verdict,
    seconds: dict[str, float],
    gpu: dict[str, dict[str, float]],
) -> dict[str, Any]:
    """Write the evidence to the store, and then the page, an artifact that tells what happened, and the run to MLflow:
    what cannot be written loses nothing of what is before it."""
    store = open_store(order.stack.store())
    release = store.release(ticket.release)
    evidence: dict[str, Any] = {
        **known(store, release),
        **_ordered(order, model),
        "findings": [asdict(f) for f in verdict.findings],
        "stages": [{"stage": s.stage, "outcome": str(s.verdict.outcome), "seconds": s.seconds} for s in stretches],
        "stress": None if load is None else _numbers(load),
        "seconds": seconds,
        **({"gpu": gpu} if gpu else {}),
    }
    directory, evidence = report_directory(order, ticket), finite(evidence)
    told, page = written(store, evidence, directory, get_run_logger().warning)
    create_markdown_artifact(markdown(evidence), key=f"release-{release.service}", description=release.reason[:200])
    files = {**({"report": str(page)} if page else {}), **({"stress": load.page} if load else {})}
    run = run_of(told, files, {"release.md": markdown(evidence)})
    open_registry(order.stack.registry()).log_release(run)
    return evidence


def written(
    store: Store, evidence: dict[str, Any], directory: Path, warn: Callable[[str], None]
) -> tuple[dict[str, Any], Path | None]:
    """The record, and its page where it could be drawn: the release has ended, so that is no reason for it to fail.

    The evidence is in the store before any file is read or written. Raises only what the store does.
    """
    store.attach_evidence(evidence["release"], evidence)
    told = record(evidence, ())
    try:
        put(directory / NOTED, json_text(evidence, indent=1))
        told = record_of(evidence, directory)
        for missing in told["unread"]:
            warn(missing)
        return told, write_page(told, directory / PAGE)
    except Exception as error:  # whatever is wrong with a file or a picture
        warn(f"the page of {evidence['release']} could not be written: {error}")
        return told, None


def markdown(evidence: dict[str, Any]) -> str:
    """The release as a page for a reader who opens no log."""
    digest = (evidence.get("engine") or {}).get("digest") or ""
    head = (
        f"# {evidence['service']}: {evidence['outcome']}\n\n{evidence['reason']}\n\n"
        f"Model `{evidence['model']}`, engine `{digest[:12]}`, version {evidence['candidate']} "
        f"against {evidence['stable'] or 'none'}, policy `{evidence['policy']}`, release `{evidence['release']}`.\n\n"
    )
    findings = "".join(
        f"| {f['metric']} | {f['outcome']} | {_cell(f['stable'])} | {_cell(f['candidate'])} | {_cell(f['low'])} to "
        f"{_cell(f['high'])} | {_cell(f['margin'])} | {f['n_stable']} / {f['n_candidate']} |\n"
        for f in evidence["findings"]
    )
    table = (
        "| metric | says | stable | candidate | interval | bound | samples |\n|---|---|---|---|---|---|---|\n"
        + findings
    )
    times = "".join(f"| {name} | {value:.1f} |\n" for name, value in evidence["seconds"].items())
    return head + (table if findings else "") + "\n| phase | seconds |\n|---|---|\n" + times + _gpu_table(evidence)


def _gpu_table(evidence: dict[str, Any]) -> str:
    """What the GPUs did by phase; nothing without one."""
    use: dict[str, dict[str, float]] = evidence.get("gpu", {})
    if not use:
        return ""
    names = list(dict.fromkeys(name for numbers in use.values() for name in numbers))
    rows = "".join(f"| {name} | {' | '.join(_cell(use[p].get(name)) for p in use)} |\n" for name in names)
    return f"\n| GPU | {' | '.join(use)} |\n|{'---|' * (len(use) + 1)}\n{rows}"


def _numbers(load: LoadReport) -> dict[str, float]:
    flat = {"requests": load.requests, "failed": load.failed, "cut": load.cut}
    flat |= {"requests_per_s": load.requests_per_s, "tokens_per_s": load.tokens_per_s}
    for name, quantiles in (("ttft", load.ttft), ("tpot", load.tpot), ("e2e", load.e2e)):
        if quantiles is not None:
            flat |= {f"{name}_p50": quantiles.p50, f"{name}_p95": quantiles.p95}
    return {name: float(value) for name, value in flat.items()}


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
