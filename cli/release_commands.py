"""``roundhouse build | deploy | release | rollback | redeploy``."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated

import typer

from cli.follow import follow_release, follow_run
from cli.prefect_api import PrefectApi
from cli.screen import out, progress, say, show_json, show_table
from configs.engine_sources import make_engine
from configs.files import load_service
from configs.order import Order, crown, order
from configs.stack import load_stack
from model_registry.port import open_registry
from model_registry.sources import fetch_any
from rollout.errors import Refused
from rollout.nouns import Phase
from store.port import Release, open_store
from store.steer import end_release, put_back, version_noun

ROLLED_BACK = 10

Service = Annotated[str, typer.Argument(help="A service of configs/services, for example chat.")]
Model = Annotated[str, typer.Argument(help="models:/NAME/VERSION, models:/NAME@ALIAS or dvc:PATH@REV.")]
Engine = Annotated[str, typer.Option(help="A file of configs/engines; empty: the service's.")]
Rollout = Annotated[str, typer.Option(help="A file of configs/rollouts; empty: the service's.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]


def build(service: Service, model: Model = "", engine: Engine = "", as_json: Json = False) -> None:
    """Have the engine that a release would use, here and now: found, fetched or built; a later release finds it.

    Example: `roundhouse build chat models:/smollm2/1 --engine q4_0`
    """
    wanted = checked_order(service, model, engine)
    with progress(as_json) as report:
        files = fetch_any(wanted.model, wanted.stack.registry(), report, str(wanted.stack.project))
        built = make_engine(wanted.stack, wanted.spec, files, report, say)
    if as_json:
        show_json(asdict(built))
    else:
        found = "found" if built.cached else f"built in {built.build_s:.1f} s"
        out.print(f"engine {built.digest[:16]} {found}, {built.size / 1e6:.1f} MB, in {built.directory}")


def deploy(service: Service, model: Model = "", engine: Engine = "", as_json: Json = False) -> None:
    """Start a version and warm it up beside the one in service, without any traffic.

    Example: `roundhouse deploy chat models:/smollm2/2 --engine q4_0`
    """
    wanted = checked_order(service, model, engine)
    run = PrefectApi(wanted.stack).start("deploy", {"service": service, "model": model, "engine": engine})
    ended(follow_release(wanted.stack, run.id, as_json), as_json)


def release(
    service: Service,
    model: Model = "",
    engine: Engine = "",
    rollout: Rollout = "",
    wait: Annotated[bool, typer.Option(help="Stay and show what happens.")] = True,
    as_json: Json = False,
) -> None:
    """Take a model version to live traffic, or turn it back, on evidence. Exit code 10: rolled back.

    Example: `roundhouse release chat models:/smollm2/2 --engine q4_0 --rollout fast`
    """
    wanted = checked_order(service, model, engine, rollout)
    parameters = {"service": service, "model": model, "engine": engine, "rollout": rollout}
    run = PrefectApi(wanted.stack).start("release", parameters)
    if wait:
        ended(follow_release(wanted.stack, run.id, as_json), as_json)
    elif as_json:
        show_json({"flow_run": run.id})
    else:
        out.print(
            f"started flow run {run.id}; see {wanted.stack.prefect_api.removesuffix('/api')}/runs/flow-run/{run.id}"
        )


def rollback(
    service: Service,
    to: Annotated[
        int, typer.Option(help="A version to return to; 0: end the release under way, else the one before.")
    ] = 0,
    reason: Annotated[str, typer.Option(help="What the records will say.")] = "asked for by hand",
    as_json: Json = False,
) -> None:
    """Turn traffic back now: end the release under way, or put an earlier version back in service. Needs no Prefect.

    Example: `roundhouse rollback chat`
    """
    stack, began = load_stack(), time.perf_counter()
    store = open_store(stack.store())
    told = None if to else end_release(store, service, reason)
    if told is None:
        version = put_back(store, service, to, reason)
        told = f"version {version.number} is in service again{crown(stack, service, version.model_uri)}"
    seconds = time.perf_counter() - began
    if as_json:
        show_json({"service": service, "result": told, "seconds": seconds})
    else:
        out.print(f"{told} ({seconds:.2f} s)")


def retire(
    service: Service,
    version: Annotated[int, typer.Option(help="The version to stop; not the one in service.")],
    as_json: Json = False,
) -> None:
    """Drain and stop the instances of a version that is not in service.

    Example: `roundhouse retire chat --version 2`
    """
    store = open_store(load_stack().store())
    version_noun(store, service, version)
    if not store.retire(service, version):
        rule = "it is in service, has a share of the traffic, or is stopped already"
        raise Refused("--version", version, rule, f"see `roundhouse traffic {service}`")
    if as_json:
        show_json({"service": service, "version": version, "retired": True})
    else:
        out.print(f"version {version} of {service} drains and stops")


def redeploy(service: Service, as_json: Json = False) -> None:
    """Rebuild and release again what the champion alias names, if its engine is out of date.

    Example: `roundhouse redeploy chat`
    """
    load_service(service)  # refused here before any run is started
    stack = load_stack()
    run = PrefectApi(stack).start("redeploy", {"service": service})
    done = follow_run(stack, run.id, as_json)
    if as_json:
        show_json(asdict(done))
    raise typer.Exit(0 if done.state == "COMPLETED" else 1)


def checked_order(service: str, model: str = "", engine: str = "", rollout: str = "") -> Order:
    """The order, refused here before any run is started."""
    wanted = order(service, model, engine, rollout)
    if wanted.model.startswith("models:/"):
        open_registry(wanted.stack.registry()).resolve(wanted.model)
    return wanted


def ended(release: Release, as_json: bool) -> None:
    """Show how a release ended, and leave with its exit code."""
    if as_json:
        show_json(asdict(release))
    else:
        show_findings(release)
        say(f"{release.service}: {release.phase}: {release.reason}")
    good = (Phase.PROMOTED, Phase.DEPLOYED)
    raise typer.Exit(0 if release.phase in good else ROLLED_BACK if release.phase is Phase.ROLLED_BACK else 1)


def show_findings(release: Release) -> None:
    """The numbers behind a verdict."""
    findings = release.evidence.get("findings") or []
    if findings:
        columns = ("metric", "says", "stable", "candidate", "low", "high", "bound", "samples")
        show_table("", columns, [_row(finding) for finding in findings])


def _row(finding: dict[str, object]) -> tuple[object, ...]:
    numbers = [finding[k] for k in ("stable", "candidate", "low", "high", "margin")]
    shown = ["" if n is None else f"{n:.4g}" for n in numbers]
    return finding["metric"], finding["outcome"], *shown, f"{finding['n_stable']} / {finding['n_candidate']}"
