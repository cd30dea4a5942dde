"""The stack on this machine: ``up``, ``down``. Both may be repeated, interrupted, and meet what a crash has left."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil

from cli.deployments import ensure_deployments, ensure_pool, tail, worker_is_online
from cli.gateway_process import GatewayProcesses
from cli.parts import GATEWAYS, Part, apart_from_gateway, parts
from cli.preparing import key, only_one, prepare, require_ports
from cli.processes import end, marked, strays
from configs.environment import process_environment
from configs.stack import Stack
from gateway.command import is_current, write_bootstrap
from gateway.render import Layout
from gateway.slots import in_charge, other
from gateway.upgrade import finish, quieten, relieve, send_away
from model_registry.port import open_registry
from platforms.on_process import ALREADY_STARTED, ProcessStates, Supervisor, write_aside
from platforms.port import ProcessState, open_platform
from rollout.errors import Unavailable

Say = Callable[[str, str], None]  # (step, state)
QUIET_S = 5.0  # after the instances' end, for the last bytes of their answers
DRAIN_S = 40.0  # engines finish their open streams in 30 s; supervisord kills them after 35 s
GRACE_S = 15.0
LOOK_S = 0.1
ENDED = (ProcessStates.FATAL, ProcessStates.STOPPED, ProcessStates.EXITED)


def up(stack: Stack, say: Say) -> None:
    """All parts running and able to serve; what already is so is left alone.

    Raises Conflict (a port is taken, another ``up`` is at work), Refused, NotFound, Unavailable (with the part's log).
    """
    require_ports(stack)
    say("ports", "ready")
    with only_one(stack):
        conf, by_name = prepare(stack), {part.name: part for part in parts(stack)}
        say("directories", "ready")
        supervisor = _supervisord(stack, conf, say)
        with ThreadPoolExecutor(3) as pool:
            mlflow = pool.submit(_run, supervisor, by_name["mlflow"], say)
            prefect = pool.submit(_run, supervisor, by_name["prefect"], say)
            agent = pool.submit(_serve, stack, supervisor, by_name["agent"], say)
            flows = pool.submit(_flows, stack, supervisor, by_name["worker"], prefect, say)
            _all_of(prefect, mlflow, agent)
            _webhook(stack, say)
            _all_of(flows)
    finish(stack.gateway(), GatewayProcesses(supervisor), lambda text: say("gateway", text))


def down(stack: Stack, say: Say) -> None:
    """No process of the stack is left: who gives work first, then instances (drained), then the servers."""
    if not stack.home.exists():
        return say("stack", "not there")
    with only_one(stack):
        supervisor = Supervisor(str(stack.supervisor_socket))
        if _pid(supervisor):
            _halt(stack, supervisor, say)
        _sweep(stack, say)
    say("stack", "down")


def _halt(stack: Stack, supervisor: Supervisor, say: Say) -> None:
    """Everything under supervisord, and itself. The gateway goes after the instances whose streams it carries."""
    _stop(supervisor, ("worker", "agent"), say)
    _stop_instances(stack, say)
    quieten(stack.gateway(), QUIET_S)
    gateways = tuple(name for name in GATEWAYS.values() if not _ended(supervisor, name))
    _stop(supervisor, (*gateways, "prefect", "mlflow"), say)
    pid = _pid(supervisor)
    supervisor.call("shutdown")
    if pid:
        with contextlib.suppress(psutil.Error):
            psutil.wait_procs([psutil.Process(pid)], timeout=DRAIN_S)
    say("supervisor", "stopped")


def _sweep(stack: Stack, say: Say) -> None:
    """End what a crash left behind; whoever holds the gateway's port last, so that open streams end well."""
    left = marked(stack)
    if not left:
        return
    say("supervisor", f"ending {len(left)} processes that were left behind")
    gateway = [process for process in left if stack.ports.gateway in _ports_of(process)]
    end([process for process in left if process not in gateway], DRAIN_S)
    end(gateway, GRACE_S)


# --- supervisord --------------------------------------------------------------------------------------------------


def _supervisord(stack: Stack, conf: str, say: Say) -> Supervisor:
    """A supervisord that answers and knows ``conf``; one with another configuration is replaced.

    What differs for the gateway alone is left to its upgrade.
    """
    supervisor, file = Supervisor(str(stack.supervisor_socket)), stack.run / "supervisor.conf"
    pid, known = _pid(supervisor), file.read_text() if file.exists() else ""
    if pid and apart_from_gateway(known) == apart_from_gateway(conf):
        if known != conf:
            _stop(supervisor, ("agent",), say)  # it reads the gateway's settings at its start
            write_aside(file, conf)
        end(_blocking(stack, pid), GRACE_S)
        say("supervisor", "ready")
        return supervisor
    if pid:
        say("supervisor", "settings have changed: starting anew")
        _halt(stack, supervisor, say)
    _sweep(stack, say)
    say("supervisor", "starting")
    write_aside(file, conf)
    _launch(stack, file)
    _until(lambda: _pid(supervisor) is not None, 30.0, "supervisor", stack.logs / "supervisor.log")
    say("supervisor", "ready")
    return supervisor


def _launch(stack: Stack, conf: Path) -> None:
    """supervisord detaches itself, so it outlives the caller and its terminal."""
    command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(conf)]
    done = subprocess.run(
        command, cwd=stack.home, env=process_environment(stack, os.environ), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=30, start_new_session=True,
    )  # fmt: skip
    if done.returncode != 0:
        raise Unavailable(f"supervisord did not start: {done.stderr.strip()[-500:]}")


def _pid(supervisor: Supervisor) -> int | None:
    try:
        return int(supervisor.call("getPID"))
    except Unavailable:
        return None


def _blocking(stack: Stack, pid: int) -> list[psutil.Process]:
    """Ours, unknown to this supervisord, and on a port of a part. Others may be flows whose worker died: they stay."""
    ports = {stack.ports.gateway, stack.ports.agent, stack.ports.prefect, stack.ports.mlflow}
    return [process for process in strays(stack, pid) if _ports_of(process) & ports]


def _ports_of(process: psutil.Process) -> set[int]:
    try:
        return {c.laddr.port for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    except psutil.Error:
        return set()


# --- parts --------------------------------------------------------------------------------------------------------


def _run(supervisor: Supervisor, part: Part, say: Say) -> None:
    """Start a part if it does not run, and wait until it can serve. Raises Unavailable with the end of its log."""
    if _start(supervisor, part):
        say(part.name, "starting")
    began = time.monotonic()
    _wait(supervisor, part, lambda: answers(part.probe or ""))
    say(part.name, f"ready ({time.monotonic() - began:.1f} s)" if time.monotonic() - began > LOOK_S else "ready")


def _start(supervisor: Supervisor, part: Part) -> bool:
    """Whether it had to be started."""
    info = supervisor.info(part.program)
    if info and info["state"] in (ProcessStates.RUNNING, ProcessStates.STARTING):
        return False
    if info and info["state"] == ProcessStates.STOPPING:
        _until(lambda: supervisor.info(part.program)["state"] in ENDED, GRACE_S, part.name, part.log)
    supervisor.call("startProcess", part.program, False, ignore=ALREADY_STARTED)
    return True


def _wait(supervisor: Supervisor, part: Part, ready: Callable[[], bool]) -> None:
    def done() -> bool:
        if ready():
            return True
        if supervisor.info(part.program)["state"] in ENDED:
            raise Unavailable(f"{part.name} ended while it was starting; the end of {part.log}: {tail(part.log)}")
        return False

    _until(done, part.ready_s, part.name, part.log)


def answers(url: str) -> bool:
    """Whether a server is there and not failing (any status below 500); whose certificate it shows is no matter."""
    try:
        return httpx.get(url, timeout=2.0, trust_env=False, verify=False).status_code < 500
    except httpx.HTTPError:
        return False


def _serve(stack: Stack, supervisor: Supervisor, agent: Part, say: Say) -> None:
    """Envoy, then the agent that steers it."""
    _gateway(stack, supervisor, say)
    _run(supervisor, agent, say)


def _gateway(stack: Stack, supervisor: Supervisor, say: Say) -> None:
    """One Envoy, as it is asked for; one that is not is relieved without loss, one that was relieved leaves."""
    settings, processes = stack.gateway(), GatewayProcesses(supervisor)
    slot = in_charge(Layout.of(settings))
    if not any(processes.pid(each) for each in GATEWAYS):
        write_bootstrap(settings)
        processes.start(slot)
    elif not processes.pid(slot) or not is_current(settings, slot):
        relieve(settings, processes, lambda text: say("gateway", text))
    elif processes.pid(other(slot)):
        send_away(settings, processes, other(slot))
    _run(supervisor, next(part for part in parts(stack) if part.name == "gateway"), say)


def _flows(stack: Stack, supervisor: Supervisor, worker: Part, prefect: Future[None], say: Say) -> None:
    """The work pool, its worker, and beside its start the deployments."""
    prefect.result()
    ensure_pool(stack)
    if _start(supervisor, worker):
        say("worker", "starting")
    say("deployments", "deployed" if ensure_deployments(stack) else "ready")
    since = float(supervisor.info("worker")["start"])
    _wait(supervisor, worker, lambda: worker_is_online(stack, since))
    say("worker", "ready")


def _webhook(stack: Stack, say: Say) -> None:
    """MLflow tells the agent of aliases. Kept in mind beside MLflow's database: asking again costs seconds."""
    secret, url = key(stack, "mlflow-webhook", str), f"{stack.agent_url}/hooks/mlflow"
    mark, now = stack.home / "mlflow" / "webhook.sha256", hashlib.sha256(f"{url} {secret}".encode()).hexdigest()
    if not mark.exists() or mark.read_text() != now:
        registry: Any = open_registry(stack.registry())
        registry.ensure_webhook(url, secret)
        write_aside(mark, now)
    say("webhook", "ready")


def _stop(supervisor: Supervisor, names: tuple[str, ...], say: Say) -> None:
    """SIGTERM to these parts at once; return when all have ended (supervisord kills the deaf)."""
    for name in names:
        supervisor.stop(name)
    for name in names:
        _until(lambda name=name: _ended(supervisor, name), GRACE_S + 10, name, None)
        say(name, "stopped")


def _ended(supervisor: Supervisor, name: str) -> bool:
    info = supervisor.info(name)
    return info is None or info["state"] in ENDED


def _stop_instances(stack: Stack, say: Say) -> None:
    """All instances drain at once, while the gateway still carries their open streams."""
    platform = open_platform(stack.platform())
    alive = [each for each, seen in platform.running().items() if seen.state is not ProcessState.EXITED]
    for each in alive:
        say(each, "draining")
        platform.stop(each)
    for each in alive:
        _until(lambda each=each: platform.running()[each].state is ProcessState.EXITED, DRAIN_S, each, None)
        say(each, "stopped")


def _until(holds: Callable[[], bool], limit_s: float, what: str, log: Path | None) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        if time.monotonic() > deadline:
            raise Unavailable(f"{what} took over {limit_s:.0f} s" + (f"; the end of {log}: {tail(log)}" if log else ""))
        time.sleep(LOOK_S)


def _all_of(*futures: Future[None]) -> None:
    for future in futures:
        future.result()
