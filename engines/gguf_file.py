"""Reads the front of a GGUF file: metadata and tensor table, and checks that the tensors fit into the file.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little endian). The vocabulary is
stepped over unless it is asked for, so that a check takes milliseconds where the full reader of ``gguf`` takes seconds.
"""

from __future__ import annotations

import mmap
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from rollout.errors import Refused

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_FETCH_AGAIN = "fetch the file again and compare its sha256 with the publisher's"


@dataclass(frozen=True)
class Tensor:
    """One row of the tensor table. ``shape`` is in NumPy order (rows first); ``offset`` is from the file's start."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    nbytes: int

    @property
    def elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class Value:
    """One metadata value; ``value`` of an array is None unless arrays were asked for. Strings are bytes."""

    type: GGUFValueType
    value: Any
    sub_type: GGUFValueType | None = None
    count: int = 1


@dataclass(frozen=True)
class GgufFile:
    """What the front of the file says."""

    path: Path
    version: int
    metadata: dict[str, Value]
    tensors: tuple[Tensor, ...]
    size: int

    @property
    def architecture(self) -> str:
        return self.text("general.architecture")

    @property
    def parameters(self) -> int:
        """Elements of all weights; the table of rope factors is derived from the configuration and not counted."""
        return sum(t.elements for t in self.tensors if not t.name.startswith("rope_freqs"))

    @property
    def main_type(self) -> str:
        """The type that most weights have."""
        sizes: Counter[str] = Counter()
        for tensor in self.tensors:
            sizes[tensor.type.name] += tensor.elements
        return sizes.most_common(1)[0][0]

    def text(self, key: str) -> str:
        """A string of the metadata, or ''."""
        found = self.metadata.get(key)
        return found.value.decode("utf-8", "replace") if found and found.type is GGUFValueType.STRING else ""

    def number(self, key: str, default: int) -> int:
        """An integer of the metadata under the architecture's name; the largest where it differs by layer."""
        found = self.metadata.get(f"{self.architecture}.{key}")
        if found is None or found.value is None:
            return default
        return int(max(found.value) if isinstance(found.value, list) else found.value)


def read_gguf(path: Path, arrays: bool = False) -> GgufFile:
    """Parse and check. With ``arrays`` the long arrays (vocabulary, merges) are read too.

    Raises Refused: not a GGUF, another version, truncated (with the numbers), a tensor of an unknown type.
    """
    size = path.stat().st_size
    if size < 24:
        raise Refused("model file", path.name, f"{size} bytes is too short for a GGUF header (24)", _FETCH_AGAIN)
    with _mapped(path) as data:
        _check_magic(path, data)
        try:
            version, metadata, tensors, end = _parse(_Cursor(data), path, arrays)
        except struct.error as cut:
            raise Refused(
                "model file", path.name, f"truncated: its header goes beyond its {size} bytes", _FETCH_AGAIN
            ) from cut
    return _placed(GgufFile(path, version, metadata, tensors, size), end)


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


def _check_magic(path: Path, data: mmap.mmap) -> None:
    if data[:4] != b"GGUF":
        raise Refused(
            "model file",
            path.name,
            f"it begins with {data[:4]!r} and not with b'GGUF'",
            "give a GGUF file or a Hugging Face folder with safetensors",
        )
    version = struct.unpack_from("<I", data, 4)[0]
    if version not in (2, 3):
        raise Refused(
            "model file",
            path.name,
            f"GGUF version {version}; only 2 and 3 (little endian) are read",
            "convert it with a current llama.cpp",
        )


class _Cursor:
    """A place in the mapped file. Reading past the end raises struct.error."""

    def __init__(self, data: mmap.mmap, at: int = 8) -> None:
        self.data, self.at, self.size = data, at, len(data)

    def number(self, code: str) -> Any:
        value = struct.unpack_from("<" + code, self.data, self.at)[0]
        self.at += struct.calcsize("<" + code)
        return value

    def text(self) -> bytes:
        length = self.number("Q")
        return self._bytes(length)

    def numbers(self, code: str, count: int, wanted: bool) -> list[Any] | None:
        raw = self._bytes(struct.calcsize("<" + code) * count, wanted)
        return list(struct.unpack(f"<{count}{code}", raw)) if wanted else None

    def texts(self, count: int, wanted: bool) -> list[bytes] | None:
        if wanted:
            return [self.text() for _ in range(count)]
        length, data, at = struct.Struct("<Q").unpack_from, self.data, self.at
        for _ in range(count):
            at += 8 + length(data, at)[0]
        self.at = at
        return None

    def _bytes(self, length: int, wanted: bool = True) -> bytes:
        start, self.at = self.at, self.at + length
        if self.at > self.size:
            raise struct.error("beyond the end")
        return self.data[start : self.at] if wanted else b""


