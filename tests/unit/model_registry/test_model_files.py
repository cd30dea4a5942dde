"""Headers of model files: read right when whole, refused when cut off or damaged."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_samples import tiny_gguf
from safetensors.numpy import save_file

from model_registry.model_files import BLOCKS, read_gguf, read_safetensors
from rollout.errors import Refused


def test_block_sizes_are_those_of_the_gguf_package() -> None:
    """Our table of tensor types says what ggml's own says."""
    theirs = {int(kind): sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert {kind: BLOCKS[kind] for kind in theirs} == theirs


def test_a_gguf_file_tells_architecture_and_parameters(tmp_path: Path) -> None:
    """Scalars and strings are read, a long vocabulary is stepped over, values are counted from shapes."""
    header = read_gguf(tiny_gguf(tmp_path / "m.gguf", tokens=5000))
    assert header.metadata["general.architecture"] == "llama"
    assert header.metadata["llama.block_count"] == 1
    assert header.metadata["tokenizer.ggml.tokens"] == 5000
    assert header.parameters == 128


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_gguf_file_cut_anywhere_is_refused(tmp_path: Path, share: float) -> None:
    """Wherever a download stopped, in the header or in the tensors, the file is refused."""
    whole = tiny_gguf(tmp_path / "m.gguf").read_bytes()
    end = len(whole.rstrip(b"\0"))  # the padding behind the last tensor belongs to nothing
    (tmp_path / "cut.gguf").write_bytes(whole[: int(share * (end - 8))])
    with pytest.raises(Refused):
        read_gguf(tmp_path / "cut.gguf")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.integers(4, 400), byte=st.integers(0, 255))
def test_a_damaged_gguf_header_is_read_or_refused(tmp_path: Path, at: int, byte: int) -> None:
    """No byte in the header makes the reader fail in another way than by refusing."""
    content = bytearray(tiny_gguf(tmp_path / "m.gguf").read_bytes())
    content[at] = byte
    (tmp_path / "odd.gguf").write_bytes(content)
    try:
        assert read_gguf(tmp_path / "odd.gguf").parameters >= 0
    except Refused as refused:
        assert refused.value == "odd.gguf"


@pytest.mark.parametrize("content", [b"", b"GGUF", b"PK\3\4" + bytes(100), b"GGUF" + b"\x63\0\0\0" + bytes(40)])
def test_another_magic_or_version_is_refused(tmp_path: Path, content: bytes) -> None:
    """A file that only has the name of a GGUF file is refused."""
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(Refused, match="file"):
        read_gguf(tmp_path / "m.gguf")


def test_a_safetensors_file_tells_its_parameters(tmp_path: Path) -> None:
    """Values are counted over all tensors, notes are kept apart."""
    save_file({"a": np.ones((3, 5)), "b": np.ones(7, np.float16)}, tmp_path / "m.safetensors", {"format": "pt"})
    header = read_safetensors(tmp_path / "m.safetensors")
    assert (header.parameters, header.metadata) == (22, {"format": "pt"})


@pytest.mark.parametrize("keep", [0, 7, 8, 40, -1])
def test_a_safetensors_file_cut_off_is_refused(tmp_path: Path, keep: int) -> None:
    """In the length, in the header or one byte before the end: cut off is cut off."""
    save_file({"a": np.ones((30, 5))}, tmp_path / "m.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "m.safetensors").read_bytes()[:keep])
    with pytest.raises(Refused, match="file"):
        read_safetensors(tmp_path / "cut.safetensors")


@pytest.mark.parametrize(
    "header", [b"not json", b"[]", b'{"a": 3}', b'{"a": {"shape": ["x"], "data_offsets": [0, 1]}}']
)
def test_a_damaged_safetensors_header_is_refused(tmp_path: Path, header: bytes) -> None:
    """A header that is not what safetensors writes is refused."""
    (tmp_path / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(Refused, match="damaged"):
        read_safetensors(tmp_path / "m.safetensors")


def test_an_empty_safetensors_file_has_no_parameters(tmp_path: Path) -> None:
    """A file without tensors is whole, and counts nothing."""
    header = json.dumps({}).encode()
    (tmp_path / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert read_safetensors(tmp_path / "m.safetensors").parameters == 0
