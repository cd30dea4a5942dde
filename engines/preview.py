"""Exactly what a plan will run, before anything does: build commands, files, the server's command, its container, why.

Pure, and the same for every engine. Values of variables that sound secret are masked, wherever they stand.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, runtime_checkable

from engines.hardware import Hardware
from engines.port import BuildPlan, EngineKind, Placement, ServeCommand
from rollout.command import GIB, MASK, Command, Container, is_secret, secrets_of
from rollout.command import masked as masked_text
from rollout.nouns import Engine

PORT = 18100  # shown where no instance has one yet
_SHORT = 4  # characters: a shorter value is masked in its own place only


@dataclass(frozen=True)
class Step:
    """One command of a build; ``line`` can be pasted into a shell, where ``{out}`` is the engine directory."""

    name: str
    line: str


@dataclass(frozen=True)
class Preview:
    """What runs. ``docker`` is empty for a process of the machine itself, ``nodes`` where one node will do.

    ``build`` are the commands of a build, or where an engine builds without any, what it does in ``steps``.
    """

    engine: str
    model: str
    directory: str
    steps: tuple[str, ...]
    build: tuple[Step, ...]
    files: dict[str, str]
    serve: str
    docker: str
    nodes: tuple[str, ...]
    reasons: dict[str, str]


@runtime_checkable
class Foresees(Protocol):
    """An engine whose server's command depends on the built files or on the machine: it can say it of a plan too."""

    def serve_planned(
        self, plan: BuildPlan, hardware: Hardware, host: str, port: int, placement: Placement
    ) -> ServeCommand:
        """As ``serve_command``, of what is not built yet, on ``hardware``. Raises Refused."""


def preview(
    kind: EngineKind,
    plan: BuildPlan,
    hardware: Hardware,
    host: str = "127.0.0.1",
    port: int = PORT,
    placement: Placement = Placement(),
) -> Preview:
    """What ``kind`` would run for that plan on that hardware. Raises Refused as ``serve_command`` does."""
    if isinstance(kind, Foresees):
        command = kind.serve_planned(plan, hardware, host, port, placement)
    else:
        engine = Engine(plan.spec.kind, plan.digest, plan.directory, plan.model.name, 0, 0.0, False)
        command = kind.serve_command(engine, plan.spec, host, port, placement)
    secrets = secrets_of(plan.spec.environment, _SHORT)
    shown = Preview(
        engine=f"{plan.spec.kind} {plan.spec.version}".strip(),
        model=f"{plan.model.name} ({plan.model.uri})",
        directory=plan.directory,
        steps=plan.steps,
        build=tuple(Step(step.name, line_of(step.command)) for step in plan.commands),
        files={**plan.files, **command.files},
        serve=_serve_line(command),
        docker=docker_line(command.argv, command.env, command.container, host, port) if command.container else "",
        nodes=_nodes(plan, command),
        reasons=dict(plan.reasons),
    )
    return Preview(**{name: masked(value, secrets) for name, value in vars(shown).items()})


def text_of(shown: Preview) -> str:
    """For a person, section by section."""
    build = [f"# {step.name}\n{step.line}" for step in shown.build] or [f"# {step}" for step in shown.steps]
    sections = [
        ("engine", [shown.engine, f"model {shown.model}", f"in {shown.directory}"]),
        ("build", build),
        *((f"file {path}", [content.rstrip("\n")]) for path, content in shown.files.items()),
        ("serve", [shown.docker or shown.serve]),
        *([("serve over several nodes", list(shown.nodes))] if shown.nodes else []),
        ("why", [f"{name}: {why}" for name, why in shown.reasons.items()]),
    ]
    return "\n\n".join("\n".join([f"== {title}", *lines]) for title, lines in sections) + "\n"


def record_of(shown: Preview) -> dict[str, Any]:
    """For a script."""
    return asdict(shown)


def line_of(command: Command) -> str:
    """A command as one would type it, its container as ``docker run``."""
    if command.container:
        return docker_line(command.argv, command.env, command.container)
    return shlex.join((*_assignments(command.env), *command.argv))


def docker_line(argv: Sequence[str], env: Mapping[str, str], box: Container, host: str = "", port: int = 0) -> str:
    """The ``docker run`` that asks for the same as we do of Docker's engine."""
    words = ["docker", "run", "--rm"]
    if box.gpus:
        chosen = "all" if box.gpus == ("all",) else f'"device={",".join(box.gpus)}"'
        words += ["--gpus", chosen]
    words += ["--ipc", box.ipc] if box.ipc else []
    words += ["--shm-size", f"{box.shm_bytes / GIB:g}g"] if box.shm_bytes and box.ipc != "host" else []
    for name, bound in box.ulimits.items():
        words += ["--ulimit", f"{name}={bound}"]
    for mount in box.mounts:
        words += ["-v", f"{mount.host}:{mount.inside}{':ro' if mount.read_only else ''}"]
    for pair in _assignments(env):
        words += ["-e", pair]
    words += ["-p", f"{host}:{port}:{port}"] if port else []
    words += ["--entrypoint", box.entrypoint] if box.entrypoint else []
    return shlex.join((*words, box.image, *argv))


def masked(value: Any, secrets: Sequence[str]) -> Any:
    """The same value without the secrets in its texts."""
    if isinstance(value, str):
        return masked_text(value, secrets)
    if isinstance(value, dict):
        return {name: masked(each, secrets) for name, each in value.items()}
    if isinstance(value, tuple):
        return tuple(masked(each, secrets) for each in value)
    return replace(value, line=masked(value.line, secrets)) if isinstance(value, Step) else value


def _assignments(env: Mapping[str, str]) -> list[str]:
    """``NAME=value``; of a name that sounds secret whatever its value."""
    return [f"{name}={MASK if is_secret(name) else value}" for name, value in env.items()]


def _serve_line(command: ServeCommand) -> str:
    pinned = ("taskset", "-c", ",".join(map(str, command.cores))) if command.cores else ()
    return shlex.join((*_assignments(command.env), *pinned, *command.argv))


def _nodes(plan: BuildPlan, command: ServeCommand) -> tuple[str, ...]:
    """The launch over several nodes, where one has too few GPUs; only TensorRT-LLM has a way."""
    if plan.spec.kind != "tensorrt_llm":
        return ()
    from engines.trtllm.multinode import launch, spread

    nodes = spread(plan.spec)
    if nodes is None:
        return ()
    stated = "gpus_per_node" in plan.spec.options
    return tuple(shlex.join(launch(command.argv, nodes, launcher, stated)) for launcher in ("mpirun", "srun"))
