"""The engines' interface: a spec, and the verbs check, plan, build, serve command, readiness and metrics.

An engine turns model files into a directory that can be served, once per digest, and says how to serve it.
Adding one is a module beside this page and one entry in ``open_engine``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from rollout.errors import Refused
from rollout.nouns import Engine, ModelVersion

Progress = Callable[[str, float], None]  # (what is being done, share done 0..1)
Usage = Literal["engine", "parsed"]  # token counts: the engine tells them in ``x-usage``, or they are read off answers
OTLP_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"  # set for an engine, it sends spans there (OpenTelemetry specification)


@dataclass(frozen=True)
class Faults:
    """Deliberate defects of an engine process, to try what a release does with a bad candidate. Off by default."""

    ttft_delay_s: float = 0.0  # added before the first byte
    token_delay_s: float = 0.0  # added between chunks of a stream
    error_rate: float = 0.0  # share of requests answered 500
    cut_rate: float = 0.0  # share of streams that end without [DONE]


@dataclass(frozen=True)
class EngineSpec:
    """What to build and how to serve it. Fields that only change serving are not part of the engine's digest."""

    kind: Literal["llama_cpp"] = "llama_cpp"
    quantization: str = "Q8_0"
    slots: int = 2  # requests at work at once in one instance
    context: int = 1024  # tokens per slot
    threads: int = 1
    max_queue: int = 64  # requests that may wait in one instance; more are refused with 450
    drain_s: float = 30.0  # how long open streams may go on after SIGTERM
    faults: Faults = Faults()


def spec_of(values: Mapping[str, Any]) -> EngineSpec:
    """An EngineSpec from its stored mapping."""
    plain = {name: value for name, value in values.items() if name != "faults"}
    return EngineSpec(**plain, faults=Faults(**values.get("faults", {})))


@dataclass(frozen=True)
class BuildPlan:
    """What a build will do, decided before it starts. ``reasons`` says why each derived value is what it is."""

    model: ModelVersion
    spec: EngineSpec
    digest: str
    directory: str
    steps: tuple[str, ...]
    disk_bytes: int
    memory_bytes: int  # of one instance
    reasons: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ServeCommand:
    """The process that serves an engine: argument list and the environment added to the parent's."""

    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    stop_s: float = 35.0  # after SIGTERM, before SIGKILL


@dataclass(frozen=True)
class Readiness:
    """How to ask whether an instance can serve: GET ``path`` answers 200; the load may take up to ``load_s``."""

    path: str = "/health"
    load_s: float = 120.0


class EngineKind(Protocol):
    """The verbs. Implementations: ``llama_cpp.LlamaCpp``, ``memory.MemoryEngine``."""

    def check(self, spec: EngineSpec) -> None:
        """What can be said of a spec before there is a model. Raises Refused."""

    def plan(self, model: ModelVersion, spec: EngineSpec) -> BuildPlan:
        """Decide, without writing anything. Raises Refused with numbers when it cannot work."""

    def build(self, plan: BuildPlan, progress: Progress) -> Engine:
        """Make it so, once per digest; a finished one is looked up. Raises Corrupt, Unavailable."""

    def serve_command(self, engine: Engine, spec: EngineSpec, host: str, port: int) -> ServeCommand:
        """How to start one instance. Raises Refused for a reserved port."""

    def readiness(self, spec: EngineSpec) -> Readiness:
        """How to tell that it is loaded."""

    def metrics(self) -> dict[str, str]:
        """Our metric name -> the engine's own name at /metrics."""

    def usage(self) -> Usage:
        """Who counts an answer's tokens. "engine": it sends ``x-usage: <in>,<out>``, as a header of a whole answer and
        as a trailer of a stream."""


@dataclass(frozen=True)
class LocalSettings:
    """Engines built and kept on this machine, in ``directory``."""

    directory: str
    kind: Literal["local"] = "local"


@dataclass(frozen=True)
class MemorySettings:
    """Engines that exist only as values, for tests."""

    kind: Literal["memory"] = "memory"


EngineSettings = LocalSettings | MemorySettings


def open_engine(kind: str, settings: EngineSettings) -> EngineKind:
    """The engine of that kind; an unknown one fails loudly. Raises Refused."""
    match kind, settings:
        case _, MemorySettings():
            from engines.memory import MemoryEngine

            return MemoryEngine()
        case "llama_cpp", LocalSettings():
            from engines.llama_cpp import LlamaCpp

            return LlamaCpp(settings)
    raise Refused("kind", kind, "there is no such engine", "use one of: llama_cpp")
