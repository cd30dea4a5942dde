"""The stack as users have it: up, status, down, and what a crash leaves."""

from __future__ import annotations

import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable

import httpx
import psutil
import pytest

from cli.prefect_api import PrefectApi
from cli.processes import marked
from cli.stack import down, up
from cli.stack_status import PartStatus, status
from configs.stack import Stack
from model_registry.port import open_registry
from platforms.on_process import SupervisorPlatform
from platforms.port import InstanceSpec
from rollout.errors import Conflict

PARTS = ["supervisor", "mlflow", "prefect", "gateway", "agent", "worker"]


def silent(step: str, state: str) -> None:
    """Nobody watches."""


def parts_of(stack: Stack) -> dict[str, PartStatus]:
    """The parts' lines of the status, by name."""
    return {line.name: line for line in status(stack) if line.name in PARTS}


def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + 90
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


def ready(stack: Stack) -> bool:
    """Whether every part is ready."""
    return all(line.health == "ready" for line in parts_of(stack).values())


def test_every_part_is_ready_and_answers(stack: Stack) -> None:
    """After ``up`` each part is shown with pid, port and health, and its address answers."""
    shown = parts_of(stack)
    assert list(shown) == PARTS and ready(stack)
    assert all(line.pid for line in shown.values())
    assert shown["prefect"].port == stack.ports.prefect
    assert httpx.get(f"http://{stack.host}:{stack.ports.prefect}/", timeout=30).status_code == 200
    assert httpx.get(stack.mlflow_url, timeout=30).status_code == 200
    assert httpx.get(f"{stack.agent_url}/healthz", timeout=30).status_code == 200
    assert httpx.get(f"{stack.gateway_url}/api/predict/nobody/v1/models").status_code == 404


def test_idle_stack_fits_in_a_gibibyte(stack: Stack) -> None:
    """All parts together hold less than 1 GiB when nothing is asked of them."""
    assert sum(line.memory_mib or 0 for line in parts_of(stack).values()) < 1024


def test_deployments_and_worker_are_there(stack: Stack) -> None:
    """Each deployment of prefect.yaml is known to the server, and the pool has a worker that is online."""
    found = PrefectApi(stack).ask("POST", "/deployments/filter", {})
    assert {"release", "build", "stress", "rollback", "redeploy"} <= {each["name"] for each in found}
    workers = PrefectApi(stack).ask("POST", "/work_pools/roundhouse/workers/filter", {})
    assert "ONLINE" in {worker["status"] for worker in workers}


def test_runs_that_died_with_their_worker_are_noticed(stack: Stack) -> None:
    """One automation turns runs without heartbeat into crashed ones."""
    found = PrefectApi(stack).ask("POST", "/automations/filter", {})
    dead = [each for each in found if each["name"] == "crash-dead-runs"]
    assert [(each["enabled"], each["trigger"]["within"]) for each in dead] == [(True, 90.0)]


def test_mlflow_has_one_webhook_to_the_agent(stack: Stack) -> None:
    """MLflow will tell the agent of aliases, once."""
    hooks = open_registry(stack.registry()).client.list_webhooks()
    assert [hook.url for hook in hooks] == [f"{stack.agent_url}/hooks/mlflow"]


def test_secrets_are_for_the_owner_only(stack: Stack) -> None:
    """Keys lie in files of mode 0600 in a folder of mode 0700, and on no command line."""
    assert stat.S_IMODE(stack.secrets.stat().st_mode) == 0o700
    keys = [path for path in stack.secrets.iterdir() if path.name.startswith("mlflow")]
    assert len(keys) == 2 and all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in keys)
    lines = " ".join(" ".join(process.cmdline()) for process in marked(stack))
    assert not any(path.read_text().strip() in lines for path in keys)


def test_up_twice_changes_nothing(stack: Stack) -> None:
    """A second ``up`` leaves every process in place."""
    before = {name: line.pid for name, line in parts_of(stack).items()}
    up(stack, silent)
    assert {name: line.pid for name, line in parts_of(stack).items()} == before


def test_killed_part_comes_back(stack: Stack) -> None:
    """A part that is killed is started again without anybody's doing."""
    pid = parts_of(stack)["agent"].pid
    os.kill(pid, signal.SIGKILL)
    until(lambda: parts_of(stack)["agent"].pid not in (pid, None) and ready(stack))
    assert parts_of(stack)["agent"].health == "ready"


def test_up_heals_after_a_crash_of_supervisord(stack: Stack) -> None:
    """``up`` after a crash of supervisord ends what it left, Envoy served until then, and all parts run again."""
    SupervisorPlatform(stack.processes()).start(
        InstanceSpec(
            "left-v1-0", (sys.executable, "-m", "http.server", str(stack.ports.engines_to)), stack.ports.engines_to
        )
    )
    os.kill(parts_of(stack)["supervisor"].pid, signal.SIGKILL)
    until(lambda: any(line.health == "stray" for line in status(stack)))
    assert httpx.get(f"{stack.gateway_url}/api/predict/nobody/v1/models").status_code == 404
    left = {process.pid for process in marked(stack)}
    up(stack, silent)
    assert ready(stack)
    assert not left & {process.pid for process in marked(stack)}
    SupervisorPlatform(stack.processes()).remove("left-v1-0")


def test_down_leaves_no_process_and_a_taken_port_stops_up(stack: Stack) -> None:
    """``down`` ends all, twice is harmless; ``up`` then names who took a port and starts nothing, or comes back."""
    SupervisorPlatform(stack.processes()).start(InstanceSpec("some-v1-0", ("sleep", "600"), stack.ports.engines_to))
    down(stack, silent)
    down(stack, silent)
    assert marked(stack) == []
    assert {line.health for line in status(stack)} == {"stopped"}
    with socket.create_server((stack.host, stack.ports.mlflow)):
        expected = f"mlflow: port {stack.ports.mlflow} is held by pid {os.getpid()}"
        with pytest.raises(Conflict, match=expected):
            up(stack, silent)
        assert marked(stack) == []
    up(stack, silent)
    assert ready(stack)


def test_no_process_reports_anywhere(stack: Stack) -> None:
    """Every process runs with telemetry switched off, writes into the stack's folder, and carries its mark."""
    for process in marked(stack):
        variables = process.environ()
        assert variables["DO_NOT_TRACK"] == "true" and variables["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
        assert variables["TMPDIR"].startswith(str(stack.home))


def test_flows_give_way_to_engines(stack: Stack) -> None:
    """The worker, whose children the flows are, runs at a lower priority than the gateway."""
    shown = parts_of(stack)
    assert psutil.Process(shown["worker"].pid).nice() > psutil.Process(shown["gateway"].pid).nice()
