"""The parts of the stack: how each is started, and how to ask whether it can serve."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from configs.stack import Stack, StackFile
from gateway.command import envoy_command
from gateway.render import Layout
from gateway.slots import in_charge
from model_registry.mlflow_server import mlflow_server
from platforms.supervisor_conf import Daemon, Program, render_daemon

POOL = "roundhouse"
NICE = ("nice", "-n", "10")  # flows do their work when engines and the gateway leave the CPU alone
GATEWAYS = {"a": "gateway", "b": "gateway-b"}  #: the programs of the gateway's slots; one runs but during an upgrade
_KEY = "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"


@dataclass(frozen=True)
class Part:
    """One part as seen from outside. ``probe`` is an address that answers (below status 500) when it can serve."""

    name: str
    log: Path
    port: int | None = None
    probe: str | None = None
    ready_s: float = 60.0
    runs_as: str = ""  # its program under supervisord, where that has another name

    @property
    def program(self) -> str:
        return self.runs_as or self.name


def parts(stack: Stack) -> tuple[Part, ...]:
    """All parts, in the order in which they are shown."""
    ports, log = stack.ports, stack.logs
    gateway = GATEWAYS[in_charge(Layout.of(stack.gateway()))]
    return (
        Part("mlflow", log / "mlflow.log", ports.mlflow, f"{stack.mlflow_url}/health", ready_s=120.0),
        Part("prefect", log / "prefect.log", ports.prefect, f"{stack.prefect_api}/health", ready_s=120.0),
        Part("gateway", log / f"{gateway}.log", ports.gateway, f"{stack.gateway_url}/", runs_as=gateway),
        Part("agent", log / "agent.log", ports.agent, f"{stack.agent_url}/healthz"),
        Part("worker", log / "worker.log"),
    )


def daemon(stack: Stack) -> Daemon:
    """supervisord's own files."""
    return Daemon(
        socket=str(stack.supervisor_socket),
        pid_file=str(stack.run / "supervisor.pid"),
        log=str(stack.logs / "supervisor.log"),
        include_directory=stack.processes().include_directory,
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
        *(_program(stack, name, envoy_command(stack.gateway(), slot=slot)) for slot, name in GATEWAYS.items()),
        replace(_program(stack, "agent", [sys.executable, "-m", "agent"]), directory=code),
        replace(_program(stack, "worker", worker), stop_s=15.0),
    )


def render(stack: Stack, webhook_key: str) -> str:
    """The whole supervisord configuration; the settings stand in its first lines, so that any change is seen."""
    plain = settings_text(stack.model_copy(update={"tls": None, "tracing": None}))
    return f"; {plain}; gateway {settings_text(stack)}" + render_daemon(daemon(stack), programs(stack, webhook_key))


def apart_from_gateway(conf: str) -> str:
    """A supervisord configuration without what an upgrade of the gateway takes over."""
    ours = "|".join(re.escape(name) for name in GATEWAYS.values())
    return re.sub(rf"^(; gateway .*$|\[program:({ours})\]$(\n(?!\[).*$)*)", "", conf, flags=re.MULTILINE)


def _program(stack: Stack, name: str, argv: list[str]) -> Program:
    log = str(stack.logs / f"{name}.log")
    return Program(name, tuple(argv), log, directory=str(stack.home), start_s=1, restart=True)


def _beside_python(program: str) -> str:
    return str(Path(sys.executable).parent / program)


def settings_text(stack: Stack) -> str:
    """The settings in force, in the form of ``configs/stack.yaml`` (as JSON)."""
    kept = StackFile(host=stack.host, ports=stack.ports, tls=stack.tls, tracing=stack.tracing)
    return kept.model_dump_json() + "\n"
