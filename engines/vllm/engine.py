"""vLLM as an engine: a Hugging Face folder in a content-addressed directory, served by vLLM's own OpenAI server."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from engines import artifacts
from engines.checks import check_disk, check_draft_given, check_port
from engines.hardware import Hardware, read_hardware
from engines.model_folder import check_folder
from engines.port import (
    BuildPlan,
    Drain,
    EngineSpec,
    LocalSettings,
    MetricsPage,
    Needs,
    Placement,
    Progress,
    Readiness,
    Run,
    ServeCommand,
    Usage,
)
from engines.recorded import check_digests, told
from engines.sizing.config_file import shape_at
from engines.sizing.fit import Fit, check_fit, computing, least_sm, to_build_for, tokens_per_step
from engines.sizing.measure import gib
from engines.sizing.shape import ModelShape
from engines.steps import build_in
from engines.vllm import flags, serve
from engines.vllm.interpreter import Device, Installed, installed, interpreter_of
from engines.vllm.model_files import (
    Source,
    check_converter,
    check_written,
    link,
    open_model,
    steps_of,
)
from engines.vllm.rules import check_machine, check_model, check_version, check_vllm, world
from engines.warm_up import SAMPLES_FILE, WARM_UP_FILE, check_samples, write_requests
from rollout.errors import Unavailable
from rollout.nouns import Engine, ModelVersion

BUILDER = "1"  # raise it when the same inputs give other bytes
_MARGIN = 32 * 1024 * 1024  # manifest, build log, file system
_LOAD_S = 900.0  # a model of some hundred GB from a slow disk; a small one is there in 40 s


class Vllm:
    """The verbs of ``port.EngineKind``. ``now`` gives the time in epoch seconds for the manifest, ``look`` the machine
    that an instance is started on."""

    def __init__(
        self,
        settings: LocalSettings,
        now: Callable[[], float] = time.time,
        look: Callable[[str], Hardware] = read_hardware,
    ) -> None:
        self._root = Path(settings.directory)
        self._python = interpreter_of(settings)
        self._now, self._look = now, look

    def check(self, spec: EngineSpec) -> None:
        """Known quantisation and dtypes, sensible numbers, flags that vLLM has. Raises Refused."""
        check_vllm(spec)

    def plan(
        self, model: ModelVersion, spec: EngineSpec, hardware: Hardware, draft: ModelVersion | None = None
    ) -> BuildPlan:
        """Decide, without writing anything. Raises Refused with numbers, Corrupt for files that are not whole."""
        self.check(spec)
        check_draft_given(spec, draft)
        found = installed(self._python)
        check_version(spec, found)
        device = _device(spec, found)
        check_machine(spec, device, hardware)
        source, small = open_model(model), open_model(draft) if draft else None
        for one in (source, *([small] if small else [])):
            check_converter(one, found)
        guess = small.shape if small else None
        check_model(spec, source.shape, device, hardware, guess)
        demand = serve.vllm_demand(spec, device, source.shape)
        seen = to_build_for(source.shape, demand, _seen(device, hardware), guess)
        fit = check_fit(source.shape, demand, seen, guess)
        judged = hardware if device == "cpu" else seen
        return self._planned(spec, judged, found, source, small, fit)

    def _planned(
        self,
        spec: EngineSpec,
        hardware: Hardware,
        found: Installed | None,
        source: Source,
        small: Source | None,
        fit: Fit,
    ) -> BuildPlan:
        built_with = _built_with(spec, found, source, small)
        digest = _digest(source.model, small.model if small else None, built_with)
        there = artifacts.find(self._root, spec.kind, digest) is not None
        disk = source.size + (small.size if small else 0) + _MARGIN
        if not there:
            check_disk(disk, hardware.disk_free_bytes, str(self._root))
        commands = steps_of(source, serve.MODEL, found) + (steps_of(small, serve.DRAFT, found) if small else ())
        words = [step.name for step in commands] or [f"link {len(source.model.files)} files"]
        device = _device(spec, found)
        each = world(spec) if device == "cpu" else 1
        return BuildPlan(
            source.model,
            spec,
            digest,
            str(self._root / artifacts.directory_name(spec.kind, digest)),
            ("look up",) if there else ("check digests", *words, "write warm-up requests", "verify"),
            disk,
            each * (fit.fixed_bytes + fit.kv_bytes),
            _reasons(spec, device, found, hardware, source, small, fit),
            commands,
            built_with=built_with,
            draft=small.model if small else None,
            needs=Needs(
                each * fit.fixed_bytes,
                each * fit.sequence_bytes,
                0 if device == "cpu" else world(spec),
                device == "gpu",
                least_sm=_least_sm(spec, device, source.shape, hardware),
            ),
        )

    def build(self, plan: BuildPlan, progress: Progress, run: Run | None = None) -> Engine:
        """Make the plan so, once per digest. Raises Corrupt, Refused, Unavailable."""
        start = time.monotonic()
        try:
            manifest, found = artifacts.build_once(
                self._root, plan.spec.kind, plan.digest, lambda directory: self._make(plan, directory, progress, run)
            )
        except OSError as bad:
            raise Unavailable(
                f"the engine could not be written to {self._root}: {bad.strerror or bad}; nothing is left of it, and "
                f"it needs {plan.disk_bytes / 1e6:.0f} MB there"
            ) from bad
        progress("found" if found else "built", 1.0)
        size = sum(entry["size"] for entry in manifest["files"])
        spent = 0.0 if found else time.monotonic() - start
        return Engine(
            plan.spec.kind, plan.digest, plan.directory, plan.model.name, size, spent, found, asdict(plan.needs)
        )

    def _make(self, plan: BuildPlan, directory: Path, progress: Progress, run: Run | None) -> artifacts.Manifest:
        """Converted by the plan's commands, or linked; then checked."""
        models = {serve.MODEL: plan.model, **({serve.DRAFT: plan.draft} if plan.draft else {})}
        progress("check digests", 0.0)
        for model in models.values():
            check_digests(model)
        build_in(plan, directory, lambda what, share: progress(what, 0.1 + 0.8 * share), run)
        for folder, model in models.items():
            if model.format != "gguf":
                link(model, directory / folder)
        progress("verify", 0.9)
        shapes = {folder: open_model(model).shape for folder, model in models.items()}
        for folder, shape in shapes.items():
            check_written(directory / folder, shape)
        _write_warm_up(plan.model, directory, shapes[serve.MODEL])
        return {
            "spec": {"kind": plan.spec.kind},
            "model": told(plan.model),
            **({"draft": told(plan.draft)} if plan.draft else {}),
            "architecture": shapes[serve.MODEL].architecture,
            "parameters": shapes[serve.MODEL].parameters,
            "built_with": plan.built_with,
            "built_at": self._now(),
        }

    def verify(self, engine: Engine, hardware: Hardware) -> None:
        """Its files are those that were built, and are a whole model. Raises Corrupt."""
        artifacts.verify(Path(engine.directory))
        check_folder(Path(engine.directory) / serve.MODEL, "build it again")

    def serve_command(
        self, engine: Engine, spec: EngineSpec, host: str, port: int, placement: Placement = Placement()
    ) -> ServeCommand:
        """How to start one instance on the machine as it is now. Raises Refused for a reserved port, and where the
        model no longer fits beside what else is there."""
        check_port(port)
        check_vllm(spec)
        found = installed(self._python)
        check_version(spec, found)
        device, directory = _device(spec, found), Path(engine.directory)
        seen = _seen(device, serve.given(self._look(str(self._root)), placement))
        shape = shape_at(directory / serve.MODEL)
        draft = shape_at(directory / serve.DRAFT) if spec.speculative.method == "draft" else None
        check_machine(spec, device, seen)
        check_model(spec, shape, device, seen, draft)
        check_fit(shape, serve.vllm_demand(spec, device, shape), seen, draft)
        memory = serve.memory_arguments(spec, device, shape, seen, draft)
        return self._command(engine, spec, host, port, placement, found, memory)

    def serve_planned(
        self, plan: BuildPlan, hardware: Hardware, host: str, port: int, placement: Placement
    ) -> ServeCommand:
        """The same of what is planned on ``hardware`` and not built yet. Raises Refused."""
        check_port(port)
        spec, found = plan.spec, installed(self._python)
        device = _device(spec, found)
        draft = open_model(plan.draft).shape if plan.draft else None
        shape, seen = open_model(plan.model).shape, _seen(device, serve.given(hardware, placement))
        seen = to_build_for(shape, serve.vllm_demand(spec, device, shape), seen, draft)
        memory = serve.memory_arguments(spec, device, shape, seen, draft)
        engine = Engine(spec.kind, plan.digest, plan.directory, plan.model.name, 0, 0.0, False)
        return self._command(engine, spec, host, port, placement, found, memory)

    def _command(
        self,
        engine: Engine,
        spec: EngineSpec,
        host: str,
        port: int,
        placement: Placement,
        found: Installed | None,
        memory: tuple[str, ...],
    ) -> ServeCommand:
        device, stop = _device(spec, found), spec.drain_s + serve.GRACE_S
        if spec.container is None:
            server = serve.Server(self._python, engine.directory, engine.served_name, host, port, device)
            env = serve.environment(spec, device, placement, str(self._root / ".vllm"))
            return ServeCommand(serve.arguments(server, spec, memory), env, stop, None, placement.cores)
        server = serve.Server("python3", serve.INSIDE, engine.served_name, serve.EVERYWHERE, port, device)
        box = serve.container(spec.container, _version(spec, found), spec, placement.gpus, engine.directory)
        env = serve.environment(spec, device, placement, "")
        return ServeCommand(serve.arguments(server, spec, memory)[1:], env, stop, box, placement.cores)

    def readiness(self, spec: EngineSpec) -> Readiness:
        """Connections are refused while it loads; then 200."""
        return Readiness("/health", _LOAD_S)

    def drain(self, spec: EngineSpec) -> Drain:
        """It finishes what is open after SIGTERM, but answers new requests with 500 and its health with 200 meanwhile:
        it must be out of rotation before."""
        return Drain(spec.drain_s, spec.drain_s + serve.GRACE_S, finishes=True)

    def metrics(self, spec: EngineSpec) -> tuple[MetricsPage, ...]:
        """One page in Prometheus' format."""
        return (MetricsPage("/metrics", dict(serve.METRICS)),)

    def usage(self) -> Usage:
        """It counts in its answers; in streams only where the request asks for it (``stream_options``)."""
        return "parsed"


