"""The list of flags in the repository is the list of the installed vLLM."""

import os
import subprocess

import yaml

from engines.vllm import flags
from engines.vllm.interpreter import PROJECT, installed


def test_the_list_of_flags_is_that_of_the_installed_server(vllm_python: str) -> None:
    """Every spelling, what it takes and which values, and the methods of quantisation, as vLLM has them."""
    script = PROJECT / "engines" / "vllm" / "list_flags.py"
    env = {**os.environ, "VLLM_LOGGING_LEVEL": "ERROR"}
    printed = subprocess.run((vllm_python, str(script)), capture_output=True, text=True, check=True, env=env).stdout
    assert yaml.safe_load(printed) == yaml.safe_load(flags.LIST.read_text(encoding="utf-8"))


def test_the_listed_version_is_the_installed_one(vllm_python: str) -> None:
    """And it computes on processors."""
    found = installed(vllm_python)
    assert found and (found.version, found.device, found.reads_gguf) == (flags.listed_version(), "cpu", True)
