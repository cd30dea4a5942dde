"""Engines in a DVC remote: their content by hash, as DVC keeps it, and a ``.dvc`` file that names it by our digest.

DVC works in a process of its own, so that a storage that does not answer ends by a time limit. Its repository has no
SCM and lies in a folder that goes afterwards.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from model_registry.port import RemoteSettings
from rollout.errors import Corrupt, NotFound, RoundhouseError, Unavailable

ANSWER_S = 60.0  # for a small file
BYTES_PER_S = 4e6  # a transfer that is slower than this is given up
_ERRORS: dict[int, type[RoundhouseError]] = {e.exit_code: e for e in (NotFound, Corrupt)}


class EngineRemote:
    """``put`` and ``get`` by an engine's directory name. ``answer_s``: how long a small file may take."""

    def __init__(self, settings: RemoteSettings, answer_s: float = ANSWER_S) -> None:
        self.url, self.answer_s = settings.url, answer_s

    def put(self, directory: str, name: str) -> str:
        """Send an engine's files; what is there already is not sent again. The text of its ``.dvc`` file.

        Raises Unavailable.
        """
        size = sum(path.stat().st_size for path in Path(directory).rglob("*") if path.is_file())
        with tempfile.TemporaryDirectory(prefix="roundhouse-dvc-") as work:
            return str(self._ask("put", name, work, self._limit_s(size), directory)["pointer"])

    def get(self, name: str, work: str) -> Path:
        """The folder below ``work`` (empty, on the file system where the engine will lie) with the engine's files.

        Raises NotFound, Unavailable, and Corrupt for content that is missing or damaged there: that is taken out of the
        remote, so that the next ``put`` sends it again.
        """
        size = int(self._ask("look", name, work, self.answer_s)["size"])
        return Path(self._ask("get", name, work, self._limit_s(size))["directory"])

    def _limit_s(self, size: int) -> float:
        return self.answer_s + size / BYTES_PER_S

    def _ask(self, verb: str, name: str, work: str, limit_s: float, directory: str = "") -> dict[str, Any]:
        asked = json.dumps({"verb": verb, "url": self.url, "name": name, "work": work, "directory": directory})
        process = subprocess.Popen(
            (sys.executable, "-m", "model_registry.engine_transfer"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **_environment(work)},
            start_new_session=True,
        )
        try:
            said, wrong = process.communicate(asked, timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"the DVC remote {self.url} did not finish within {limit_s:.0f} s") from None
        finally:
            _end(process)
        if process.returncode:
            lines = wrong.strip().splitlines() or ["it said nothing"]
            kind = _ERRORS.get(process.returncode, Unavailable)
            raise kind(f"the DVC remote {self.url}: {lines[-1].removeprefix(f'{kind.__name__}: ')}")
        return dict(json.loads(said.strip().splitlines()[-1]))


def _environment(work: str) -> dict[str, str]:
    """Nothing of DVC's stays outside of ``work``; our packages are found wherever we were started."""
    ours = str(Path(__file__).resolve().parent.parent)
    return {
        "DVC_NO_ANALYTICS": "1",
        "DO_NOT_TRACK": "true",
        "DVC_SITE_CACHE_DIR": str(Path(work) / "site"),
        "PYTHONPATH": os.pathsep.join(p for p in (ours, os.environ.get("PYTHONPATH", "")) if p),
    }


def _end(process: subprocess.Popen[str]) -> None:
    """End it with its threads; one that hangs in a dead file system is left behind."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
