"""The C quantisers of llama.cpp, called through ctypes in the xllamacpp wheel.

The wheel does not promise to export these symbols, so each is looked up and its absence is an answer, not an error.
"""

from __future__ import annotations

import ctypes
import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

_DEQUANTIZE = {
    name: f"dequantize_row_{name.lower().replace('_k', '_K')}"
    for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
}


@cache
def library() -> ctypes.CDLL | None:
    """The shared object with ggml in it, or None where the wheel or its symbols are missing."""
    spec = importlib.util.find_spec("xllamacpp")
    folders = spec.submodule_search_locations if spec else None
    for file in sorted(Path(folders[0]).glob("xllamacpp*.so")) if folders else ():
        try:
            loaded = ctypes.CDLL(str(file))
            loaded.ggml_quantize_chunk.restype = ctypes.c_size_t
            loaded.ggml_quantize_chunk.argtypes = [
                ctypes.c_int,
                ctypes.c_void_p,
                ctypes.c_void_p,
                ctypes.c_int64,
                ctypes.c_int64,
                ctypes.c_int64,
                ctypes.c_void_p,
            ]
            return loaded
        except (OSError, AttributeError):
            continue
    return None


def quantize(rows: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray | None:
    """Rows of float32 as rows of bytes of that type, or None where C cannot do it."""
    ggml = library()
    if ggml is None:
        return None
    block, block_bytes = GGML_QUANT_SIZES[kind]
    count, width = rows.shape
    source = np.ascontiguousarray(rows, dtype=np.float32)
    target = np.empty((count, width // block * block_bytes), dtype=np.uint8)
    written = ggml.ggml_quantize_chunk(int(kind), source.ctypes.data, target.ctypes.data, 0, count, width, None)
    return target if written == target.nbytes else None


def dequantize(rows: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray | None:
    """Rows of bytes of that type as rows of float32, or None where C cannot do it."""
    ggml = library()
    function = getattr(ggml, _DEQUANTIZE[kind.name], None) if ggml and kind.name in _DEQUANTIZE else None
    if function is None:
        return None
    block, block_bytes = GGML_QUANT_SIZES[kind]
    source = np.ascontiguousarray(rows)
    target = np.empty((rows.shape[0], rows.shape[1] // block_bytes * block), dtype=np.float32)
    function.restype, function.argtypes = None, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    function(source.ctypes.data, target.ctypes.data, target.size)
    return target
