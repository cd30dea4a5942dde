"""``roundhouse stress-engine``: start an engine by itself, load it, stop it. No stack is needed; ``dvc.yaml`` calls it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import httpx
import typer

from cli.screen import out, say, show_json
from configs.files import load_engine, load_load
from engines.evaluate import engine_at, serving
from engines.port import EngineSpec, LocalSettings, open_engine
from loadtest.port import LoadPlan, LocustSettings, open_loadtest
from loadtest.report import as_csv, metrics, put, read_lines
from platforms.ports import free_port
from rollout.errors import Unavailable
from rollout.nouns import Engine


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
    with serving(read_engine(engine_directory), spec) as url:
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


@contextmanager
def serving(engine: Engine, spec: EngineSpec) -> Iterator[str]:
    """The engine's address while it serves. Raises Unavailable when it does not get ready."""
    kind, port = open_engine(spec.kind, LocalSettings(str(Path(engine.directory).parent))), free_port("127.0.0.1")
    command = kind.serve_command(engine, spec, "127.0.0.1", port)
    process = subprocess.Popen(command.argv, env=os.environ | command.env, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url + kind.readiness(spec).path, process, kind.readiness(spec).load_s)
        say(f"engine {engine.digest[:12]} serves at {url}")
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(command.stop_s)


def _wait(url: str, process: subprocess.Popen[bytes], seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process.poll() is not None:
            raise Unavailable(f"the engine ended with status {process.returncode} while loading")
        try:
            if httpx.get(url, timeout=2.0, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise Unavailable(f"the engine was not loaded within {seconds:g} s")
