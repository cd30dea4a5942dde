"""``roundhouse demo``: the main job, end to end, on real parts, while a client that knows nothing of it calls."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.follow import follow_release
from cli.prefect_api import PrefectApi
from cli.release_commands import show_findings
from cli.screen import out, progress, say, show_json, show_table
from cli.stack import up
from configs.stack import Stack, load_stack
from gateway.tokens import TokenFile
from model_registry.port import open_registry
from model_registry.sample import sample_model_file
from rollout.errors import Unavailable
from rollout.nouns import Phase
from store.port import Release, open_store

SERVICE, MODEL = "demo", "smollm2-demo"
CANDIDATES = (
    ("q8_0", "the first version"),
    ("q4_0", "another quantisation, as good"),
    ("broken", "truly worse: its first token comes 0.4 s late, each further one 20 ms late"),
)


@dataclass
class Demo:
    """What the demo has seen so far."""

    stack: Stack
    began: float
    quiet: bool
    client: subprocess.Popen[bytes] | None = None
    releases: list[dict[str, Any]] = field(default_factory=list)

    @property
    def counts_file(self) -> Path:
        return self.stack.home / "demo" / "counts.json"


def demo(as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False) -> None:
    """Release a first version, a good second and a bad third, while a client streams through the gateway.

    Exit code 0 only if the second was promoted, the third turned back, and no request failed. Example:
    `roundhouse demo`
    """
    stack = load_stack()
    show = Demo(stack, time.monotonic(), as_json)
    up(stack, _step(as_json))
    _forget_last_time(stack)
    try:
        for engine, what in CANDIDATES:
            _release(show, engine, what)
            if show.client is None:
                show.client = _start_client(show)
    finally:
        counts = _stop_client(show)
    facts = _facts(show, counts)
    _write(stack.project / "build" / "demo.json", facts)
    if as_json:
        show_json(facts)
    else:
        _tell(show, facts)
    raise typer.Exit(0 if _good(facts) else 1)


def _step(quiet: bool) -> Callable[[str, str], None]:
    return (lambda step, state: None) if quiet else (lambda step, state: say(f"  {step}: {state}"))


def _forget_last_time(stack: Stack) -> None:
    """A demo begins with a service that was never released; what is left of an earlier one drains meanwhile."""
    store = open_store(stack.store())
    store.drop_service(SERVICE, time.time())
    TokenFile(stack.tokens).drop(SERVICE)
    until = time.monotonic() + 90
    while store.instances(SERVICE):
        if time.monotonic() > until:
            raise Unavailable("the instances of the last demo do not end; see `roundhouse status`")
        time.sleep(0.2)


def _release(show: Demo, engine: str, what: str) -> None:
    say(f"\nrelease {len(show.releases) + 1}: {engine}, {what}")
    began = time.monotonic()
    registry = open_registry(show.stack.registry())
    with progress(show.quiet) as report:
        source = sample_model_file(show.stack.cache, report)
        model = registry.register(MODEL, str(source.parent), "sample", report)
    registered = time.monotonic() - began
    run = PrefectApi(show.stack).start("release", {"service": SERVICE, "model": model.uri, "engine": engine})
    release = follow_release(show.stack, run.id, show.quiet)
    if not show.quiet:
        show_findings(release)
        say(f"  {release.phase}: {release.reason}")
    show.releases.append(_facts_of(release, model.uri, engine, time.monotonic() - began, registered))


def _facts_of(release: Release, model: str, engine: str, seconds: float, registered: float) -> dict[str, Any]:
    return {
        "version": release.candidate,
        "model": model,
        "engine": engine,
        "verdict": str(release.phase),
        "reason": release.reason,
        "seconds": round(seconds, 2),
        "phases": {"register": round(registered, 2), **_rounded(release.evidence.get("seconds") or {})},
        "findings": release.evidence.get("findings") or [],
    }


def _start_client(show: Demo) -> subprocess.Popen[bytes]:
    """The witness: a process of its own that streams completions through the gateway and counts."""
    folder = show.counts_file.parent
    folder.mkdir(parents=True, exist_ok=True)
    show.counts_file.unlink(missing_ok=True)
    key = folder / "token"
    with open(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(TokenFile(show.stack.tokens).secret(SERVICE))
    url = f"{show.stack.gateway_url}/api/predict/{SERVICE}"
    command = [sys.executable, "-m", "loadtest.steady", "--url", url, "--token-file", str(key)]
    command += ["--out", str(show.counts_file), "--users", "3", "--rate", "6", "--max-tokens", "16"]
    say(f"\na client now streams completions through {url} until the end")
    return subprocess.Popen(command, cwd=show.stack.project, stdout=subprocess.DEVNULL)


def _stop_client(show: Demo) -> dict[str, Any]:
    if show.client is None:
        return {}
    show.client.send_signal(signal.SIGTERM)
    show.client.wait(60)
    (show.counts_file.parent / "token").unlink(missing_ok=True)
    return json.loads(show.counts_file.read_text())


def _facts(show: Demo, counts: dict[str, Any]) -> dict[str, Any]:
    return {
        "requests_sent": counts.get("requests_sent", 0),
        "requests_failed": counts.get("requests_failed", 0),
        "streams_cut": counts.get("streams_cut", 0),
        "tokens": counts.get("tokens", 0),
        "failures": counts.get("failures", []),
        "releases": show.releases,
        "seconds": round(time.monotonic() - show.began, 1),
    }


def _good(facts: dict[str, Any]) -> bool:
    verdicts = [release["verdict"] for release in facts["releases"]]
    expected = [Phase.PROMOTED, Phase.PROMOTED, Phase.ROLLED_BACK]
    return verdicts == expected and facts["requests_failed"] == 0 and facts["streams_cut"] == 0


def _tell(show: Demo, facts: dict[str, Any]) -> None:
    phases = ("fetch", "build", "warm up", "stress", "evidence")
    columns = ("v", "engine", "verdict", *phases, "all")
    rows = [
        (
            r["version"],
            r["engine"],
            r["verdict"],
            *(f"{r['phases'].get(p, 0):.1f}" for p in phases),
            f"{r['seconds']:.1f}",
        )
        for r in facts["releases"]
    ]
    out.print()
    show_table("Three releases, in seconds", columns, rows)
    numbers = [_finding(r["version"], f) for r in facts["releases"] for f in r["findings"]]
    show_table("The numbers behind the verdicts", ("v", "metric", "says", "candidate to stable", "bound", "n"), numbers)
    out.print(
        f"The client sent {facts['requests_sent']} requests and got {facts['tokens']} tokens: "
        f"{facts['requests_failed']} requests failed, {facts['streams_cut']} streams were cut. "
        f"All in {facts['seconds']} s.\n"
    )
    _tell_how_to_call(show.stack)


def _finding(version: int, finding: dict[str, Any]) -> tuple[Any, ...]:
    low, high = finding["low"], finding["high"]
    between = "" if low is None else f"{low:.2f} to {high:.2f}"
    counts = f"{finding['n_candidate']} / {finding['n_stable']}"
    return version, finding["metric"], finding["outcome"], between, f"{finding['margin']:g}", counts


def _tell_how_to_call(stack: Stack) -> None:
    url = f"{stack.gateway_url}/api/predict/{SERVICE}/v1"
    key = f"@<(.venv/bin/roundhouse token show {SERVICE} --header)"
    out.print(
        f"Prefect  {stack.prefect_api.removesuffix('/api')}\nMLflow   {stack.mlflow_url}\nGateway  {url}\n",
        markup=False,
    )
    out.print(
        f"With curl:\n  curl {url}/completions -H {key} -H 'Content-Type: application/json' \\\n"
        '    -d \'{"prompt": "The capital of France is", "max_tokens": 16}\'\n\n'
        "With the openai package:\n  from openai import OpenAI\n"
        f'  client = OpenAI(base_url="{url}", api_key="...")  # the token\n'
        '  client.completions.create(model="demo", prompt="The capital of France is", max_tokens=16)\n\n'
        "The stack stays up: `roundhouse status`, `roundhouse traffic demo`, `roundhouse call demo`.\n"
        "(The command is in .venv/bin.) `make clean` ends it.",
        markup=False,
    )


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}


def _write(path: Path, facts: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".new")
    aside.write_text(json.dumps(facts, indent=1))
    aside.rename(path)
