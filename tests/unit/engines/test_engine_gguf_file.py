"""A GGUF file is checked in milliseconds, and what is wrong with it is said in numbers."""

from pathlib import Path

import pytest
from gguf import GGUFReader
from tiny_models import write_tiny

from engines.gguf_file import read_gguf
from engines.hf_convert import convert
from engines.hf_folder import read_hf_folder
from rollout.errors import Refused


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    out = folder / "tiny.gguf"
    convert(read_hf_folder(write_tiny(folder / "hf").folder), "tiny", "Q8_0", out, lambda what, share: None)
    return out


def test_the_table_equals_what_the_full_reader_finds(tiny_gguf: Path) -> None:
    """Names, shapes, types, offsets, sizes and every metadata array agree with gguf's own reader."""
    ours, theirs = read_gguf(tiny_gguf, arrays=True), GGUFReader(tiny_gguf)
    assert [(t.name, t.shape, t.type, t.offset, t.nbytes) for t in ours.tensors] == [
        (t.name, tuple(map(int, reversed(t.shape))), t.tensor_type, t.data_offset, t.n_bytes) for t in theirs.tensors
    ]
    for field in ("tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.token_type"):
        decoded = [v.decode() if isinstance(v, bytes) else v for v in ours.metadata[field].value]
        assert decoded == theirs.fields[field].contents()


def test_long_arrays_are_stepped_over_unless_asked_for(tmp_path: Path, tiny_gguf: Path) -> None:
    """Without arrays the table is the same; only the content of long arrays is absent."""
    assert read_gguf(tiny_gguf).tensors == read_gguf(tiny_gguf, arrays=True).tensors


@pytest.mark.parametrize("share", [0.001, 0.01, 0.3, 0.9, 0.9999])
def test_a_truncated_file_is_refused_with_both_sizes(tmp_path: Path, tiny_gguf: Path, share: float) -> None:
    """Wherever the cut is, in header, vocabulary, table or weights, the refusal names the size that is there."""
    content = tiny_gguf.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(content[: max(24, int(len(content) * share))])
    with pytest.raises(Refused, match=f"truncated.*{cut.stat().st_size}"):
        read_gguf(cut)


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"PK\x03\x04" + b"\0" * 100, "begins with"),
        (b"", "too short"),
        (b"GGUF\x01\0\0\0" + b"\0" * 100, "version 1"),
        (b"GGUF\x03\0\0\0" + b"\0" * 16, "no tensors"),
        (b"GGUF\x03\0\0\0" + b"\xff" * 200, "truncated"),
    ],
)
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes, rule: str) -> None:
    """A zip, an empty file, an old version, a vocabulary only, nonsense counts: each with its own rule."""
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(Refused, match=rule):
        read_gguf(path)
