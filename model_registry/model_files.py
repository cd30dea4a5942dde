"""Reads the headers of model files: enough to know what a file is and whether it is whole. No tensor is loaded.

GGUF as in ggml's ``docs/gguf.md`` (versions 2 and 3, little-endian); safetensors as in its own README: eight bytes of
header length, the header as JSON, then the tensors without gaps.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollout.errors import Refused

#: values per block and bytes per block of ggml's tensor types (``GGML_QUANT_SIZES`` of the gguf package)
BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74),
    18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2),
    26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
    40: (64, 36), 41: (128, 18),
}  # fmt: skip

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9
HEADER_LIMIT = 100_000_000  # bytes; the limit of the safetensors library
AGAIN = "download or export the file again"


@dataclass(frozen=True)
class Header:
    """What a model file says of itself. ``metadata`` holds GGUF scalars and strings, or safetensors' own notes."""

    parameters: int
    metadata: dict[str, Any]


def read_gguf(path: Path) -> Header:
    """The header of a GGUF file. Raises Refused for another magic, an odd version and a file that ends too early."""
    size = path.stat().st_size
    if size < 24:
        raise Refused("file", path.name, f"{size} bytes are too few for a GGUF header", AGAIN)
    with path.open("rb") as source, mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] != b"GGUF":
            raise Refused("file", path.name, f"it begins with {data[:4]!r}, a GGUF file with b'GGUF'", AGAIN)
        try:
            return _Gguf(data, path.name).header(size)
        except (struct.error, ValueError, KeyError, ArithmeticError, RecursionError) as cut:
            raise Refused("file", path.name, "its GGUF header is cut off or damaged", AGAIN) from cut


class _Gguf:
    """A cursor over the bytes of a GGUF file."""

    def __init__(self, data: mmap.mmap, name: str) -> None:
        self.data, self.name, self.at = data, name, 4

    def header(self, size: int) -> Header:
        version = self.take("<I")
        if version not in (2, 3):
            raise Refused("file", self.name, f"GGUF version {version} is not 2 or 3", "convert it again")
        tensors, pairs = self.take("<Q"), self.take("<Q")
        metadata = dict(self.pair() for _ in range(pairs))
        shapes = [self.tensor() for _ in range(tensors)]
        alignment = int(metadata.get("general.alignment", 32))
        start = math.ceil(self.at / alignment) * alignment
        end = start + max((offset + length for _, offset, length in shapes), default=0)
        if end > size:
            raise Refused("file", self.name, f"its tensors end at byte {end}, it has {size} bytes: cut off", AGAIN)
        return Header(sum(values for values, _, _ in shapes), metadata)

    def take(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def text(self) -> str:
        length = self.take("<Q")
        if length > len(self.data) - self.at:
            raise struct.error("a string ends beyond the file")
        self.at += length
        return self.data[self.at - length : self.at].decode(errors="replace")

    def pair(self) -> tuple[str, Any]:
        return self.text(), self.value(self.take("<I"))

    def value(self, kind: int) -> Any:
        """A scalar or string. Arrays (a tokenizer's 50 000 tokens) are stepped over, their length is what is kept."""
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            return self.take(SCALARS[kind])
        inner, length = self.take("<I"), self.take("<Q")
        if inner in SCALARS:
            self.at += length * struct.calcsize(SCALARS[inner])
        else:
            for _ in range(length):
                self.skip_text() if inner == STRING else self.value(inner)
        return length

    def skip_text(self) -> None:
        (length,) = struct.unpack_from("<Q", self.data, self.at)
        self.at += 8 + length

    def tensor(self) -> tuple[int, int, int]:
        """Values, offset and bytes of one tensor; the bytes of a type that is not known here count as one."""
        self.text()
        values = math.prod(self.take("<Q") for _ in range(self.take("<I")))
        kind, offset = self.take("<I"), self.take("<Q")
        per_block, block_bytes = BLOCKS.get(kind, (values or 1, 1))
        return values, offset, values // per_block * block_bytes


def read_safetensors(path: Path) -> Header:
    """The header of a safetensors file. Raises Refused unless its tensors end where the file does."""
    size = path.stat().st_size
    with path.open("rb") as source:
        length = int.from_bytes(source.read(8), "little")
        if size < 8 or length > min(HEADER_LIMIT, size - 8):
            rule = f"its header of {length} bytes does not fit into a file of {size} bytes: cut off, or no safetensors"
            raise Refused("file", path.name, rule, AGAIN)
        raw = source.read(length)
    try:
        header = json.loads(raw)
        metadata = header.pop("__metadata__", {})
        end = 8 + length + max((t["data_offsets"][1] for t in header.values()), default=0)
        parameters = sum(math.prod(t["shape"]) for t in header.values())
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as odd:
        raise Refused("file", path.name, "its safetensors header is damaged", AGAIN) from odd
    if end != size:
        raise Refused("file", path.name, f"its tensors end at byte {end}, the file at byte {size}", AGAIN)
    return Header(parameters, metadata)
