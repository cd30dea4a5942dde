"""Our command, YAML and environment start a server that is as strict as trtllm-serve: stand-ins, real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from trtllm_builds import TOOLS, environment, hopper, until
from trtllm_specs import SPEC, Place

from engines.port import LocalSettings, Placement, Speculative
from engines.trtllm.engine import TensorRtLlm
from rollout.errors import Refused


@pytest.fixture
def installed(tmp_path: Path) -> str:
    """An interpreter with TensorRT-LLM's programs beside it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("trtllm-serve", "trtllm-build"):
        (folder / name).symlink_to(TOOLS / "bin" / name)
    (folder / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (folder / "python").chmod(0o755)
    return str(folder / "python")


@pytest.fixture
def running() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that are ended with the test."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("version", "changes", "name"),
    [
        ("1.1.0", {"tensor_parallel": 4, "kv_cache_dtype": "fp8"}, "checkpoint"),
        ("1.2.1", {"speculative": Speculative("draft", "models:/small/1")}, "checkpoint"),
        ("1.2.1", {"recipe": "tensorrt", "tensor_parallel": 2}, "engine"),
        ("1.3.0rc22", {"speculative": Speculative("ngram"), "flags": ("--no-telemetry",)}, "tiny"),
    ],
)
def test_it_starts(
    place: Place, tmp_path: Path, installed: str, running: list[subprocess.Popen[bytes]], free_port: int,
    version: str, changes: dict[str, Any], name: str,
) -> None:  # fmt: skip
    """Built, then started as the command says: it takes all flags and keys, gets healthy and has both metrics pages."""
    kind = TensorRtLlm(LocalSettings(str(tmp_path / "engines"), trtllm_python=installed))
    tools = environment(STAND_IN_VERSION=version)
    spec = replace(SPEC, version=version, container=None, environment=tools, **changes)
    draft = place.draft if spec.speculative.method == "draft" else None
    engine = kind.build(kind.plan(place.model, spec, hopper(4), draft), lambda what, share: None)
    kind.verify(engine, hopper(4))
    command = kind.serve_command(engine, spec, "127.0.0.1", free_port, Placement(gpus=("GPU-1", "GPU-3")))
    for path, text in command.files.items():
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text(text)
    running.append(subprocess.Popen(command.argv, env={**os.environ, **command.env}))
    url = f"http://127.0.0.1:{free_port}"
    until(lambda: running[0].poll() is not None or _answers(url + kind.readiness(spec).path))
    assert [model["id"] for model in httpx.get(f"{url}/v1/models").json()["data"]] == [name]
    assert [httpx.get(url + page.path).status_code for page in kind.metrics(spec)] == [200, 200]
    assert command.env["CUDA_VISIBLE_DEVICES"] == "GPU-1,GPU-3" and "MODELOPT_EXAMPLES" not in command.env


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def test_another_installed_version_is_refused(place: Place, tmp_path: Path, installed: str) -> None:
    """What is installed is what serves; a spec that names no version gets it."""
    facts = tmp_path / "site" / "tensorrt_llm-1.1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorrt_llm\nVersion: 1.1.0\n")
    Path(installed).write_text(f'#!/bin/sh\nPYTHONPATH={facts.parent} exec {sys.executable} "$@"\n')
    kind = TensorRtLlm(LocalSettings(str(tmp_path / "engines"), trtllm_python=installed))
    here = replace(SPEC, container=None)
    with pytest.raises(Refused, match=r"version: '1.2.1' is refused: TensorRT-LLM 1.1.0 is installed here"):
        kind.plan(place.model, here, hopper(1))
    assert kind.plan(place.model, replace(here, version=""), hopper(1)).spec.version == "1.1.0"
