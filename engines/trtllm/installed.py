"""TensorRT-LLM on this machine itself, without a container: is it there, and which version?"""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

from engines.trtllm.contract import Contract
from engines.trtllm.recipe_spec import version_of
from rollout.errors import Refused

_ASK = "from importlib.metadata import version; print(version('tensorrt_llm'))"
_PATIENCE_S = 20.0


def interpreter(configured: str) -> str:
    """The one that is said to have TensorRT-LLM; else this one."""
    return configured or sys.executable


def program(configured: str) -> str:
    """``trtllm-serve`` beside that interpreter."""
    return str(Path(interpreter(configured)).with_name("trtllm-serve"))


@cache
def installed_version(python: str) -> str:
    """What that interpreter has; empty where it has none. Takes a quarter of a second, once."""
    try:
        done = subprocess.run((python, "-c", _ASK), capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def check_installed(configured: str, contract: Contract) -> None:
    """It is there, in the version that was planned for. Raises Refused."""
    serve = program(configured)
    if not Path(serve).is_file():
        rule = f"TensorRT-LLM is not installed here: there is no {serve}"
        fix = "add `container: {}` to the engine file, or name the interpreter that has it (engines.trtllm_python)"
        raise Refused("container", None, rule, fix)
    found = installed_version(interpreter(configured))
    if found and version_of(found) != version_of(contract.version):
        rule = f"TensorRT-LLM {found} is installed here"
        raise Refused("version", contract.version, rule, f"set version {found}, leave it out, or add `container: {{}}`")
