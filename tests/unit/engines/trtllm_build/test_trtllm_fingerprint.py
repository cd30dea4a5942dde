"""What an engine's address is made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trtllm_builds import hopper

from engines.hardware import Hardware
from engines.port import ContainerSpec, EngineSpec
from engines.trtllm.fingerprint import fingerprint, why_stale
from rollout.errors import Refused

TRT = EngineSpec(kind="tensorrt_llm", recipe="tensorrt", tensor_parallel=2)
TORCH = EngineSpec(kind="tensorrt_llm", quantization="fp8", environment={"MODELOPT_EXAMPLES": "/x"})


def digest(spec: EngineSpec, hardware: Hardware | None = None, version: str = "1.2.1", draft: str = "") -> str:
    """Of a model, on a Hopper."""
    return fingerprint("model", spec, version, hardware or hopper(), draft)[0]


@pytest.mark.parametrize(
    "changed",
    [
        {"tensor_parallel": 4},
        {"pipeline_parallel": 2},
        {"slots": 4},
        {"context": 2048},
        {"max_tokens": 4096},
        {"dtype": "float16"},
        {"quantization": "fp8"},
        {"chunked_prefill": 0, "prefix_reuse": False, "max_tokens": 2048},
    ],
)
def test_what_changes_a_tensorrt_engine_changes_its_digest(changed: dict[str, Any]) -> None:
    """Sizes, parallelism, types and formats are built in."""
    assert digest(replace(TRT, **changed)) != digest(TRT)


@pytest.mark.parametrize(
    "changed",
    [
        {"memory_fraction": 0.5},
        {"drain_s": 1.0},
        {"max_queue": 0},
        {"environment": {"A": "x"}},
        {"flags": ("--x",)},
    ],
)
def test_what_only_serves_does_not(changed: dict[str, Any]) -> None:
    """The same engine serves both."""
    assert digest(replace(TRT, **changed)) == digest(TRT)


def test_a_checkpoint_is_not_bound_to_gpus_or_sizes() -> None:
    """Its weights are split when it is loaded; calibration changes it, and how it calibrates in parallel does not."""
    for spec in (replace(TORCH, tensor_parallel=8, slots=64), replace(TORCH, options={"build": {"workers": 3}})):
        assert digest(spec, hopper(8, (10, 0))) == digest(TORCH)
    assert digest(TORCH, Hardware(1, 1, 1)) == digest(TORCH)
    for changed in ({"kv_cache_dtype": "fp8"}, {"options": {"build": {"calib_size": 64}}}, {"quantization": "nvfp4"}):
        assert digest(replace(TORCH, **changed)) != digest(TORCH)  # type: ignore[arg-type]


def test_versions_architecture_and_draft_count() -> None:
    """Another version, another architecture, another draft: another engine; another GPU of the same kind is not."""
    assert digest(TRT, version="1.2.0") != digest(TRT) != digest(TRT, hopper(2, (8, 9)))
    assert digest(TRT, draft="d") != digest(TRT)
    assert digest(TRT, hopper(8)) == digest(TRT)


def test_the_image_that_builds_counts() -> None:
    """Another image may hold other tools; where nothing but links is made, none counts."""
    for spec in (TRT, TORCH):
        mine, other = (replace(spec, container=ContainerSpec(image)) for image in ("mine:1", "mine:2"))
        assert len({digest(spec), digest(mine), digest(other)}) == 3
    plain = replace(TORCH, quantization="none")
    assert digest(plain) == digest(replace(plain, container=ContainerSpec("mine:1"), environment={}))


@pytest.mark.parametrize(("spec", "name"), [(TORCH, "MODELOPT_EXAMPLES"), (TRT, "TRTLLM_EXAMPLES")])
def test_the_scripts_that_build_count(spec: EngineSpec, name: str, tmp_path: Path) -> None:
    """By their content and not by their place; where they cannot be read, inside an image, by their place."""

    def at(directory: Path) -> str:
        return digest(replace(spec, environment={name: str(directory)}))

    for folder, text in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / folder / "inner").mkdir(parents=True)
        (tmp_path / folder / "inner" / "x.py").write_text(text)
    assert at(tmp_path / "a") == at(tmp_path / "b") != at(tmp_path / "c")
    assert at(Path("/inside/one")) != at(Path("/inside/two"))
    assert digest(replace(spec, environment={name: "/inside", "OTHER_EXAMPLES": "/x"})) == at(Path("/inside"))


def test_an_engine_says_what_it_was_built_with() -> None:
    """Packages by their pins, and the architecture."""
    _, with_ = fingerprint("model", replace(TRT, quantization="fp8"), "1.2.1", hopper())
    assert with_ == {
        "builder": "1",
        "recipe": "tensorrt",
        "version": "1.2.1",
        "tensorrt": "10.14.1",
        "modelopt": "0.37.0",
        "sm": "90",
    }


def test_a_mismatch_is_said_in_words() -> None:
    """Each thing that differs, before and now; nothing where all is equal."""
    _, was = fingerprint("model", TRT, "1.1.0", hopper(1, (8, 9)))
    _, now = fingerprint("model", TRT, "1.2.1", hopper())
    assert why_stale(was, now) == (
        "TensorRT-LLM was 1.1.0 and is 1.2.1; TensorRT was 10.13.3 and is 10.14.1; "
        "the GPU architecture (SM) was 89 and is 90: it is built again"
    )
    assert why_stale(now, now) == ""


def test_a_tensorrt_engine_needs_a_gpu_to_be_bound_to() -> None:
    """And the refusal repeats why there is none."""
    with pytest.raises(Refused, match="no driver"):
        fingerprint("model", TRT, "1.2.1", Hardware(1, 1, 1, gpu_note="no driver"))


def test_mixed_gpus_bind_to_the_most_frequent() -> None:
    """Two Hoppers and one Ada: an engine for Hopper."""
    mixed = replace(hopper(2), gpus=hopper(2).gpus + hopper(1, (8, 9)).gpus)
    assert fingerprint("model", TRT, "1.2.1", mixed)[1]["sm"] == "90"
