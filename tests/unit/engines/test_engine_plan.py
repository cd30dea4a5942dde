"""A plan is decided from the files, writes nothing, and refuses with numbers."""

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_models import TinyModel, write_tiny

from engines.checks import check_disk, check_memory
from engines.hardware import cgroup_cores, read_hardware
from engines.llama_cpp import LlamaCpp, engine_digest
from engines.local_model import read_local_model
from engines.port import EngineSpec, Faults, LocalSettings
from rollout.errors import Corrupt, NotFound, Refused

SPEC = EngineSpec(context=128)
HARDWARE = read_hardware("/tmp")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return write_tiny(tmp_path_factory.mktemp("plan") / "hf")


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"context": 4096}, "trained for 512 tokens"),
        ({"threads": 1000}, "this machine gives"),
        ({"quantization": "Q9_9"}, "Q8_0.*Q4_K"),
        ({"faults": Faults(error_rate=2)}, "between 0 and 1"),
    ],
)
def test_a_spec_that_cannot_work_is_refused(
    tmp_path: Path, tiny: TinyModel, changes: dict[str, object], rule: str
) -> None:
    """The refusal says what would be right, and nothing was written."""
    with pytest.raises(Refused, match=rule):
        LlamaCpp(LocalSettings(str(tmp_path / "e"))).plan(tiny.version, replace(SPEC, **changes), HARDWARE)
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_a_plan(tmp_path: Path, tiny: TinyModel) -> None:
    """Disk follows the quantisation, memory also the slots and their context."""
    kind = LlamaCpp(LocalSettings(str(tmp_path)))
    small, large = (kind.plan(tiny.version, replace(SPEC, quantization=q), HARDWARE) for q in ("Q4_0", "F32"))
    more = kind.plan(tiny.version, replace(SPEC, quantization="F32", slots=3), HARDWARE)
    assert small.disk_bytes < large.disk_bytes == more.disk_bytes
    assert more.memory_bytes - large.memory_bytes == 2 * 2 * 2 * 2 * 64 * 256  # 128 tokens are rounded up
    assert "convert BF16" in large.steps[1] and "quality" not in large.reasons


def test_the_digest_is_of_what_is_built() -> None:
    """Model, quantisation and builder count."""
    base = engine_digest("m", SPEC, "v1")
    assert engine_digest("m", replace(SPEC, slots=7, context=64, threads=2, faults=Faults(cut_rate=1)), "v1") == base
    assert (
        len(
            {
                base,
                engine_digest("n", SPEC, "v1"),
                engine_digest("m", SPEC, "v2"),
                engine_digest("m", replace(SPEC, quantization="Q4_0"), "v1"),
            }
        )
        == 4
    )


def test_full_disk_and_small_memory_are_refused_with_numbers() -> None:
    """Both numbers and the difference are named."""
    with pytest.raises(Refused, match=r"1\.00 GiB free.*needs 3\.00 GiB.*free 2\.00 GiB"):
        check_disk(3 * 1024**3, 1024**3, "engines")
    with pytest.raises(Refused, match=r"2\.00 GiB.*needs 4\.00 GiB"):
        check_memory(4 * 1024**3, 2 * 1024**3)


def test_a_model_of_another_format_or_without_files_is_refused(tmp_path: Path, tiny: TinyModel) -> None:
    """The format, or the number of GGUF files, is named."""
    kind = LlamaCpp(LocalSettings(str(tmp_path)))
    with pytest.raises(Refused, match=r"format.*onnx"):
        kind.plan(replace(tiny.version, format="onnx"), SPEC, HARDWARE)
    with pytest.raises(Refused, match="0 GGUF files"):
        kind.plan(replace(tiny.version, format="gguf"), SPEC, HARDWARE)
    with pytest.raises(NotFound):
        read_local_model(tmp_path / "nowhere")


def test_files_that_changed_since_the_record_are_corrupt(tmp_path: Path) -> None:
    """A build compares the files with the record first, and leaves no engine."""
    model = write_tiny(tmp_path / "hf")
    kind = LlamaCpp(LocalSettings(str(tmp_path / "engines")))
    plan = kind.plan(model.version, SPEC, HARDWARE)
    file = model.folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(Corrupt, match=r"model\.safetensors"):
        kind.build(plan, lambda what, share: None)
    assert [p.name for p in (tmp_path / "engines").iterdir()] == [".locks"]


def test_a_file_of_the_wanted_type_is_copied(tmp_path: Path) -> None:
    """Building Q8_0 from a Q8_0 file keeps its bytes; requantising says that precision was lost before."""
    model = write_tiny(tmp_path / "hf")
    kind = LlamaCpp(LocalSettings(str(tmp_path / "engines")))
    first = kind.build(kind.plan(model.version, SPEC, HARDWARE), lambda what, share: None)
    built = read_local_model(Path(first.directory) / "model.gguf")
    again = kind.plan(built, SPEC, HARDWARE)
    assert again.steps[1].startswith("copy")
    second = kind.build(again, lambda what, share: None)
    assert second.digest != first.digest
    assert (Path(second.directory) / "model.gguf").read_bytes() == (Path(first.directory) / "model.gguf").read_bytes()
    assert "requantised from Q8_0" in kind.plan(built, replace(SPEC, quantization="Q4_0"), HARDWARE).reasons["quality"]


def test_the_bound_of_a_container_counts(tmp_path: Path) -> None:
    """Cores and memory are the smaller of the machine's and the cgroup's."""
    assert cgroup_cores("max 100000") is None
    assert cgroup_cores("150000 100000") == 1.5
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    (tmp_path / "memory.max").write_text("1000000\n")
    seen = read_hardware(str(tmp_path / "not" / "yet"), tmp_path)
    assert (seen.cores, seen.memory_bytes) == (1, 1_000_000)
    assert seen.disk_free_bytes > 0
