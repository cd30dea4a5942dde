"""``roundhouse stress-engine``: start an engine by itself, load it, stop it; for ``dvc.yaml`` and for trying things."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cli.screen import out, show_json
from configs.files import load_engine
from configs.load_file import load_load
from engines.evaluate import engine_at, serving
from loadtest.port import LoadPlan, LocustSettings, open_loadtest
from loadtest.report import as_csv, metrics, put, read_lines


def stress_engine(
    engine_directory: Annotated[Path, typer.Argument(help="A built engine, or a folder with one in it.")],
    to: Annotated[Path, typer.Option("--out", help="Folder of the results.")],
    engine: Annotated[str, typer.Option(help="A file of configs/engines: how to serve it.")] = "q8_0",
    load: Annotated[str, typer.Option(help="A file of configs/loads.")] = "short",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Start a built engine, load it, stop it; metrics.json, plots.csv and a page with plots stay in --out.

    Example: `roundhouse stress-engine build/dvc/engine --out build/dvc/stress`
    """
    spec, file = load_engine(engine).spec(), load_load(load)
    with serving(engine_at(engine_directory), spec) as url:
        plan = LoadPlan(url, file.users, file.duration_s, file.max_tokens, file.api)
        report = open_loadtest(LocustSettings(nice=0)).run(plan, str(to), lambda second: None)
    put(to / "metrics.json", json.dumps(metrics(report), indent=2) + "\n")
    put(to / "plots.csv", as_csv(read_lines(Path(report.seconds_file))))
    if as_json:
        show_json(asdict(report))
    else:
        out.print(
            f"{report.requests} requests, {report.failed} failed, {report.tokens_per_s:.1f} tokens/s; {report.page}"
        )
    raise typer.Exit(1 if report.failed or report.cut else 0)
