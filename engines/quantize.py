"""Writes the weights of a GGUF file in another type, tensor by tensor and block of rows by block of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from engines import native
from engines.gguf_file import GgufFile, Tensor
from engines.port import Progress
from rollout.errors import Unavailable

_K = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
QUANTIZATIONS = ("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", *reversed(_K))
_FILE_TYPES = {
    "F32": "ALL_F32",
    "Q2_K": "MOSTLY_Q2_K",
    "Q3_K": "MOSTLY_Q3_K_S",
    "Q4_K": "MOSTLY_Q4_K_S",
    "Q5_K": "MOSTLY_Q5_K_S",
}
_BLOCK_ELEMENTS = 4 * 1024 * 1024  # 16 MiB of float32 at work at once
# llama.cpp keeps these exact: norms, and the routers of mixtures of experts
_EXACT = ("_norm.weight", "ffn_gate_inp.weight", "ssm_conv1d.weight")

Rows = Callable[[int, int], np.ndarray]  # (first, end) -> rows in the source's own form


@dataclass(frozen=True)
class Job:
    """One tensor to write: where its rows come from, in which type, and in which type they go out."""

    name: str
    shape: tuple[int, ...]
    source: GGMLQuantizationType
    target: GGMLQuantizationType
    rows: Rows


def target_type(name: str, shape: Sequence[int], quantization: str) -> GGMLQuantizationType:
    """The type a tensor gets. Vectors, norms and routers stay F32. Rows that do not divide into the type's blocks fall
    back, K-quants (256) to Q8_0 (32), and all else to F16."""
    if len(shape) < 2 or not name.endswith(".weight") or name.endswith(_EXACT):
        return GGMLQuantizationType.F32
    for kind in (GGMLQuantizationType[quantization], GGMLQuantizationType.Q8_0):
        if shape[-1] % GGML_QUANT_SIZES[kind][0] == 0:
            return kind
    return GGMLQuantizationType.F16


def tensor_bytes(shape: Sequence[int], kind: GGMLQuantizationType) -> int:
    """Bytes of a tensor of that shape and type."""
    block, block_bytes = GGML_QUANT_SIZES[kind]
    return prod(shape) // block * block_bytes


def file_type(quantization: str) -> int:
    """The number that llama.cpp shows as the file's type (general.file_type)."""
    return int(LlamaFileType[_FILE_TYPES.get(quantization, f"MOSTLY_{quantization}")])


def requantize(source: GgufFile, quantization: str, out: Path, progress: Progress) -> None:
    """Write ``source`` (read with arrays) to ``out`` in another type. Raises Unavailable for a missing C quantiser."""
    writer = GGUFWriter(None, source.architecture)
    dropped = ("general.architecture", "general.file_type", "general.quantization_version", "general.alignment")
    for key, value in source.metadata.items():
        if key not in dropped:
            writer.add_key_value(key, value.value, value.type, value.sub_type)
    memory = np.memmap(source.path, dtype=np.uint8, mode="r")
    jobs = [
        Job(t.name, t.shape, t.type, target_type(t.name, t.shape, quantization), _rows_of(memory, t))
        for t in source.tensors
    ]
    write_tensors(writer, jobs, quantization, out, progress)


def _rows_of(memory: np.ndarray, tensor: Tensor) -> Rows:
    width = tensor_bytes(tensor.shape[-1:], tensor.type)
    rows = memory[tensor.offset : tensor.offset + tensor.nbytes].reshape(-1, width)
    return lambda first, end: rows[first:end]


def write_tensors(writer: GGUFWriter, jobs: Sequence[Job], quantization: str, out: Path, progress: Progress) -> None:
    """Finish a writer whose metadata is set: file type, tensor table, then the data with bounded memory."""
    writer.add_file_type(file_type(quantization))
    writer.add_quantization_version(2)
    for job in jobs:
        writer.add_tensor_info(
            job.name, job.shape, np.dtype(np.float32), tensor_bytes(job.shape, job.target), raw_dtype=job.target
        )
    writer.write_header_to_file(out)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    total, done = sum(prod(job.shape) for job in jobs), 0
    for job in jobs:
        writer.write_tensor_data(converted(job))
        done += prod(job.shape)
        progress(f"quantise {job.name}", done / total)
    writer.close()


def converted(job: Job) -> np.ndarray:
    """The whole tensor as bytes in its target type; only the source is taken in blocks."""
    count = prod(job.shape[:-1])
    result = np.empty((count, tensor_bytes(job.shape[-1:], job.target)), dtype=np.uint8)
    step = max(1, _BLOCK_ELEMENTS // job.shape[-1])
    for first in range(0, count, step):
        rows = job.rows(first, min(first + step, count))
        result[first : first + step] = (
            rows if job.source == job.target else encode(decode(rows, job.source), job.target)
        )
    return result


def decode(rows: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """Rows of bytes as rows of float32."""
    if kind == GGMLQuantizationType.F32:
        return np.ascontiguousarray(rows).view(np.float32)
    found = native.dequantize(rows, kind)
    return found if found is not None else quants.dequantize(np.ascontiguousarray(rows), kind)


def encode(rows: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """Rows of float32 as rows of bytes. Raises Unavailable where only C can and the wheel's C is missing."""
    if kind == GGMLQuantizationType.F32:
        return np.ascontiguousarray(rows, dtype=np.float32).view(np.uint8)
    found = native.quantize(rows, kind)
    if found is not None:
        return found
    if kind.name in _K:
        raise Unavailable(
            f"{kind.name} needs the C quantiser of the xllamacpp wheel, which does not export it here; "
            "choose Q8_0 or Q4_0"
        )
    return quants.quantize(rows, kind).view(np.uint8)
