"""Which type each tensor gets, and that C and NumPy write the same bytes."""

import numpy as np
import pytest
from gguf import quants
from gguf.constants import GGMLQuantizationType as Kind

from engines import native
from engines.quantize import QUANTIZATIONS, Job, converted, decode, encode, target_type


@pytest.mark.parametrize(
    ("name", "shape", "asked", "given"),
    [
        ("blk.0.ffn_up.weight", (1536, 512), "Q4_K", Kind.Q4_K),
        ("blk.0.ffn_up.weight", (1536, 576), "Q4_K", Kind.Q8_0),
        ("blk.0.ffn_up.weight", (1536, 40), "Q4_K", Kind.F16),
        ("blk.0.ffn_up.weight", (1536, 40), "Q8_0", Kind.F16),
        ("blk.0.attn_norm.weight", (576,), "Q4_0", Kind.F32),
        ("blk.0.attn_q.bias", (576,), "Q4_0", Kind.F32),
        ("blk.0.ffn_gate_inp.weight", (8, 512), "Q4_0", Kind.F32),
        ("blk.0.ffn_up_exps.weight", (8, 1536, 512), "Q4_0", Kind.Q4_0),
    ],
)
def test_the_type_of_a_tensor(name: str, shape: tuple[int, ...], asked: str, given: Kind) -> None:
    """Rows that do not divide fall back; vectors, biases, norms and routers stay exact."""
    assert target_type(name, shape, asked) == given


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q4_0])
def test_c_and_numpy_write_the_same_bytes(kind: Kind) -> None:
    """An engine's digest does not depend on whether the wheel exports its quantisers."""
    rows = np.random.default_rng(1).normal(size=(64, 512)).astype(np.float32)
    written = native.quantize(rows, kind)
    assert written is not None
    assert np.array_equal(written, quants.quantize(rows, kind))
    assert np.array_equal(native.dequantize(written, kind), quants.dequantize(written, kind))


@pytest.mark.parametrize(
    ("quantization", "bound"),
    [
        ("F32", 0.0),
        ("F16", 0.001),
        ("BF16", 0.01),
        ("Q8_0", 0.01),
        ("Q6_K", 0.03),
        ("Q5_K", 0.06),
        ("Q5_1", 0.06),
        ("Q5_0", 0.06),
        ("Q4_K", 0.1),
        ("Q4_1", 0.1),
        ("Q4_0", 0.12),
        ("Q3_K", 0.2),
        ("Q2_K", 0.4),
    ],
)
def test_what_is_read_back_is_near_what_was_written(quantization: str, bound: float) -> None:
    """The relative error of each type stays below its bound."""
    rows = np.random.default_rng(2).normal(size=(16, 1024)).astype(np.float32)
    kind = Kind[quantization]
    back = decode(encode(rows, kind), kind)
    assert np.linalg.norm(back - rows) / np.linalg.norm(rows) <= bound
    assert quantization in QUANTIZATIONS


def test_a_tensor_larger_than_a_block_is_written_whole() -> None:
    """Taking the source in blocks of rows gives the bytes that one piece would give."""
    rows = np.random.default_rng(3).normal(size=(9000, 1024)).astype(np.float32)
    asked: list[tuple[int, int]] = []

    def part(first: int, end: int) -> np.ndarray:
        asked.append((first, end))
        return rows[first:end].view(np.uint8)

    result = converted(Job("blk.0.ffn_up.weight", rows.shape, Kind.F32, Kind.Q8_0, part))
    assert asked == [(0, 4096), (4096, 8192), (8192, 9000)]
    assert np.array_equal(result, encode(rows, Kind.Q8_0))
