"""Instances as containers of a Docker engine: the same verbs as for processes.

One small file per instance in ``include_directory`` is the memory, as it is for processes: without such a file no
Docker is asked for. Docker restarts nothing by itself; that is the agent's decision. Its log goes to a file beside the
processes' logs.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
import zlib
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from docker.errors import NotFound as NoContainer
from docker.models.containers import Container as Box

from platforms.container_log import follow
from platforms.docker_client import Silent, arguments, connect, docker_errors
from platforms.port import DockerSettings, InstanceSpec, ProcessState, Running
from platforms.ports import require_free
from platforms.supervisor_conf import SAFE_NAME
from rollout.errors import Conflict, Refused, RoundhouseError

LABEL = "roundhouse.instance"
_GONE = "it has no container: that was removed, or never made"
log = logging.getLogger("roundhouse.docker")


class DockerPlatform:
    """The verbs of ``platforms.port.Platform`` on Docker."""

    def __init__(self, settings: DockerSettings, now: Callable[[], float] = time.time) -> None:
        self._now = now  # epoch seconds
        self._docker = connect(settings.url)
        self._include = Path(settings.include_directory)
        self._logs = Path(settings.log_directory)
        self._stopping: dict[str, threading.Thread] = {}
        self._following: dict[str, threading.Thread] = {}
        self._followed: set[str] = set()  # instances whose container's output was copied to its end

    def start(self, spec: InstanceSpec) -> None:
        """Have it run. Raises Conflict (port taken, still stopping), NotFound (image, mount), Refused, Unavailable.

        What could not be created or started is forgotten, unless Docker did not answer: then it may run all the same.
        """
        if not SAFE_NAME.fullmatch(spec.id):
            raise Refused("id", spec.id, "letters, digits and . _ - only", "rename it, for example chat-v1-0")
        if spec.container is None:
            raise Refused("container", None, "this platform runs containers", "name an image in the engine's file")
        known = self._running(spec.id)
        if known and known.state is ProcessState.RUNNING:
            return
        if known and known.state is ProcessState.STOPPING:
            raise Conflict(f"{spec.id} (pid {known.pid}) is still stopping; start it again when it has exited")
        require_free(spec.port, spec.host)
        labels = {LABEL: spec.id, "roundhouse.home": str(self._include)}
        asked = arguments(spec.argv, spec.env, spec.container, spec.cores, labels)
        with docker_errors(spec.id):
            self._discard(spec.id)
        self._remember(spec)
        try:
            with docker_errors(spec.id):
                published = {f"{spec.port}/tcp": (spec.host, spec.port)}
                self._docker.containers.create(name=self._name(spec.id), ports=published, **asked).start()
        except Silent:
            raise
        except RoundhouseError:
            self._file(spec.id).unlink(missing_ok=True)
            with contextlib.suppress(RoundhouseError), docker_errors(spec.id):
                self._discard(spec.id)
            raise
        self._follow(spec.id)

    def stop(self, instance_id: str) -> None:
        """SIGTERM, SIGKILL after its ``stop_s``. Returns at once. A stop that another process began is ended only."""
        if self._is_ending(instance_id) or not self._file(instance_id).exists():
            return
        box = self._box(instance_id)
        if box is None or box.status != "running":
            return
        if self._left(instance_id) is None:
            self._write(instance_id, {**self._memory(instance_id), "stop_at": self._now()})
            patience = round(self._memory(instance_id)["stop_s"])
            self._end_by(instance_id, lambda: self._end(instance_id, box, patience))
        else:
            self._finish_stop(instance_id)

    def kill(self, instance_id: str) -> None:
        """SIGKILL now, for an instance that hangs."""
        box = self._box(instance_id) if self._file(instance_id).exists() else None
        if box is not None and box.status in ("running", "paused"):
            with contextlib.suppress(Conflict), docker_errors(instance_id):  # Conflict: it ended in between
                box.kill()

    def remove(self, instance_id: str) -> None:
        """Forget it; its log stays. Raises Conflict while it runs, Unavailable."""
        if not self._file(instance_id).exists():
            return
        known = self._running(instance_id)
        if known and known.pid:
            raise Conflict(f"{instance_id} still runs (pid {known.pid}); stop it first")
        with docker_errors(instance_id):
            self._discard(instance_id)
        self._file(instance_id).unlink(missing_ok=True)

    def running(self) -> dict[str, Running]:
        """All instances that have a file, with what Docker says of them. Raises Unavailable."""
        found = {each: self._running(each) for each in self.known()}
        for each, seen in found.items():
            if seen is not None and not (seen.state is ProcessState.EXITED and each in self._followed):
                self._follow(each)
            if seen is not None and seen.state is ProcessState.STOPPING and not self._is_ending(each):
                self._finish_stop(each)
        gone = partial(Running, state=ProcessState.EXITED, pid=None, started_at=None, reason=_GONE)
        return {each: seen or gone(each) for each, seen in found.items()}

    def known(self) -> list[str]:
        """The ids of all instances that have a file; asks no Docker."""
        return sorted(path.stem for path in self._include.glob("*.json"))

    def log_path(self, instance_id: str) -> str:
        """The file that both output streams go to."""
        return str(self._logs / f"{instance_id}.log")

    def _running(self, instance_id: str) -> Running | None:
        box = self._box(instance_id)
        stopping = self._is_ending(instance_id) or self._left(instance_id) is not None
        return None if box is None else as_running(instance_id, box.attrs["State"], stopping)

    def _box(self, instance_id: str) -> Box | None:
        with docker_errors(instance_id):
            try:
                return self._docker.containers.get(self._name(instance_id))
            except NoContainer:
                return None

    def _discard(self, instance_id: str) -> None:
        box = self._box(instance_id)
        if box is not None:
            box.remove(force=True, v=True)

    def _end(self, box: Box, patience_s: int) -> None:
        try:
            with docker_errors(str(box.name)):
                box.client.api.stop(box.id, timeout=patience_s)
        except RoundhouseError as bad:
            log.warning("%s could not be stopped: %s", box.name, bad)

    def _finish_stop(self, instance_id: str) -> None:
        """SIGKILL when the time of a stop is over that another process began: it had its SIGTERM."""
        left = self._left(instance_id) or 0.0

        def end() -> None:
            time.sleep(left)
            self.kill(instance_id)

        self._end_by(instance_id, end)

    def _end_by(self, instance_id: str, work: Callable[[], None]) -> None:
        def ended() -> None:
            try:
                work()
            except RoundhouseError as bad:
                log.warning("%s could not be stopped: %s", instance_id, bad)

        self._stopping[instance_id] = _thread(f"stop-{instance_id}", ended)

    def _end(self, instance_id: str, box: Box, patience_s: int) -> None:
        try:
            with docker_errors(instance_id):
                box.client.api.stop(box.id, timeout=patience_s)
        except Silent:  # it may not have had its SIGTERM, so the next stop is a whole one
            memory = self._memory(instance_id)
            if memory.pop("stop_at", None) is not None:
                self._write(instance_id, memory)
            raise

    def _is_ending(self, instance_id: str) -> bool:
        thread = self._stopping.get(instance_id)
        return thread is not None and thread.is_alive()

    def _left(self, instance_id: str) -> float | None:
        """Seconds until the end of a stop that has begun, whoever began it; None where none has."""
        memory = self._memory(instance_id)
        if "stop_at" not in memory:
            return None
        return min(max(memory["stop_at"] + memory["stop_s"] - self._now(), 0.0), memory["stop_s"])

    def _follow(self, instance_id: str) -> None:
        """Copy its output to its file: as long as it runs, and once to its end after it has exited."""
        thread = self._following.get(instance_id)
        if thread is not None and thread.is_alive():
            return
        box, path = self._box(instance_id), Path(self.log_path(instance_id))

        def copy() -> None:
            if follow(box, path):
                self._followed.add(instance_id)

        if box is not None:
            self._followed.discard(instance_id)
            self._following[instance_id] = _thread(f"log-{instance_id}", copy)

    def _remember(self, spec: InstanceSpec) -> None:
        self._include.mkdir(parents=True, exist_ok=True)
        self._write(spec.id, {"image": spec.container.image, "stop_s": spec.stop_s})

    def _memory(self, instance_id: str) -> dict[str, Any]:
        """What its file says; nothing where it was removed meanwhile."""
        try:
            return json.loads(self._file(instance_id).read_text())
        except FileNotFoundError:
            return {}

    def _write(self, instance_id: str, memory: dict[str, Any]) -> None:
        aside = self._include / f".{instance_id}.new"
        aside.write_text(json.dumps(memory))
        aside.rename(self._file(instance_id))

    def _file(self, instance_id: str) -> Path:
        return self._include / f"{instance_id}.json"

    def _name(self, instance_id: str) -> str:
        """Two stacks of one machine have instances of the same ids."""
        return f"roundhouse-{zlib.crc32(str(self._include).encode()):08x}-{instance_id}"


def as_running(instance_id: str, state: dict[str, Any], stopping: bool) -> Running:
    """The ``State`` of Docker's container record as ours (Docker Engine API v1.41, ContainerInspect)."""
    started = _epoch(state.get("StartedAt", ""))
    if state["Status"] in ("running", "paused", "restarting"):
        doing = ProcessState.STOPPING if stopping else ProcessState.RUNNING
        return Running(instance_id, doing, state.get("Pid") or None, started)
    status = state.get("ExitCode") if started else None
    memory = "it was killed for want of memory" if state.get("OOMKilled") else ""
    reason = "; ".join(filter(None, (memory, state.get("Error", ""))))
    return Running(instance_id, ProcessState.EXITED, None, started, status, reason)


def _epoch(text: str) -> float | None:
    """Docker writes nanoseconds, which Python's parser does not take, and the year 1 for never."""
    if not text or text.startswith("0001"):
        return None
    return datetime.fromisoformat(text[:19] + "+00:00").timestamp()


def _thread(name: str, work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread
