"""llama.cpp as an engine: a quantised GGUF in a content-addressed directory, served by ``engines.llama_server``."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from engines import artifacts
from engines.checks import check_context, check_disk, check_memory, check_port, check_spec, check_threads
from engines.gguf_file import read_gguf
from engines.hardware import Hardware
from engines.port import (
    OTLP_ENDPOINT,
    BuildPlan,
    Drain,
    EngineSpec,
    LocalSettings,
    MetricsPage,
    Placement,
    Progress,
    Readiness,
    Run,
    ServeCommand,
    Usage,
)
from engines.quantize import QUANTIZATIONS
from engines.sources import Facts, open_source
from rollout.errors import Corrupt, Refused
from rollout.nouns import Engine, ModelVersion

BUILDER = "1"  # raise it when the same inputs give other bytes
MODEL_FILE = "model.gguf"
_MARGIN = 16 * 1024 * 1024  # metadata, manifest, file system
_PROCESS = 160 * 1024 * 1024  # measured: two Python processes, libraries
_BATCH = 512  # tokens that llama.cpp works on at once; its logits and activations are the compute buffer

METRICS = {
    "requests_running": "roundhouse_requests_running",
    "requests_waiting": "roundhouse_requests_waiting",
    "requests_refused_total": "roundhouse_requests_refused_total",
    "tokens_in_total": "llamacpp:prompt_tokens_total",
    "tokens_cached_total": "llamacpp:prompt_tokens_cached_total",
    "tokens_out_total": "llamacpp:tokens_predicted_total",
    "tokens_in_per_s": "llamacpp:prompt_tokens_seconds",
    "tokens_out_per_s": "llamacpp:predicted_tokens_seconds",
    "slots_busy": "llamacpp:n_busy_slots_per_decode",
}


def engine_version() -> str:
    """The wheel that quantises and serves."""
    return f"xllamacpp {version('xllamacpp')}, builder {BUILDER}"


def engine_digest(model_digest: str, spec: EngineSpec, built_with: str) -> str:
    """Content address of a build: what went in and what did it. What only changes serving is left out."""
    inputs = {"model": model_digest, "kind": spec.kind, "quantization": spec.quantization, "built_with": built_with}
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def instance_bytes(facts: Facts, weights: int, spec: EngineSpec) -> int:
    """Memory of one instance: weights, keys and values in F16 for all slots, compute buffer, the processes."""
    cache = 2 * 2 * facts.layers * facts.kv_heads * facts.head_dim * spec.context * spec.slots
    return weights + cache + 4 * _BATCH * facts.vocabulary + _PROCESS


class LlamaCpp:
    """The verbs of ``port.EngineKind``. ``now`` gives the time in epoch seconds for the manifest."""

    def __init__(self, settings: LocalSettings, now: Callable[[], float] = time.time) -> None:
        self._root = Path(settings.directory)
        self._now = now

    def check(self, spec: EngineSpec) -> None:
        """Known quantisation, sensible numbers. Raises Refused."""
        check_spec(spec, QUANTIZATIONS)

    def plan(
        self, model: ModelVersion, spec: EngineSpec, hardware: Hardware, draft: ModelVersion | None = None
    ) -> BuildPlan:
        """Decide, without writing anything. Raises Refused."""
        self.check(spec)
        source = open_source(model)
        check_context(spec.context, source.facts.context)
        check_threads(spec.threads, hardware.cores)
        digest = engine_digest(model.digest, spec, engine_version())
        weights = source.size(spec.quantization)
        disk, memory = weights + _MARGIN, instance_bytes(source.facts, weights, spec)
        check_memory(memory, hardware.memory_bytes)
        found = artifacts.find(self._root, spec.kind, digest) is not None
        if not found:
            check_disk(disk, hardware.disk_free_bytes, str(self._root))
        reasons = {
            "digest": f"model {model.digest[:12]}, {spec.quantization}, {engine_version()}",
            "disk_bytes": f"{source.facts.parameters} parameters as {spec.quantization}",
            "memory_bytes": f"weights, {spec.slots} x {spec.context} tokens of keys and values in F16, buffers",
        }
        if source.derived_from(spec.quantization):
            reasons["quality"] = f"{source.derived_from(spec.quantization)}: lost precision does not come back"
        return BuildPlan(
            model,
            spec,
            digest,
            str(self._root / artifacts.directory_name(spec.kind, digest)),
            ("look up",) if found else source.steps(spec.quantization),
            disk,
            memory,
            reasons,
        )

    def build(self, plan: BuildPlan, progress: Progress, run: Run | None = None) -> Engine:
        """Make the plan so, once per digest. Raises Corrupt, Refused, Unavailable."""
        start = time.monotonic()
        manifest, found = artifacts.build_once(
            self._root, plan.spec.kind, plan.digest, lambda directory: self._make(plan, directory, progress)
        )
        progress("found" if found else "built", 1.0)
        size = sum(entry["size"] for entry in manifest["files"])
        return Engine(
            plan.spec.kind,
            plan.digest,
            plan.directory,
            plan.model.name,
            size,
            0.0 if found else time.monotonic() - start,
            found,
        )

    def _make(self, plan: BuildPlan, directory: Path, progress: Progress) -> artifacts.Manifest:
        progress("check digests", 0.0)
        check_files(plan.model)
        source, out = open_source(plan.model), directory / MODEL_FILE
        source.write(plan.model.name, plan.spec.quantization, out, lambda what, share: progress(what, 0.95 * share))
        progress("verify", 0.95)
        check_output(out, source.facts)
        return {
            "spec": {"kind": plan.spec.kind, "quantization": plan.spec.quantization},
            "model": {
                "name": plan.model.name,
                "version": plan.model.version,
                "uri": plan.model.uri,
                "digest": plan.model.digest,
                "files": [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in plan.model.files],
            },
            "architecture": source.facts.architecture,
            "parameters": source.facts.parameters,
            "built_with": engine_version(),
            "built_at": self._now(),
            "derived_from": source.derived_from(plan.spec.quantization),
        }

    def verify(self, engine: Engine, hardware: Hardware) -> None:
        """Its files are those that were built. Raises Corrupt."""
        artifacts.verify(Path(engine.directory))

    def serve_command(
        self, engine: Engine, spec: EngineSpec, host: str, port: int, placement: Placement = Placement()
    ) -> ServeCommand:
        """How to start one instance. Raises Refused for a port that it may not have. A collector of traces that this
        process knows is the instance's too."""
        check_port(port)
        check_spec(spec, QUANTIZATIONS)
        faults = spec.faults
        options = {
            "model": str(Path(engine.directory) / MODEL_FILE),
            "name": engine.served_name,
            "host": host,
            "port": port,
            "slots": spec.slots,
            "context": spec.context,
            "threads": spec.threads,
            "max-queue": spec.max_queue,
            "drain-s": spec.drain_s,
            "fault-ttft-delay-s": faults.ttft_delay_s,
            "fault-token-delay-s": faults.token_delay_s,
            "fault-error-rate": faults.error_rate,
            "fault-cut-rate": faults.cut_rate,
        }
        chosen = {name: value for name, value in options.items() if not (name.startswith("fault-") and value == 0)}
        pairs = [word for name, value in chosen.items() for word in (f"--{name}", str(value))]
        traces = {OTLP_ENDPOINT: os.environ[OTLP_ENDPOINT]} if os.environ.get(OTLP_ENDPOINT) else {}
        environment = {"PYTHONUNBUFFERED": "1", **traces}
        return ServeCommand((sys.executable, "-m", "engines.llama_server", *pairs), environment, spec.drain_s + 5.0)

    def readiness(self, spec: EngineSpec) -> Readiness:
        """503 while loading and draining, 200 between."""
        return Readiness()

    def drain(self, spec: EngineSpec) -> Drain:
        """``llama_server`` finishes what is open."""
        return Drain(spec.drain_s, spec.drain_s + 5.0, finishes=True)

    def metrics(self, spec: EngineSpec) -> tuple[MetricsPage, ...]:
        """One page in Prometheus' format."""
        return (MetricsPage("/metrics", dict(METRICS)),)

    def usage(self) -> Usage:
        """``llama_front`` tells them."""
        return "engine"


def check_files(model: ModelVersion) -> None:
    """The files that are about to be built from are those of the record. Raises Corrupt."""
    for file in model.files:
        path = Path(model.directory) / file.path
        found = artifacts.sha256_of(path) if path.is_file() else "missing"
        if found != file.sha256:
            raise Corrupt(
                f"model {model.name} version {model.version}: {file.path} is {found[:12]} and its record "
                f"says {file.sha256[:12]}; resolve the model again"
            )


def check_output(out: Path, facts: Facts) -> None:
    """What was written is a whole GGUF with as many parameters as went in. Raises Corrupt."""
    try:
        written = read_gguf(out)
    except Refused as bad:
        raise Corrupt(f"the build wrote a file that cannot be read: {bad}") from bad
    if written.parameters != facts.parameters:
        raise Corrupt(f"the build wrote {written.parameters} parameters and the model has {facts.parameters}")
