"""Engines as values: the rules of the spec and the once-per-digest promise, without a file or a process."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from engines.checks import check_draft_given, check_port, check_spec
from engines.hardware import Hardware
from engines.port import (
    BuildPlan,
    Drain,
    EngineSpec,
    MetricsPage,
    Placement,
    Progress,
    Readiness,
    Run,
    ServeCommand,
    Usage,
)
from rollout.errors import Corrupt, Refused
from rollout.nouns import Engine, ModelVersion

QUANTIZATIONS = ("none", "F16", "Q8_0", "Q4_0")
KV_TYPES = ("auto", "f16", "fp8", "q8_0")


def check_memory_spec(spec: EngineSpec) -> None:
    """The rules of every engine; there are neither options nor flags. Raises Refused."""
    check_spec(spec, QUANTIZATIONS)
    if spec.kv_cache_dtype not in KV_TYPES:
        raise Refused("kv_cache_dtype", spec.kv_cache_dtype, "it is not known", f"use one of: {', '.join(KV_TYPES)}")
    for field, given in (("options", [*spec.options]), ("flags", spec.flags)):
        if given:
            raise Refused(field, ", ".join(given), "engines in memory have none", "remove them")


class MemoryEngine:
    """The verbs of ``port.EngineKind``."""

    def __init__(self) -> None:
        self._built: dict[str, Engine] = {}

    def check(self, spec: EngineSpec) -> None:
        """By the spec's rules alone. Raises Refused."""
        check_memory_spec(spec)

    def plan(
        self, model: ModelVersion, spec: EngineSpec, hardware: Hardware, draft: ModelVersion | None = None
    ) -> BuildPlan:
        """Decide by the spec's rules alone. Raises Refused."""
        check_memory_spec(spec)
        check_draft_given(spec, draft)
        inputs = f"{model.digest} {spec.kind} {spec.quantization} {draft.digest if draft else ''}"
        digest = hashlib.sha256(inputs.encode()).hexdigest()
        return BuildPlan(
            model,
            spec,
            digest,
            f"memory:{spec.kind}-{digest[:16]}",
            ("remember",),
            0,
            0,
            {"digest": f"model {model.digest[:12]}, {spec.quantization}"},
            draft=draft,
        )

    def build(self, plan: BuildPlan, progress: Progress, run: Run | None = None) -> Engine:
        """Remember it."""
        if plan.digest in self._built:
            progress("found", 1.0)
            return replace(self._built[plan.digest], build_s=0.0, cached=True)
        progress("built", 1.0)
        engine = Engine(
            plan.spec.kind,
            plan.digest,
            plan.directory,
            plan.model.name,
            sum(f.size for f in plan.model.files),
            0.0,
            False,
        )
        return self._built.setdefault(plan.digest, engine)

    def verify(self, engine: Engine, hardware: Hardware) -> None:
        """It was built here. Raises Corrupt."""
        if engine.digest not in self._built:
            raise Corrupt(f"engine {engine.digest[:16]} was not built here")

    def serve_command(
        self, engine: Engine, spec: EngineSpec, host: str, port: int, placement: Placement = Placement()
    ) -> ServeCommand:
        """A command that names what would be served. Raises Refused for a port that it may not have."""
        check_port(port)
        check_memory_spec(spec)
        return ServeCommand(
            ("serve-from-memory", "--name", engine.served_name, "--host", host, "--port", str(port)),
            dict(spec.environment),
            stop_s=spec.drain_s + 5.0,
            cores=placement.cores,
        )

    def readiness(self, spec: EngineSpec) -> Readiness:
        """As the real one's."""
        return Readiness()

    def drain(self, spec: EngineSpec) -> Drain:
        """As the real one's."""
        return Drain(spec.drain_s, spec.drain_s + 5.0, finishes=True)

    def metrics(self, spec: EngineSpec) -> tuple[MetricsPage, ...]:
        """Our name -> itself."""
        names = ("requests_running", "requests_waiting", "tokens_in_total", "tokens_out_total")
        return (MetricsPage("/metrics", {name: name for name in names}),)

    def usage(self) -> Usage:
        """As the real one's."""
        return "engine"