def _device(spec: EngineSpec, found: Installed | None) -> Device:
    """vLLM's image is the GPU build."""
    return "gpu" if spec.container is not None or found is None else found.device


def _seen(device: Device, hardware: Hardware) -> Hardware:
    """A vLLM for CPUs does not see GPUs."""
    return hardware if device == "gpu" else Hardware(hardware.cores, hardware.memory_bytes, hardware.disk_free_bytes)


def _least_sm(spec: EngineSpec, device: Device, shape: ModelShape, hardware: Hardware) -> int:
    """Of the GPUs that it can have; 0 on processors."""
    if device == "cpu":
        return 0
    demand = serve.vllm_demand(spec, device, shape)
    return least_sm(shape, demand, computing(shape, demand, hardware))


def _version(spec: EngineSpec, found: Installed | None) -> str:
    """Of the container that serves, else of what is installed."""
    if spec.container is not None or found is None:
        return spec.version or flags.listed_version()
    return found.version


def _built_with(spec: EngineSpec, found: Installed | None, source: Source, small: Source | None) -> dict[str, str]:
    """Everything but the files that an engine depends on. Quantisation happens while loading and is no part of it."""
    gguf = source.gguf is not None or (small is not None and small.gguf is not None)
    return {
        "builder": BUILDER,
        "vllm": _version(spec, found),
        **({"transformers": found.transformers} if gguf and found else {}),
    }


