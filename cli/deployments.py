"""prefect.yaml's deployments on the stack's Prefect server. Prefect itself runs in a process of its own."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from cli.parts import POOL
from configs.environment import process_environment
from configs.stack import Stack
from platforms.on_process import write_aside
from rollout.errors import NotFound, Unavailable

DEPLOY_S = 180.0
SILENT_S = 90  # three heartbeats: then a run whose worker died with it counts as crashed


def ensure_pool(stack: Stack) -> None:
    """The work pool that the deployments name; the worker fills in its template. Raises Unavailable."""
    answer = _post(stack, "/work_pools/", {"name": POOL, "type": "process"})
    if answer.status_code not in (201, 409):
        raise Unavailable(f"Prefect refused the work pool {POOL}: {answer.text[:300]}")


def ensure_deployments(stack: Stack) -> bool:
    """Deploy prefect.yaml when it or a flow has changed since; whether it had to. Raises NotFound, Unavailable."""
    mark = stack.home / "prefect" / "deployed.sha256"  # beside Prefect's database, to go with it
    now = digest(stack.project)
    if mark.exists() and mark.read_text() == now:
        return False
    _deploy(stack)
    _ensure_automation(stack)
    write_aside(mark, now)
    return True


def digest(project: Path) -> str:
    """What the deployments are made of: prefect.yaml and the flows, whose signatures are the parameters.

    Raises NotFound.
    """
    if not (project / "prefect.yaml").exists():
        raise NotFound(f"{project / 'prefect.yaml'} does not exist; set ROUNDHOUSE_PROJECT to the checkout")
    hasher = hashlib.sha256()
    signatures = (*sorted((project / "flows").glob("*.py")), *(project / "configs").glob("parameters.py"))
    for path in (project / "prefect.yaml", *signatures):
        hasher.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return hasher.hexdigest()


def worker_is_online(stack: Stack, since: float) -> bool:
    """Whether the worker has reported itself after ``since`` (epoch seconds)."""
    try:
        answer = _post(stack, f"/work_pools/{POOL}/workers/filter", {})
    except Unavailable:
        return False
    return answer.is_success and any(heard(worker) >= since for worker in answer.json())


def heard(worker: dict[str, Any]) -> float:
    """When Prefect last heard of a worker, epoch seconds; 0.0 when never."""
    at = worker.get("last_heartbeat_time")
    return datetime.fromisoformat(at).timestamp() if at else 0.0


def _deploy(stack: Stack) -> None:
    command = [str(Path(sys.executable).parent / "prefect"), "--no-prompt", "deploy", "--all"]
    environment = process_environment(stack, os.environ)
    with open(stack.logs / "deploy.log", "wb") as log:
        try:
            done = subprocess.run(
                command,
                cwd=stack.project,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=DEPLOY_S,
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"deploying prefect.yaml took over {DEPLOY_S:.0f} s; see {log.name}") from error
    if done.returncode != 0:
        raise Unavailable(f"prefect.yaml was not deployed (see {log.name}): {tail(Path(log.name))}")


def _ensure_automation(stack: Stack) -> None:
    """A run that died together with its worker would be shown as running for ever; Prefect turns it to crashed."""
    wanted = dead_runs()
    found = _post(stack, "/automations/filter", {"automations": {"name": {"any_": [wanted["name"]]}}})
    if found.is_success and found.json():
        return
    answer = _post(stack, "/automations/", wanted)
    if answer.is_error:
        raise Unavailable(f"Prefect refused the automation {wanted['name']}: {answer.text[:300]}")


def dead_runs() -> dict[str, Any]:
    """The automation that Prefect's documentation recommends for runs that stop sending heartbeats."""
    beat, ends = "prefect.flow-run.heartbeat", ("Completed", "Failed", "Cancelled", "Crashed", "Suspended", "Paused")
    trigger = {
        "type": "event",
        "posture": "Proactive",
        "after": [beat],
        "expect": [beat, *(f"prefect.flow-run.{end}" for end in ends)],
        "match": {"prefect.resource.id": ["prefect.flow-run.*"]},
        "for_each": ["prefect.resource.id"],
        "threshold": 1,
        "within": SILENT_S,
    }
    action = {"type": "change-flow-run-state", "state": "CRASHED", "message": f"no heartbeat for {SILENT_S} s"}
    return {"name": "crash-dead-runs", "enabled": True, "trigger": trigger, "actions": [action]}


def tail(path: Path, lines: int = 5) -> str:
    """The last lines of a log, as one."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return "no log"
    return " | ".join(line.strip() for line in text.splitlines()[-lines:] if line.strip())


def _post(stack: Stack, path: str, body: dict[str, Any]) -> httpx.Response:
    try:
        return httpx.post(stack.prefect_api + path, json=body, timeout=10.0, trust_env=False)
    except httpx.HTTPError as error:
        raise Unavailable(f"Prefect does not answer at {stack.prefect_api}: {error}") from error
