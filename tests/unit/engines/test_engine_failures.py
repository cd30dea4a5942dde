"""Builds that cannot end well: a clear error, no half engine, and what was there before is still there."""

import json
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from gguf import GGUFWriter
from tiny_models import TinyModel, write_tiny

from engines.artifacts import verify
from engines.hardware import Hardware
from engines.llama_cpp import LlamaCpp
from engines.local_model import read_local_model
from engines.port import BuildPlan, EngineSpec, LocalSettings, Speculative
from rollout.errors import Corrupt, Refused, RoundhouseError, Unavailable
from rollout.nouns import ModelVersion

SPEC = EngineSpec(context=128)
HARDWARE = Hardware(4, 64 << 30, 64 << 30)


def quiet(what: str, share: float) -> None:
    """Progress that nobody reads."""


@pytest.fixture
def tiny(tmp_path: Path) -> TinyModel:
    return write_tiny(tmp_path / "hf")


@pytest.fixture
def kind(tmp_path: Path) -> LlamaCpp:
    return LlamaCpp(LocalSettings(str(tmp_path / "engines")))


def engines(tmp_path: Path) -> list[str]:
    """The names below the engines' directory, but for the locks."""
    return sorted(p.name for p in (tmp_path / "engines").glob("*") if p.name != ".locks")


def _build_small(kind: LlamaCpp, plan: BuildPlan, bound: int, told: multiprocessing.SimpleQueue) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (bound, bound))
    try:
        kind.build(plan, quiet)
        told.put(("built", ""))
    except RoundhouseError as error:
        told.put((type(error).__name__, str(error)))


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_a_disk_that_gets_full_ends_a_build_clearly(
    tmp_path: Path, tiny: TinyModel, kind: LlamaCpp, share: float
) -> None:
    """Wherever in the file it happens: Unavailable with the bytes that are needed, and nothing is left."""
    before = kind.build(kind.plan(tiny.version, replace(SPEC, quantization="Q4_0"), HARDWARE), quiet)
    plan = kind.plan(tiny.version, replace(SPEC, quantization="F32"), HARDWARE)
    size = plan.disk_bytes - (16 << 20)
    context = multiprocessing.get_context("fork")
    told = context.SimpleQueue()
    builder = context.Process(target=_build_small, args=(kind, plan, int(size * share), told))
    builder.start()
    name, text = told.get()
    builder.join()
    assert name == "Unavailable" and "nothing is left" in text and f"{plan.disk_bytes / 1e6:.0f} MB" in text
    assert engines(tmp_path) == [Path(before.directory).name]
    assert verify(Path(before.directory))["digest"] == before.digest
    assert kind.build(plan, quiet).cached is False


def _build_slowly(kind: LlamaCpp, plan: BuildPlan) -> None:
    kind.build(plan, lambda what, share: time.sleep(0.05))


def test_a_killed_build_leaves_no_engine_and_loses_none(tmp_path: Path, tiny: TinyModel, kind: LlamaCpp) -> None:
    """SIGKILL while it writes the draft model: the finished engine stays, the next build cleans up and succeeds."""
    before = kind.build(kind.plan(tiny.version, SPEC, HARDWARE), quiet)
    spec = replace(SPEC, speculative=Speculative("draft", "x"))
    plan = kind.plan(tiny.version, spec, HARDWARE, tiny.version)
    builder = multiprocessing.get_context("fork").Process(target=_build_slowly, args=(kind, plan))
    builder.start()
    begun = Path(plan.directory + ".building") / "draft.gguf"
    while not begun.exists() and builder.is_alive():
        time.sleep(0.01)
    os.kill(builder.pid, signal.SIGKILL)
    builder.join()
    assert builder.exitcode == -signal.SIGKILL and not Path(plan.directory).exists()
    assert kind.plan(tiny.version, spec, HARDWARE, tiny.version).steps[0] != "look up"
    assert kind.build(plan, quiet).cached is False
    assert engines(tmp_path) == sorted([Path(before.directory).name, Path(plan.directory).name])


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _swap(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-4:] = b"\1\2\3\4"
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_truncate, _swap, Path.unlink])
@pytest.mark.parametrize("whose", ["model", "draft"])
def test_files_that_changed_after_the_plan_are_corrupt(
    tmp_path: Path, tiny: TinyModel, kind: LlamaCpp, damage: Callable[[Path], None], whose: str
) -> None:
    """Of the model or of its draft: named, before anything is built from them."""
    draft = write_tiny(tmp_path / "draft")
    spec = replace(SPEC, speculative=Speculative("draft", "x"))
    plan = kind.plan(tiny.version, spec, HARDWARE, draft.version)
    damage({"model": tiny, "draft": draft}[whose].folder / "model.safetensors")
    with pytest.raises(Corrupt, match=r"model\.safetensors is .* and its record says"):
        kind.build(plan, quiet)
    assert engines(tmp_path) == []


def _gguf_without_tokenizer(folder: Path) -> ModelVersion:
    import numpy as np

    path = folder / "bare.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", np.zeros((8, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read_local_model(path)


def test_a_missing_tokenizer_is_refused(tmp_path: Path, tiny: TinyModel, kind: LlamaCpp) -> None:
    """In a GGUF file and in a folder, at plan time."""
    version = tiny.version
    (tiny.folder / "tokenizer.json").unlink()
    with pytest.raises(Refused, match="no tokenizer"):
        kind.plan(version, SPEC, HARDWARE)
    with pytest.raises(Refused, match="holds no tokenizer"):
        _gguf_without_tokenizer(tmp_path)
    assert engines(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"\xff\xfe{", b"{", b"[]", b"null", b'{"architectures": "LlamaForCausalLM"}'])
def test_a_configuration_that_cannot_be_read_is_refused(
    tmp_path: Path, tiny: TinyModel, kind: LlamaCpp, content: bytes
) -> None:
    """Empty, of another encoding, cut, or of another shape."""
    version = tiny.version
    (tiny.folder / "config.json").write_bytes(content)
    with pytest.raises(Refused, match=r"config\.json|architecture|hidden_size"):
        kind.plan(version, SPEC, HARDWARE)
    assert engines(tmp_path) == []


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path, tiny: TinyModel) -> None:
    """A file where the engines' directory should be."""
    (tmp_path / "taken").write_text("")
    kind = LlamaCpp(LocalSettings(str(tmp_path / "taken" / "engines")))
    with pytest.raises(Unavailable, match="could not be written"):
        kind.build(kind.plan(tiny.version, SPEC, Hardware(4, 64 << 30, 64 << 30)), quiet)


def test_progress_never_goes_back(tiny: TinyModel, kind: LlamaCpp) -> None:
    """Over both models it rises to 1."""
    spec = replace(SPEC, speculative=Speculative("draft", "x"))
    shares: list[float] = []
    plan = kind.plan(tiny.version, spec, HARDWARE, tiny.version)
    engine = kind.build(plan, lambda what, share: shares.append(share))
    assert shares == sorted(shares) and shares[-1] == 1.0
    manifest = json.loads((Path(engine.directory) / "manifest.json").read_text())
    assert manifest["draft"]["digest"] == tiny.version.digest
