"""TensorRT-LLM as an engine: a checked folder or a built TensorRT engine, served by ``trtllm-serve``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from engines import artifacts
from engines.checks import check_disk, check_draft_given, check_port
from engines.hardware import Hardware
from engines.port import (
    BuildPlan,
    BuildStep,
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
    spec_of,
)
from engines.recorded import check_digests, told
from engines.steps import build_in
from engines.trtllm import container, metrics, planning, serve
from engines.trtllm.contract import NEWEST, Contract, contract_of
from engines.trtllm.fingerprint import built_with, fingerprint, why_stale
from engines.trtllm.installed import check_installed, installed_version, interpreter, program
from engines.trtllm.recipe_spec import recipe_of
from engines.trtllm.spec_rules import check_fields, check_files, check_recipe_exists
from engines.trtllm.verify import verify_directory
from engines.trtllm.yaml_config import served
from engines.warm_up import SAMPLES_FILE, WARM_UP_FILE, write_requests
from rollout.errors import Corrupt, Refused, Unavailable
from rollout.nouns import Engine, ModelVersion

_LOAD_S, _LOAD_RANK_S = 600.0, 120.0  # reading, sharding, tuning, graphs; each rank reads and tunes beside the others
_STOP_S = 5.0  # more than a drain may take, before SIGKILL


class TensorRtLlm:
    """The verbs of ``port.EngineKind``. ``now`` gives the time in epoch seconds for the manifest."""

    def __init__(self, settings: LocalSettings, now: Callable[[], float] = time.time) -> None:
        self._root = Path(settings.directory)
        self._python = settings.trtllm_python
        self._now = now

    def check(self, spec: EngineSpec) -> None:
        """Known version, recipe and formats; options and flags that this version has. Raises Refused."""
        self._checked(spec)

    def plan(
        self, model: ModelVersion, spec: EngineSpec, hardware: Hardware, draft: ModelVersion | None = None
    ) -> BuildPlan:
        """Decide, without writing anything. Raises Refused with numbers."""
        contract, spec = self._checked(spec)
        check_draft_given(spec, draft)
        check_files(model)
        if draft:
            check_files(draft, "speculative.draft_model")
        if spec.container is None:
            check_installed(self._python, contract)
        sized = planning.size(model, spec, contract, hardware, draft)
        digest, with_ = fingerprint(model.digest, spec, contract.version, hardware, draft.digest if draft else "")
        directory = self._root / artifacts.directory_name(spec.kind, digest)
        found = artifacts.find(self._root, spec.kind, digest) is not None
        steps = planning.steps(model, spec, contract, hardware, draft, sized, interpreter(self._python))
        disk = planning.disk_bytes(model, spec, sized, draft, self._root)
        if not found:
            check_disk(disk, hardware.disk_free_bytes, str(self._root))
        return BuildPlan(
            model,
            spec,
            digest,
            str(directory),
            ("look up",) if found else _words(steps),
            disk,
            sized.fit.fixed_bytes + sized.fit.kv_bytes,
            planning.reasons(model, spec, contract, hardware, sized, draft),
            commands=steps,
            built_with=with_,
            draft=draft,
            needs=planning.needs(spec, sized, hardware),
        )

    def build(self, plan: BuildPlan, progress: Progress, run: Run | None = None) -> Engine:
        """Make the plan so, once per digest; nothing is left of a build that fails. Raises Corrupt, Unavailable."""
        start = time.monotonic()
        try:
            manifest, found = artifacts.build_once(
                self._root, plan.spec.kind, plan.digest, lambda directory: self._make(plan, directory, progress, run)
            )
        except OSError as bad:
            why = f"{bad.strerror or bad}; nothing is left of it, and it needs {plan.disk_bytes / 1e6:.0f} MB there"
            raise Unavailable(f"the engine could not be written to {self._root}: {why}") from bad
        progress("found" if found else "built", 1.0)
        size = sum(entry["size"] for entry in manifest["files"])
        spent = 0.0 if found else time.monotonic() - start
        needs = {name: int(value) for name, value in asdict(plan.needs).items()}
        return Engine(plan.spec.kind, plan.digest, plan.directory, plan.model.name, size, spent, found, needs)

    def _make(self, plan: BuildPlan, directory: Path, progress: Progress, run: Run | None) -> artifacts.Manifest:
        progress("check digests", 0.0)
        for model in (plan.model, *([plan.draft] if plan.draft else [])):
            check_digests(model)
        build_in(plan, directory, lambda what, share: progress(what, 0.9 * share), run)
        progress("verify", 0.92)
        verified = verify_directory(directory, plan.spec, plan.spec.version)
        progress("write warm-up requests", 0.97)
        samples = any(file.path == SAMPLES_FILE for file in plan.model.files)
        write_requests(plan.model.directory, None, directory / WARM_UP_FILE, samples=samples)
        shape = {name: value for name, value in asdict(plan.spec).items() if name not in ("environment", "faults")}
        return {
            "spec": shape,
            "model": told(plan.model),
            **({"draft": told(plan.draft)} if plan.draft else {}),
            "built_with": plan.built_with,
            "built_at": self._now(),
            "told": verified,
        }

    def verify(self, engine: Engine, hardware: Hardware) -> None:
        """Its files are those that were built, and these GPUs can serve them. Raises Corrupt, Refused."""
        manifest = artifacts.verify(Path(engine.directory))
        spec, was = spec_of(manifest["spec"]), manifest["built_with"]
        contract = contract_of(spec.version)
        if spec.container is None:
            check_installed(self._python, contract)
        stale = why_stale(was, built_with(spec, contract.version, hardware))
        if stale:
            raise Refused("engine", engine.digest[:16], f"it cannot be served here: {stale}", "build it again")

    def serve_command(
        self, engine: Engine, spec: EngineSpec, host: str, port: int, placement: Placement = Placement()
    ) -> ServeCommand:
        """How to start one instance, in NVIDIA's container or as a process. Its YAML must be written first.

        Raises Refused for a port that it may not have, and whatever ``check`` refuses.
        """
        check_port(port)
        directory = Path(engine.directory)
        contract, spec = self._checked(_as_built(directory, spec))
        boxed = spec.container is not None
        within_draft = container.DRAFT if boxed else serve.draft_folder(directory, spec)
        text = served(spec, contract, within_draft if spec.speculative.method == "draft" else "").text
        outside = serve.outside(directory, spec, text)
        paths = container.inside(outside, engine.served_name) if boxed else outside
        box = container.serving_container(spec, contract, placement.gpus, outside, paths) if boxed else None
        address = "0.0.0.0" if boxed else host
        started = "trtllm-serve" if boxed else program(self._python)
        return ServeCommand(
            serve.argv(spec, contract, paths, address, port, engine.served_name, started),
            serve.environment(spec, contract, () if boxed else placement.gpus),
            spec.drain_s + _STOP_S,
            box,
            placement.cores,
            {outside.yaml: text},
        )

    def readiness(self, spec: EngineSpec) -> Readiness:
        """While it loads, connections are refused; /health is 200 when it serves, 503 when the executor is gone."""
        return Readiness("/health", _LOAD_S + _LOAD_RANK_S * planning.world(spec))

    def drain(self, spec: EngineSpec) -> Drain:
        """After SIGTERM it finishes open requests, without any limit: SIGKILL is the limit."""
        return Drain(spec.drain_s, spec.drain_s + _STOP_S, finishes=True)

    def metrics(self, spec: EngineSpec) -> tuple[MetricsPage, ...]:
        """Prometheus' page first, then the iterations, where the queue and the cache are. Raises Refused."""
        return metrics.pages(contract_of(self._version(spec)))

    def usage(self) -> Usage:
        """Read off the answers."""
        return "parsed"

    def _checked(self, spec: EngineSpec) -> tuple[Contract, EngineSpec]:
        """The contract of the version, and the spec with version and recipe filled in. Raises Refused."""
        check_fields(spec)
        contract = contract_of(self._version(spec))
        spec = replace(spec, version=contract.version, recipe=recipe_of(spec))
        check_recipe_exists(spec, contract)
        container.model_paths(spec.options)
        served(spec, contract, container.DRAFT)
        return contract, spec

    def _version(self, spec: EngineSpec) -> str:
        """As asked for; else what is installed, where that serves; else the newest release."""
        here = "" if spec.version or spec.container else installed_version(interpreter(self._python))
        return spec.version or here or NEWEST


def _words(steps: Sequence[BuildStep]) -> tuple[str, ...]:
    """What a build does, in words."""
    return ("check digests", *(step.name for step in steps), "verify", "write warm-up requests")


def _as_built(directory: Path, spec: EngineSpec) -> EngineSpec:
    """A spec that names no version is served by the version that built the engine, whatever is newest by then."""
    if spec.version or not (directory / artifacts.MANIFEST).is_file():
        return spec
    try:
        return replace(spec, version=artifacts.read_manifest(directory)["built_with"]["version"])
    except (KeyError, TypeError) as bad:
        raise Corrupt(f"engine {directory.name}: its manifest names no version; build it again") from bad
