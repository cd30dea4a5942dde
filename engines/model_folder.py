"""Reads the folders that engines are built from and into: Hugging Face folders, checkpoints with a file per rank.

A safetensors file is a length (8 bytes), a JSON header and the data: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from rollout.errors import Corrupt

_SINGLE = "model.safetensors"
CONFIG, INDEX, QUANTISED = "config.json", "model.safetensors.index.json", "hf_quant_config.json"
_TOKENIZERS = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"), ("tekken.json",))
_BESIDE = (  # what a tokenizer folder holds besides; config.json tells transformers which class to use
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    CONFIG,
)
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64, "F4": 4,
    "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
_HEADER_BYTES = 100_000_000  # what the library itself reads at most
_FETCH = "fetch the model again and compare the sha256 of its files"


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file; ``first`` and ``end`` count bytes from the start of the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    first: int
    end: int


def read_json(path: Path, fix: str = _FETCH) -> dict[str, Any]:
    """A JSON object. Raises Corrupt."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as bad:
        why = "it is missing" if isinstance(bad, FileNotFoundError) else f"it cannot be read ({bad})"
        raise Corrupt(f"{path.parent.name}/{path.name}: {why}; {fix}") from bad
    if not isinstance(value, dict):
        raise Corrupt(f"{path.parent.name}/{path.name}: it is {type(value).__name__} and must be an object; {fix}")
    return value


