"""llama.cpp as an engine: a quantised GGUF in a content-addressed directory, served by ``engines.llama_server``."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from engines import artifacts
from engines.checks import check_disk, check_draft_given, check_memory, check_port, check_threads
from engines.hardware import Hardware
from engines.llama_build import DRAFT_FILE, MODEL_FILE, has_samples, make
from engines.llama_params import EXACT_KV, batch, kv_type, params_of, slot_tokens
from engines.llama_rules import check_fits, check_llama, instance_bytes, needs_of
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
from engines.sources import Source, open_source
from engines.vocabulary import check_draft
from engines.warm_up import check_samples
from rollout.errors import Unavailable
from rollout.nouns import Engine, ModelVersion

BUILDER = "2"  # raise it when the same inputs give other bytes
_MARGIN = 16 * 1024 * 1024  # metadata, manifest, warm-up requests, file system

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


def engine_digest(model_digest: str, spec: EngineSpec, built_with: str, draft_digest: str = "") -> str:
    """Content address of a build: what went in and what did it. What only changes serving is left out."""
    inputs = {"model": model_digest, "kind": spec.kind, "quantization": spec.quantization, "built_with": built_with}
    if draft_digest:
        inputs["draft"] = draft_digest
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


class LlamaCpp:
    """The verbs of ``port.EngineKind``. ``now`` gives the time in epoch seconds for the manifest."""

    def __init__(self, settings: LocalSettings, now: Callable[[], float] = time.time) -> None:
        self._root = Path(settings.directory)
        self._now = now

    def check(self, spec: EngineSpec) -> None:
        """Known quantisation, sensible numbers, options that llama.cpp has. Raises Refused."""
        check_llama(spec)

    def plan(
        self, model: ModelVersion, spec: EngineSpec, hardware: Hardware, draft: ModelVersion | None = None
    ) -> BuildPlan:
        """Decide, without writing anything. Raises Refused."""
        self.check(spec)
        check_draft_given(spec, draft)
        source, small = open_source(model), open_source(draft) if draft else None
        check_fits(spec, source, hardware, small)
        check_threads(spec.threads, hardware.cores)
        samples = check_samples(model.directory) if has_samples(model) else 0
        digest = engine_digest(model.digest, spec, engine_version(), draft.digest if draft else "")
        found = artifacts.find(self._root, spec.kind, digest) is not None
        if small and not found:
            check_draft(source.vocabulary(), small.vocabulary())
        sizes = [one.size(spec.quantization) for one in (source, small) if one]
        disk = sum(sizes) + _MARGIN
        sized = (source.facts, sizes[0], spec, (small.facts, sizes[1]) if small else None)
        memory = instance_bytes(*sized)
        check_memory(memory, hardware.memory_bytes)
        if not found:
            check_disk(disk, hardware.disk_free_bytes, str(self._root))
        reasons = _reasons(model, spec, source, draft)
        reasons["warm_up"] = f"{samples} request samples of the model" if samples else "made from the vocabulary"
        return BuildPlan(
            model,
            spec,
            digest,
            str(self._root / artifacts.directory_name(spec.kind, digest)),
            ("look up",) if found else _steps(spec, source, small),
            disk,
            memory,
            reasons,
            built_with={"engine": engine_version()},
            draft=draft,
            needs=needs_of(*sized),
        )

    def build(self, plan: BuildPlan, progress: Progress, run: Run | None = None) -> Engine:
        """Make the plan so, once per digest. Raises Corrupt, Refused, Unavailable."""
        start = time.monotonic()
        try:
            manifest, found = artifacts.build_once(
                self._root, plan.spec.kind, plan.digest, lambda directory: self._make(plan, directory, progress)
            )
        except OSError as bad:
            raise Unavailable(
                f"the engine could not be written to {self._root}: {bad.strerror or bad}; nothing is left of it, and "
                f"it needs {plan.disk_bytes / 1e6:.0f} MB there"
            ) from bad
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
            {name: int(value) for name, value in asdict(plan.needs).items()},
        )

    def _make(self, plan: BuildPlan, directory: Path, progress: Progress) -> artifacts.Manifest:
        return {
            "spec": {"kind": plan.spec.kind, "quantization": plan.spec.quantization},
            "built_with": engine_version(),
            "built_at": self._now(),
            **make(plan, directory, progress),
        }

    def verify(self, engine: Engine, hardware: Hardware) -> None:
        """Its files are those that were built. Raises Corrupt."""
        artifacts.verify(Path(engine.directory))

    def serve_command(
        self, engine: Engine, spec: EngineSpec, host: str, port: int, placement: Placement = Placement()
    ) -> ServeCommand:
        """How to start one instance. Raises Refused for a port that it may not have, or more threads than processors.
        A collector of traces that this process knows is the instance's too."""
        check_port(port)
        check_llama(spec)
        if placement.cores:
            check_threads(spec.threads, len(placement.cores))
        directory = Path(engine.directory)
        options = {
            "name": engine.served_name,
            "host": host,
            "port": port,
            "slots": spec.slots,
            "max-queue": spec.max_queue,
            "drain-s": spec.drain_s,
            "params": json.dumps(params_of(spec, str(directory / MODEL_FILE), str(directory / DRAFT_FILE))),
        }
        if placement.cores:  # of the process with the model alone, so not the platform's to set: ``llama_child.pin``
            options["cores"] = ",".join(map(str, placement.cores))
        faults = {f"fault-{name.replace('_', '-')}": rate for name, rate in vars(spec.faults).items() if rate}
        pairs = [word for name, value in {**options, **faults}.items() for word in (f"--{name}", str(value))]
        traces = {OTLP_ENDPOINT: os.environ[OTLP_ENDPOINT]} if os.environ.get(OTLP_ENDPOINT) else {}
        return ServeCommand(
            (sys.executable, "-m", "engines.llama_server", *pairs),
            {"PYTHONUNBUFFERED": "1", **traces, **spec.environment},
            spec.drain_s + 5.0,
        )

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


def _steps(spec: EngineSpec, source: Source, draft: Source | None) -> tuple[str, ...]:
    """What a build will do, in words: the draft model's own step stands after the model's."""
    first, *middle, last = source.steps(spec.quantization)
    drafts = [f"draft model: {step}" for step in draft.steps(spec.quantization)[1:-1]] if draft else []
    return (first, *middle, *drafts, "write warm-up requests", last)


def _reasons(model: ModelVersion, spec: EngineSpec, source: Source, draft: ModelVersion | None) -> dict[str, str]:
    """Why each derived value is what it is."""
    also = f", draft {draft.digest[:12]}" if draft else ""
    reasons = {
        "digest": f"model {model.digest[:12]}{also}, {spec.quantization}, {engine_version()}",
        "disk_bytes": f"{source.facts.parameters} parameters as {spec.quantization}{', the draft model' * bool(draft)}",
        "memory_bytes": f"weights, {spec.slots} x {slot_tokens(spec)} tokens of keys and values in {kv_type(spec)}"
        f"{', the same of the draft model' * bool(draft)}, buffers",
        "n_batch": f"{batch(spec)}: the smaller of max_tokens and chunked_prefill; without chunks a whole prompt",
    }
    if slot_tokens(spec) != spec.context:
        reasons["context"] = f"llama.cpp rounds {spec.context} up to {slot_tokens(spec)}"
    if kv_type(spec) not in EXACT_KV:
        reasons["flash_attn_type"] = f"enabled: values in {kv_type(spec)} need flash attention"
    if source.derived_from(spec.quantization):
        reasons["quality"] = f"{source.derived_from(spec.quantization)}: lost precision does not come back"
    return reasons
