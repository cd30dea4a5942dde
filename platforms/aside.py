"""A platform that may be slow or hang, asked in threads of their own: no verb of it keeps the caller waiting for long.

While it is silent its instances are as they were last seen: that it does not answer says nothing of them, and whether
they serve is asked of themselves.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from platforms.port import InstanceSpec, Platform, ProcessState, Running
from rollout.errors import Unavailable

log = logging.getLogger("roundhouse.docker")


class Slow(Platform, Protocol):
    """What is asked aside: it also says at once which instances it has."""

    def known(self) -> list[str]:
        """Their ids."""


@dataclass(frozen=True)
class Patience:
    """For how long a caller waits, in seconds."""

    verb: float = 3.0  # afterwards it goes on by itself
    first_look: float = 1.0
    look: float = 0.25  # a Docker in health answers in some milliseconds


class _Job(threading.Thread):
    """One verb on one instance, or a look at all of them."""

    def __init__(self, what: str, work: Callable[[], None], late: Callable[[str, Exception], None]) -> None:
        super().__init__(name=f"aside-{what}", daemon=True)
        self.what, self.began, self.ended = what, time.monotonic(), 0.0
        self.error: Exception | None = None
        self.left = False  # nobody waits for it any more
        self._work, self._late, self._lock = work, late, threading.Lock()

    def run(self) -> None:
        try:
            self._work()
        except Exception as bad:  # whoever waits gets it; if nobody does any more, it is told
            self.error = bad
        with self._lock:
            self.ended = time.monotonic()
            if self.left and self.error:
                self._late(self.what, self.error)

    def done_within(self, seconds: float) -> bool:
        """Whether it has ended in that time; else it is left to itself."""
        self.join(seconds)
        with self._lock:
            self.left = self.ended == 0.0
        return not self.left


class Aside:
    """The verbs of ``platforms.port.Platform``, on one that may be slow."""

    def __init__(self, slow: Slow, patience: Patience = Patience()) -> None:
        self._slow, self._patience = slow, patience
        self._jobs: dict[str, _Job] = {}  # of each instance the last
        self._failed: dict[str, str] = {}  # instances that could not be started, after nobody waited any more
        self._look = _Job("look", self._see, self._silent)
        self._seen: dict[str, Running] | None = None
        self._seen_at = 0.0  # when the last look that was answered began
        self._told = False  # that it is silent, so that this is said once

    def start(self, spec: InstanceSpec) -> None:
        """Have it run. Raises what the platform does, if it says so in time; later that is in ``running``."""
        if self._is_busy(spec.id, "start"):
            return
        self._failed.pop(spec.id, None)
        self._do(spec.id, "start", lambda: self._slow.start(spec))

    def stop(self, instance_id: str) -> None:
        """SIGTERM, SIGKILL later. Raises Unavailable while its start is not done."""
        if not self._is_busy(instance_id, "stop"):
            self._do(instance_id, "stop", lambda: self._slow.stop(instance_id))

    def kill(self, instance_id: str) -> None:
        """SIGKILL now. Raises Unavailable while its start is not done."""
        if not self._is_busy(instance_id, "kill"):
            self._do(instance_id, "kill", lambda: self._slow.kill(instance_id))

    def remove(self, instance_id: str) -> None:
        """Forget it. Raises Conflict while it runs, Unavailable where that is not known in time."""
        if self._is_busy(instance_id, "remove") or not self._do(
            instance_id, "remove", lambda: self._slow.remove(instance_id)
        ):
            raise Unavailable(f"{instance_id}: Docker has not answered yet; it is removed later")
        self._failed.pop(instance_id, None)

    def running(self) -> dict[str, Running]:
        """As they are now, or if the platform does not say so in time, as they were last seen."""
        if not self.known():
            self._seen = {}
            return {}
        if not self._look.is_alive():
            self._look = _Job("look", self._see, self._silent)
            self._look.start()
            self._look.done_within(self._patience.first_look if self._seen is None else self._patience.look)
            if self._look.error:
                self._silent("look", self._look.error)
        return {each: self._state(each) for each in self.known()}

    def known(self) -> list[str]:
        """The ids of all instances, of those too that are just being started."""
        starting = {each for each, job in list(self._jobs.items()) if job.what == "start" and job.is_alive()}
        return sorted({*self._slow.known(), *starting, *self._failed})

    def log_path(self, instance_id: str) -> str:
        """Where its output is kept."""
        return self._slow.log_path(instance_id)

    def _state(self, instance_id: str) -> Running:
        """As it was seen; what was done since is taken to have worked."""
        if instance_id in self._failed:
            return Running(instance_id, ProcessState.EXITED, None, None, None, self._failed[instance_id])
        unknown = Running(instance_id, ProcessState.RUNNING, None, None)
        seen, job = (self._seen or {}).get(instance_id, unknown), self._jobs.get(instance_id)
        if job is None or job.error or 0.0 < job.ended <= self._seen_at:
            return seen
        if job.what == "start":
            return seen if seen.state is ProcessState.RUNNING else unknown
        return replace(seen, state=ProcessState.STOPPING) if seen.state is ProcessState.RUNNING else seen

    def _see(self) -> None:
        began, seen = time.monotonic(), self._slow.running()
        self._seen, self._seen_at, self._told = seen, began, False

    def _silent(self, what: str, error: Exception) -> None:
        age = f"seen {time.monotonic() - self._seen_at:.0f} s ago" if self._seen_at else "not seen yet"
        if not self._told:
            log.warning("%s; its containers are taken to be as they were last (%s)", error, age)
        self._told = True

    def _is_busy(self, instance_id: str, what: str) -> bool:
        """Whether the same is being done. Raises Unavailable while something else is."""
        job = self._jobs.get(instance_id)
        if job is None or not job.is_alive():
            return False
        if job.what != what:
            raise Unavailable(f"{instance_id}: Docker has not answered yet to its {job.what}; {what} waits for that")
        return True

    def _do(self, instance_id: str, what: str, work: Callable[[], None]) -> bool:
        """Whether it was done in time. Raises what it raised."""

        def late(verb: str, error: Exception) -> None:
            log.warning("%s: its %s failed: %s", instance_id, verb, error)
            if verb == "start":
                self._failed[instance_id] = str(error)

        job = self._jobs[instance_id] = _Job(what, work, late)
        job.start()
        hung = self._look.is_alive() and time.monotonic() - self._look.began > self._patience.verb
        if not job.done_within(self._patience.look if hung else self._patience.verb):
            return False
        if job.error:
            raise job.error
        return True
