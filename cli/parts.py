"""The parts of the stack: how each is started, and how to ask whether it can serve."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from configs.stack import Stack, StackFile
from gateway.command import envoy_command
from model_registry.mlflow_server import mlflow_server
from platforms.supervisor_conf import Daemon, Program, render_daemon

POOL = "roundhouse"
NICE = ("nice", "-n", "10")  # flows do their work when engines and the gateway leave the CPU alone
_KEY = "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"


@dataclass(frozen=True)
class Part:
    """One part as seen from outside. ``probe`` is an address that answers (below status 500) when it can serve."""

    name: str
    log: Path
    port: int | None = None
    probe: str | None = None
    ready_s: float = 60.0


def parts(stack: Stack) -> tuple[Part, ...]:
    """All parts, in the order in which they are shown."""
    ports, log = stack.ports, stack.logs
    return (
        Part("mlflow", log / "mlflow.log", ports.mlflow, f"{stack.mlflow_url}/health", ready_s=120.0),
        Part("prefect", log / "prefect.log", ports.prefect, f"{stack.prefect_api}/health", ready_s=120.0),
        Part("gateway", log / "gateway.log", ports.gateway, f"{stack.gateway_url}/"),
        Part("agent", log / "agent.log", ports.agent, f"{stack.agent_url}/healthz"),
        Part("worker", log / "worker.log"),
    )


def daemon(stack: Stack) -> Daemon:
    """supervisord's own files."""
    return Daemon(
        socket=str(stack.supervisor_socket),
        pid_file=str(stack.run / "supervisor.pid"),
        log=str(stack.logs / "supervisor.log"),
        include_directory=stack.platform().include_directory,
        directory=str(stack.home),
    )


def programs(stack: Stack, webhook_key: str) -> tuple[Program, ...]:
    """How each part is started. Makes MLflow's folders."""
    mlflow, env = mlflow_server(stack.home / "mlflow", stack.host, stack.ports.mlflow, webhook_key)
    secrets = {_KEY: env.pop(_KEY)}
    prefect = _beside_python("prefect")
    worker = [*NICE, prefect, "worker", "start", "--pool", POOL, "--type", "process", "--name", POOL]
    code = str(Path(__file__).parent.parent)
    return (
        replace(_program(stack, "mlflow", mlflow), env=env, secrets=secrets),
        _program(stack, "prefect", [prefect, "server", "start"]),
        _program(stack, "gateway", envoy_command(stack.gateway())),
        replace(_program(stack, "agent", [sys.executable, "-m", "agent"]), directory=code),
        replace(_program(stack, "worker", worker), stop_s=15.0),
    )


def render(stack: Stack, webhook_key: str) -> str:
    """The whole supervisord configuration; the settings stand in its first line, so that any change is seen."""
    return f"; {settings_text(stack)}" + render_daemon(daemon(stack), programs(stack, webhook_key))


def _program(stack: Stack, name: str, argv: list[str]) -> Program:
    log = str(stack.logs / f"{name}.log")
    return Program(name, tuple(argv), log, directory=str(stack.home), start_s=1, restart=True)


def _beside_python(program: str) -> str:
    return str(Path(sys.executable).parent / program)


def settings_text(stack: Stack) -> str:
    """The settings in force, in the form of ``configs/stack.yaml`` (as JSON)."""
    return StackFile(host=stack.host, ports=stack.ports).model_dump_json() + "\n"
