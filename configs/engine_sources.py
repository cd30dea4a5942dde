"""Where an engine comes from: this machine, the run that built it, the DVC remote; else a build, which is recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from configs.engine_cache import tidy
from configs.stack import Stack
from engines import artifacts
from engines.hardware import Hardware, read_hardware
from engines.port import BuildPlan, EngineSpec, Progress, Run, open_engine
from engines.steps import LOG, failure
from model_registry.port import EngineBuild, open_registry, open_remote
from model_registry.sources import fetch_any
from platforms.container_run import StepFailed, ensure_image, run_in_container
from rollout.command import Command
from rollout.errors import NotFound, RoundhouseError
from rollout.nouns import Engine, ModelFile, ModelVersion

Tell = Callable[[str], None]
T = TypeVar("T")
_HERE = "this machine"
_LOG_BYTES = 4 << 20  # of a build's own log that are kept with its record: the last ones


def plan_engine(
    stack: Stack, spec: EngineSpec, model: ModelVersion, progress: Progress, hardware: Hardware | None = None
) -> BuildPlan:
    """The build of that spec on this machine (``hardware``, where it was read before), its draft model fetched.

    Raises Refused, NotFound, Unavailable.
    """
    kind = open_engine(spec.kind, stack.engines())
    hardware = hardware or read_hardware(stack.engines().directory)
    wanted = spec.speculative.draft_model if spec.speculative.method == "draft" else ""
    draft = fetch_any(wanted, stack.registry(), progress, str(stack.project)) if wanted else None
    return kind.plan(model, spec, hardware, draft)


def make_engine(
    stack: Stack, spec: EngineSpec, model: ModelVersion, progress: Progress, tell: Tell, run: Run | None = None
) -> Engine:
    """The engine, planned (and refused) before anything is written, from the nearest place that has it.

    ``tell`` hears where it came from, and of every place that could not be asked: none of them makes a build fail.
    ``run`` runs the steps that need a container; None: the stack's Docker. Raises Refused, Corrupt, Unavailable.
    """
    plan = plan_engine(stack, spec, model, progress)
    came_from = _HERE if _here(stack, plan) else bring(stack, plan, progress, tell)
    steps = _Steps(progress)
    engine = open_engine(spec.kind, stack.engines()).build(plan, steps, run or container_runner(stack, progress))
    if engine.cached:
        tell(f"engine {plan.digest[:12]} found: {came_from or 'another process built it meanwhile'}")
    else:
        tell(f"engine {plan.digest[:12]} built in {engine.build_s:.1f} s, {engine.size / 1e6:.0f} MB")
        write_down(stack, plan, engine, steps.text(), progress, tell)
    if came_from != _HERE:
        _try("the engines' size bound", lambda: tidy(stack, tell, {plan.digest: "made just now"}), tell)
    return engine


def bring(stack: Stack, plan: BuildPlan, progress: Progress, tell: Tell) -> str:
    """Fetch the engine from the first place that has it whole; the place, empty where none has."""
    for place, fetch in _places(stack, plan, progress):
        try:
            _adopt(stack, plan, fetch)
            return place
        except NotFound:
            continue
        except (RoundhouseError, OSError) as error:
            tell(f"engine {plan.digest[:12]} is not taken from {place}: {error}")
    return ""


def write_down(stack: Stack, plan: BuildPlan, engine: Engine, log: str, progress: Progress, tell: Tell) -> None:
    """Record a build and keep its files where other machines find them; what fails is told and changes nothing."""
    pointer = _try("the DVC remote", lambda: _push(stack, engine), tell) or ""
    build, registry = _told(plan, engine, log, pointer), open_registry(stack.registry())
    run = _try("the record of the build", lambda: registry.record_build(build), tell)
    if run is None:
        return
    if build.size > stack.engine_upload_gb * 1e9:
        tell(f"{build.size / 1e9:.1f} GB are above engine_upload_gb ({stack.engine_upload_gb:g}): recorded only")
    else:
        _try("the upload to its run", lambda: registry.put_engine(run, build, progress), tell)
    tell(f"build recorded: {run.address}")


def container_runner(stack: Stack, progress: Progress) -> Run:
    """Runs a command to its end in a container of the stack's Docker, its image pulled if it is not there."""
    settings = stack.platform().containers

    def run(command: Command, log: str) -> None:
        if command.container is not None:
            ensure_image(settings, command.container.image, progress)
        try:
            run_in_container(settings, command, log)
        except StepFailed as failed:
            raise failure(failed.argv, failed.code, failed.said) from failed

    return run


class _Steps:
    """Passes progress on and keeps when each step began, for the build's record."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._start, self._lines = progress, time.monotonic(), list[str]()
        self._last = ""

    def __call__(self, what: str, share: float) -> None:
        if what != self._last:
            self._last = what
            self._lines.append(f"{time.monotonic() - self._start:8.1f} s  {what}")
        self._progress(what, share)

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"


def _here(stack: Stack, plan: BuildPlan) -> bool:
    return artifacts.find(Path(stack.engines().directory), plan.spec.kind, plan.digest) is not None


def _places(stack: Stack, plan: BuildPlan, progress: Progress) -> Iterator[tuple[str, Callable[[Path], Path]]]:
    """Each place's name, and what fetches the engine from it into an empty folder: it returns the engine's own."""

    def from_run(aside: Path) -> Path:
        open_registry(stack.registry()).get_engine(plan.digest, str(aside / "engine"), progress)
        return aside / "engine"

    yield "the MLflow run that built it", from_run
    remote = stack.remote()
    if remote is not None:
        name = artifacts.directory_name(plan.spec.kind, plan.digest)
        yield "the DVC remote", lambda aside: open_remote(remote).get(name, str(aside))


def _adopt(stack: Stack, plan: BuildPlan, fetch: Callable[[Path], Path]) -> None:
    root = Path(stack.engines().directory)
    with artifacts.incoming(root, plan.spec.kind, plan.digest) as aside:
        if not _here(stack, plan):  # else another process fetched it while we waited
            artifacts.adopt(root, fetch(aside), plan.spec.kind, plan.digest)


def _push(stack: Stack, engine: Engine) -> str:
    """Into the DVC remote; the text that names it there, empty without a remote."""
    remote = stack.remote()
    return open_remote(remote).put(engine.directory, Path(engine.directory).name) if remote else ""


def _told(plan: BuildPlan, engine: Engine, log: str, pointer: str) -> EngineBuild:
    directory = Path(engine.directory)
    own = directory / artifacts.MANIFEST
    named = [ModelFile(e["path"], e["size"], e["sha256"]) for e in artifacts.read_manifest(directory)["files"]]
    return EngineBuild(
        model_uri=plan.model.uri,
        kind=plan.spec.kind,
        digest=plan.digest,
        directory=engine.directory,
        files=(*named, ModelFile(own.name, own.stat().st_size, artifacts.sha256_of(own))),
        seconds=engine.build_s,
        built_with=dict(plan.built_with),
        version=next((plan.built_with[k] for k in ("engine", "version", plan.spec.kind) if k in plan.built_with), ""),
        log=log + _tail(directory / LOG),
        pointer=pointer,
    )


def _tail(log: Path) -> str:
    """The end of a build's own log, where it has one."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_BYTES))
        return "\n" + file.read().decode("utf-8", "replace")


def _try(what: str, do: Callable[[], T], tell: Tell) -> T | None:
    """A build that succeeded here stays so, whatever a place that should hear of it answers."""
    try:
        return do()
    except Exception as error:
        tell(f"{what} failed, the engine is built all the same: {error}")
        return None