def _digest(model: ModelVersion, draft: ModelVersion | None, built_with: dict[str, str]) -> str:
    inputs = {"kind": "vllm", "model": model.digest, "draft": draft.digest if draft else "", "with": built_with}
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _write_warm_up(model: ModelVersion, directory: Path, shape: ModelShape) -> None:
    """From the model's own samples where they are recorded, else from the vocabulary of what was built."""
    samples = any(file.path == SAMPLES_FILE for file in model.files) and check_samples(model.directory)
    place = model.directory if samples else directory / serve.MODEL
    write_requests(place, None, directory / WARM_UP_FILE, shape.max_positions)


def _reasons(
    spec: EngineSpec,
    device: Device,
    found: Installed | None,
    hardware: Hardware,
    source: Source,
    small: Source | None,
    fit: Fit,
) -> dict[str, str]:
    """Why each derived value is what it is."""
    seen, guess = _seen(device, hardware), small.shape if small else None
    flag, value = serve.memory_arguments(spec, device, source.shape, seen, guess)
    version, listed, threads = _version(spec, found), flags.listed_version(), world(spec) * spec.threads
    reasons = {
        "version": f"vLLM {version} for {device.upper()}s, " + ("its container" if spec.container else "as installed"),
        "digest": f"model {source.model.digest[:12]}" + (f", draft {small.model.digest[:12]}" if small else ""),
        flag: f"{value}: {gib(fit.kv_bytes)} for {fit.kv_tokens:,} tokens of keys and values on each rank, "
        f"{fit.sequences} requests of {spec.context:,} tokens",
        "memory_bytes": f"each rank: weights {gib(fit.weights_bytes)}, activations {gib(fit.activation_bytes)}, "
        f"runtime {gib(fit.overhead_bytes)}, keys and values {gib(fit.kv_bytes)}",
        "--max-num-batched-tokens": f"{tokens_per_step(spec)}: max_tokens, else a chunk of a prompt or a token a slot",
        "--max-num-queued-reqs": f"{spec.max_queue + spec.slots}: vLLM counts running and waiting requests together",
        "--shutdown-timeout": f"{spec.drain_s:g} s: with 0, vLLM's default, SIGTERM cuts open streams",
    }
    if device == "cpu" and hardware.gpus:
        reasons["GPUs"] = "none is used: the installed vLLM is for processors; name a container, or install another"
    if device == "cpu":
        reasons["--enforce-eager"] = "on: compiling takes minutes at each start and needs a C++ compiler"
        many = f"{world(spec)} ranks x {spec.threads} threads on {hardware.cores} cores"
        reasons["threads"] = many + (": oversubscribed, ranks wait for each other" if threads > hardware.cores else "")
    if source.gguf is not None:
        reasons["dtype"] = f"{source.gguf.main_type} GGUF is kept as {source.shape.dtype}; precision does not come back"
    if version != listed and (spec.options or spec.flags):
        reasons["flags"] = f"checked against the list of vLLM {listed}, not of {version}"
    return reasons