def _parse(cursor: _Cursor, path: Path, arrays: bool) -> tuple[int, dict[str, Value], tuple[Tensor, ...], int]:
    tensor_count, pair_count = cursor.number("Q"), cursor.number("Q")
    metadata = {}
    for _ in range(pair_count):
        key = cursor.text().decode("utf-8", "replace")
        metadata[key] = _value(cursor, path, arrays)
    tensors = []
    for _ in range(tensor_count):
        tensors.append(_tensor(cursor, path))
    version = struct.unpack_from("<I", cursor.data, 4)[0]
    return version, metadata, tuple(tensors), cursor.at


def _value(cursor: _Cursor, path: Path, arrays: bool) -> Value:
    kind = cursor.number("I")
    if kind == GGUFValueType.STRING:
        return Value(GGUFValueType.STRING, cursor.text())
    if kind == GGUFValueType.ARRAY:
        return _array(cursor, path, arrays)
    if kind not in _SCALARS:
        raise _damaged(path, f"metadata type {kind} does not exist")
    return Value(GGUFValueType(kind), cursor.number(_SCALARS[kind]))


def _array(cursor: _Cursor, path: Path, arrays: bool) -> Value:
    kind, count = cursor.number("I"), cursor.number("Q")
    wanted = arrays or count <= 1024
    if kind == GGUFValueType.STRING:
        value: list[Any] | None = cursor.texts(count, wanted)
    elif kind in _SCALARS:
        value = cursor.numbers(_SCALARS[kind], count, wanted)
    else:
        raise _damaged(path, f"an array of metadata type {kind} is not known")
    return Value(GGUFValueType.ARRAY, value, GGUFValueType(kind), count)


def _tensor(cursor: _Cursor, path: Path) -> Tensor:
    name = cursor.text().decode("utf-8", "replace")
    dimensions = cursor.number("I")
    if not 1 <= dimensions <= 4:
        raise _damaged(path, f"tensor {name} has {dimensions} dimensions")
    shape = tuple(reversed([cursor.number("Q") for _ in range(dimensions)]))
    kind, offset = cursor.number("I"), cursor.number("Q")
    try:
        tensor_type = GGMLQuantizationType(kind)
        block, block_bytes = GGML_QUANT_SIZES[tensor_type]
    except (ValueError, KeyError):
        raise Refused(
            "model file",
            path.name,
            f"tensor {name} has the unknown type {kind}",
            "convert the model with the llama.cpp that this project pins",
        ) from None
    if shape[-1] % block:
        raise _damaged(path, f"rows of tensor {name} have {shape[-1]} elements, no multiple of {block}")
    return Tensor(name, shape, tensor_type, offset, prod(shape) // block * block_bytes)


def _placed(file: GgufFile, end: int) -> GgufFile:
    """With offsets from the file's start, and the proof that the last tensor ends inside the file."""
    if not file.tensors:
        raise Refused("model file", file.path.name, "it holds no tensors (a vocabulary only)", "give the model itself")
    alignment = file.metadata.get("general.alignment", Value(GGUFValueType.UINT32, 32)).value
    if not isinstance(alignment, int) or alignment < 1:
        raise _damaged(file.path, f"alignment {alignment}")
    start = -(-end // alignment) * alignment
    tensors = tuple(Tensor(t.name, t.shape, t.type, start + t.offset, t.nbytes) for t in file.tensors)
    needed = max(t.offset + t.nbytes for t in tensors)
    if needed > file.size:
        raise Refused(
            "model file",
            file.path.name,
            f"truncated: its {len(tensors)} tensors need {needed} bytes and the file has {file.size}",
            _FETCH_AGAIN,
        )
    return GgufFile(file.path, file.version, file.metadata, tensors, file.size)


def _damaged(path: Path, what: str) -> Refused:
    return Refused("model file", path.name, f"damaged: {what}", _FETCH_AGAIN)
