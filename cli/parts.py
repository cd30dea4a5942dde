"""The parts of the stack: how each is started, and how to ask whether it can serve. Pure but for Envoy's lookup."""

from __future__ import annotations

import sys
from dataclasses import dataclass
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
    """One part. ``probe`` is an address that answers (below status 500) when the part can serve."""

    program: Program
    port: int | None = None
    probe: str | None = None
    ready_s: float = 60.0

    @property
    def name(self) -> str:
        return self.program.name


def daemon(stack: Stack) -> Daemon:
    """supervisord's own files."""
    return Daemon(
        socket=str(stack.supervisor_socket),
        pid_file=str(stack.run / "supervisor.pid"),
        log=str(stack.logs / "supervisor.log"),
        include_directory=stack.platform().include_directory,
        directory=str(stack.home),
    )


def parts(stack: Stack, webhook_key: str) -> tuple[Part, ...]:
    """All parts, in the order in which they are shown."""
    return (_mlflow(stack, webhook_key), _prefect(stack), _gateway(stack), _agent(stack), _worker(stack))


def render(stack: Stack, all_parts: tuple[Part, ...]) -> str:
    """The whole supervisord configuration."""
    return render_daemon(daemon(stack), tuple(part.program for part in all_parts))


def _mlflow(stack: Stack, key: str) -> Part:
    argv, env = mlflow_server(stack.home / "mlflow", stack.host, stack.ports.mlflow, key)
    secrets = {name: env.pop(name) for name in (_KEY,)}
    program = _program(stack, "mlflow", argv, env, secrets)
    return Part(program, stack.ports.mlflow, f"{stack.mlflow_url}/health", ready_s=120.0)


def _prefect(stack: Stack) -> Part:
    program = _program(stack, "prefect", [_beside_python("prefect"), "server", "start"])
    return Part(program, stack.ports.prefect, f"{stack.prefect_api}/health", ready_s=120.0)


def _gateway(stack: Stack) -> Part:
    program = _program(stack, "gateway", envoy_command(stack.gateway()))
    return Part(program, stack.ports.gateway, f"{stack.gateway_url}/")


def _agent(stack: Stack) -> Part:
    program = _program(stack, "agent", [sys.executable, "-m", "agent"], directory=str(Path(__file__).parent.parent))
    return Part(program, stack.ports.agent, f"{stack.agent_url}/healthz")


def _worker(stack: Stack) -> Part:
    argv = [*NICE, _beside_python("prefect"), "worker", "start", "--pool", POOL, "--type", "process", "--name", POOL]
    return Part(_program(stack, "worker", argv, stop_s=15.0))


def _program(
    stack: Stack,
    name: str,
    argv: list[str],
    env: dict[str, str] | None = None,
    secrets: dict[str, str] | None = None,
    directory: str | None = None,
    stop_s: float = 10.0,
) -> Program:
    return Program(
        name=name,
        argv=tuple(argv),
        log=str(stack.logs / f"{name}.log"),
        env=env or {},
        secrets=secrets or {},
        directory=directory or str(stack.home),
        stop_s=stop_s,
        start_s=1,
        restart=True,
    )


def _beside_python(program: str) -> str:
    return str(Path(sys.executable).parent / program)


def settings_text(stack: Stack) -> str:
    """The settings in force, in the form of ``configs/stack.yaml`` (as JSON)."""
    return StackFile(host=stack.host, ports=stack.ports).model_dump_json() + "\n"
