"""The stand-in for trtllm-serve keeps to docs/trtllm-contract.md: other tests lean on it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tiny_models import TinyModel, write_tiny
from trtllm_builds import PATIENCE_S, TOOLS, built, trt_spec, until

Start = Callable[..., tuple[subprocess.Popen[str], str]]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """A model to serve."""
    return write_tiny(tmp_path_factory.mktemp("serve") / "tiny")


@pytest.fixture
def start(free_port: int) -> Iterator[Start]:
    """Starts one; ends it."""
    running: list[subprocess.Popen[str]] = []

    def begin(model: Path, *flags: str, **steer: str) -> tuple[subprocess.Popen[str], str]:
        words = (sys.executable, TOOLS / "bin" / "trtllm-serve", model, "--host", "127.0.0.1", "--port", str(free_port))
        process = subprocess.Popen(
            (*words, *flags), env={**os.environ, **steer}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        running.append(process)
        return process, f"http://127.0.0.1:{free_port}"

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def answers(url: str) -> bool:
    """Whether it listens."""
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def options(tmp_path: Path, text: str) -> tuple[str, str]:
    """The flag that names a YAML file of this text."""
    (tmp_path / "options.yaml").write_text(text)
    return "--extra_llm_api_options", str(tmp_path / "options.yaml")


def test_it_serves_the_documented_paths(tiny: TinyModel, tmp_path: Path, start: Start) -> None:
    """Refused while it loads; then health, version, the folder's name as model, both metrics pages."""
    yaml = options(tmp_path, "enable_iter_perf_stats: true\nreturn_perf_metrics: true\n")
    _, url = start(tiny.folder, *yaml, STAND_IN_LOAD_S="0.3")
    assert not answers(f"{url}/health")
    until(lambda: answers(f"{url}/health"))
    assert httpx.get(f"{url}/version").json() == {"version": "1.2.1"}
    assert [m["id"] for m in httpx.get(f"{url}/v1/models").json()["data"]] == ["tiny"]
    body = {"messages": [{"role": "user", "content": "a b c"}], "max_tokens": 4}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body).json()
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    first, second = httpx.get(f"{url}/metrics").json(), httpx.get(f"{url}/metrics").json()
    assert first[0]["kvCacheStats"]["usedNumBlocks"] == 25 and second == []
    assert "trtllm_time_to_first_token_seconds_count" in httpx.get(f"{url}/prometheus/metrics").text


def test_a_stream_ends_with_usage_where_it_is_asked_for(tiny: TinyModel, start: Start) -> None:
    """One event a token, usage in an event of its own, then [DONE]."""
    _, url = start(tiny.folder)
    until(lambda: answers(f"{url}/health"))
    body: dict[str, Any] = {"prompt": "a b", "max_tokens": 3, "stream": True, "stream_options": {"include_usage": True}}
    lines = [line for line in httpx.post(f"{url}/v1/completions", json=body).text.splitlines() if line]
    assert len(lines) == 5 and lines[-1] == "data: [DONE]"
    assert json.loads(lines[-2].removeprefix("data: "))["usage"]["completion_tokens"] == 3


def test_sigterm_waits_for_open_requests(tiny: TinyModel, start: Start) -> None:
    """The stream that is open is finished; then the process ends with 0."""
    process, url = start(tiny.folder, STAND_IN_TOKEN_S="0.03")
    until(lambda: answers(f"{url}/health"))
    body = {"prompt": "a", "max_tokens": 20, "stream": True}
    got: list[str] = []

    def read() -> None:
        with httpx.stream("POST", f"{url}/v1/completions", json=body) as stream:
            got.extend(line for line in stream.iter_lines() if line)

    reader = threading.Thread(target=read)
    reader.start()
    until(lambda: len(got) > 2)
    process.send_signal(signal.SIGTERM)
    reader.join(PATIENCE_S)
    assert got[-1] == "data: [DONE]" and process.wait(PATIENCE_S) == 0


WRONG: dict[str, tuple[tuple[str, ...], str, str, int]] = {
    "unknown flag": (("--api-key", "x"), "", "No such option: --api-key", 2),
    "a flag of 1.3": (("--served_model_name", "x"), "", "No such option: --served_model_name", 2),
    "unknown key": ((), "quant_config: {}", "Extra inputs are not permitted", 1),
    "unknown key within": ((), "kv_cache_config: {free_memory: 0.5}", "Extra inputs are not permitted", 1),
    "a draft of the other backend": ((), "speculative_config: {decoding_type: Lookahead}", "Invalid decoding type", 1),
    "no engine": (("--backend", "tensorrt"), "", "is no engine", 1),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_it_does_not_know_ends_it(name: str, tiny: TinyModel, tmp_path: Path, start: Start) -> None:
    """Flags as click does, YAML keys as pydantic does."""
    flags, yaml, words, code = WRONG[name]
    process, _ = start(tiny.folder, *flags, *(options(tmp_path, yaml) if yaml else ()))
    said = process.communicate(timeout=PATIENCE_S)[0]
    assert words in said and process.returncode == code


def test_flags_follow_the_version(tiny: TinyModel, start: Start) -> None:
    """1.3 takes a served name; 1.1 has no --config."""
    _, url = start(tiny.folder, "--served_model_name", "chat", STAND_IN_VERSION="1.3.0rc29")
    until(lambda: answers(f"{url}/health"))
    assert [m["id"] for m in httpx.get(f"{url}/v1/models").json()["data"]] == ["chat"]
    old, _ = start(tiny.folder, "--config", "x", STAND_IN_VERSION="1.1.0")
    assert "No such option: --config" in old.communicate(timeout=PATIENCE_S)[0]


def test_an_engine_is_served_by_the_version_that_built_it(tiny: TinyModel, tmp_path: Path, start: Start) -> None:
    """A built directory starts with --backend tensorrt and its tokenizer; another version refuses it."""
    directory, _ = built(tmp_path, tiny.version, trt_spec("tensorrt"))
    flags = ("--backend", "tensorrt", "--tokenizer", str(directory / "tokenizer"))
    other, _ = start(directory / "engine", *flags, STAND_IN_VERSION="1.2.0")
    assert "engine version 1.2.1 is not 1.2.0" in other.communicate(timeout=PATIENCE_S)[0]
    _, url = start(directory / "engine", *flags)
    until(lambda: answers(f"{url}/health"))