def read_tensors(path: Path, fix: str = _FETCH) -> dict[str, Tensor]:
    """The header of a safetensors file, checked against its size: the tensors lie one after the other, without gaps, to
    the last byte. Raises Corrupt with the bytes found and expected."""
    if not path.is_file():
        raise Corrupt(f"{path.name} is missing; {fix}")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))[0]
        if not 2 <= length <= size - 8:
            raise Corrupt(
                f"{path.name} is truncated: it has {size} bytes and its header alone needs {length + 8}; {fix}"
            )
        if length > _HEADER_BYTES:
            raise Corrupt(
                f"{path.name}: its header is damaged: it has {length} bytes and may have {_HEADER_BYTES}; {fix}"
            )
        content = file.read(length)
    try:
        entries = [(name, entry) for name, entry in json.loads(content).items() if name != "__metadata__"]
        tensors = [_tensor(name, entry) for name, entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as bad:
        raise Corrupt(f"{path.name}: its header is damaged ({bad}); {fix}") from bad
    _check_bytes(path, tensors, size - 8 - length, fix)
    return {tensor.name: tensor for tensor in tensors}


def _tensor(name: str, entry: Mapping[str, Any]) -> Tensor:
    """Raises ValueError, KeyError, TypeError."""
    dtype, shape, (first, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str):
        raise TypeError(f"{name}: its type is {dtype!r}")
    for number in (*shape, first, end):
        if type(number) is not int or number < 0:  # True is an int too
            raise ValueError(f"{name}: {number!r} is no size")
    return Tensor(name, dtype, tuple(shape), first, end)


def _check_bytes(path: Path, tensors: list[Tensor], data: int, fix: str) -> None:
    reached = 0
    for tensor in sorted(tensors, key=lambda t: (t.first, t.end)):
        bits = _BITS.get(tensor.dtype)
        if bits is None:
            raise Corrupt(f"{path.name}: {tensor.name} has the unknown type {tensor.dtype}; {fix}")
        needed = -(-prod(tensor.shape) * bits // 8)
        if tensor.first != reached or tensor.end - tensor.first != needed:
            raise Corrupt(
                f"{path.name}: {tensor.name} lies at bytes {tensor.first} to {tensor.end} and {reached} to "
                f"{reached + needed} are expected; {fix}"
            )
        reached = tensor.end
    if reached != data:
        what = "truncated" if data < reached else "longer than its tensors"
        raise Corrupt(f"{path.name} is {what}: {data} bytes of data and {reached} expected; {fix}")


def weight_files(directory: Path, fix: str = _FETCH) -> dict[str, set[str] | None]:
    """The safetensors files of a folder, each with the tensors that the index puts into it (None without an index).

    Raises Corrupt: no weights, an unreadable index, a file outside the folder.
    """
    if not (directory / INDEX).is_file():
        found = sorted(path.name for path in directory.glob("*.safetensors"))
        if _SINGLE in found:  # other files beside it are the same weights in another layout
            return {_SINGLE: None}
        if len(found) != 1:
            raise Corrupt(f"{directory.name}: {len(found)} safetensors files and no {INDEX}; {fix}")
        return {found[0]: None}
    index = read_json(directory / INDEX, fix)
    placed = index.get("weight_map")
    if not isinstance(placed, dict) or not placed or not all(isinstance(name, str) for name in placed.values()):
        raise Corrupt(f"{INDEX}: its weight_map is missing or empty; {fix}")
    files: dict[str, set[str] | None] = {}
    for tensor, name in placed.items():
        if Path(name).name != name:
            raise Corrupt(f"{INDEX} names {name}, outside the folder; {fix}")
        files.setdefault(name, set()).add(tensor)  # type: ignore[union-attr]
    return files


def check_weights(directory: Path, config: Mapping[str, Any], fix: str = _FETCH) -> int:
    """Every weight file is whole and holds the tensors that the index says; the sizes fit config.json. The bytes.

    Raises Corrupt.
    """
    files, total, embedding = weight_files(directory, fix), 0, None
    missing = [name for name in files if not (directory / name).is_file()]
    if missing:
        raise Corrupt(f"{len(missing)} of the {len(files)} files that {INDEX} names are missing: {missing[0]}; {fix}")
    for name, expected in files.items():
        tensors = read_tensors(directory / name, fix)
        lost = sorted((expected or set()) - tensors.keys())
        if lost:
            raise Corrupt(
                f"{name} lacks {len(lost)} of the {len(expected or ())} tensors that {INDEX} puts into it, "
                f"{lost[0]} among them: files were swapped or mixed; {fix}"
            )
        total += sum(tensor.end - tensor.first for tensor in tensors.values())
        embedding = tensors.get("model.embed_tokens.weight", embedding)
    if embedding is not None:
        _check_embedding(embedding, config, fix)
    return total


def _check_embedding(embedding: Tensor, config: Mapping[str, Any], fix: str) -> None:
    text = config.get("text_config") or config
    wanted = (text.get("vocab_size"), text.get("hidden_size"))
    if None not in wanted and embedding.shape != wanted:
        raise Corrupt(
            f"{embedding.name} has shape {list(embedding.shape)} and config.json says {list(wanted)}: the weights are "
            f"of another model; {fix}"
        )


def check_tokenizer(directory: Path, fix: str = _FETCH) -> None:
    """A tokenizer lies in the folder. Raises Corrupt."""
    if not any(all((directory / name).is_file() for name in names) for names in _TOKENIZERS):
        wanted = " or ".join(" + ".join(names) for names in _TOKENIZERS)
        raise Corrupt(f"{directory.name} has no tokenizer ({wanted}); {fix}")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (directory / name).is_file():
            read_json(directory / name, fix)


def check_folder(directory: Path, fix: str = _FETCH) -> dict[str, Any]:
    """A whole Hugging Face folder: config.json, weights, tokenizer. Its config. Raises Corrupt."""
    config = read_json(directory / CONFIG, fix)
    if not config.get("architectures"):
        raise Corrupt(f"{directory.name}/{CONFIG} names no architecture; {fix}")
    check_weights(directory, config, fix)
    check_tokenizer(directory, fix)
    return config


def check_ranks(directory: Path, world: int, suffix: str, fix: str) -> None:
    """``rank0<suffix>`` to ``rank<world-1><suffix>`` are there and not empty, and no more. Raises Corrupt."""
    wanted = [f"rank{rank}{suffix}" for rank in range(world)]
    found = {path.name: path.stat().st_size for path in directory.glob(f"rank*{suffix}")}
    bad = [name for name in wanted if not found.get(name)]
    extra = sorted(set(found) - set(wanted) - {f"rank{rank}_managed_weights.safetensors" for rank in range(world)})
    if bad or extra:
        what = f"{bad[0]} is missing or empty" if bad else f"{extra[0]} belongs to no rank"
        raise Corrupt(f"{directory.name}: {what}; {len(found)} rank files found and {world} expected; {fix}")


def copy_tokenizer(source: Path, target: Path) -> None:
    """The tokenizer's files and what goes with them: ``trtllm-build`` leaves them behind. Raises Corrupt."""
    check_tokenizer(source)
    target.mkdir(parents=True, exist_ok=True)
    for name in sorted({name for names in _TOKENIZERS for name in names} | set(_BESIDE)):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def link_files(source: Path, target: Path) -> None:
    """The model's files under another folder: hard links where the file system allows, else copies. Symbolic links are
    followed; hidden files and folders (a repository's own) stay behind."""
    for path in sorted(source.rglob("*")):
        part = path.relative_to(source)
        if any(name.startswith(".") for name in part.parts) or not path.is_file():
            continue
        (target / part).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path.resolve(), target / part)
        except OSError:
            shutil.copyfile(path, target / part)
