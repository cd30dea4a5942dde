"""What makes a folder a model: one format, whole files, all that an engine needs to be built from it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_registry.files import digest_of, hash_files, list_files
from model_registry.model_files import AGAIN, read_gguf, read_safetensors
from model_registry.port import Progress
from rollout.errors import Refused
from rollout.nouns import ModelFile

INDEX = "model.safetensors.index.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
SPLIT = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.gguf$")


@dataclass(frozen=True)
class Model:
    """A folder that was found to be a model. ``architecture`` is ``general.architecture`` or ``model_type``."""

    files: tuple[ModelFile, ...]
    format: str
    architecture: str
    parameters: int

    @property
    def digest(self) -> str:
        return digest_of(self.files)

    @property
    def size(self) -> int:
        return sum(f.size for f in self.files)


def inspect_model(directory: Path, progress: Progress, known: tuple[ModelFile, ...] | None = None) -> Model:
    """What ``directory`` holds, with the digest of each file. Headers first: a folder that is no model is refused fast.

    ``known`` are the files where they were checked before: then nothing is hashed.
    Raises Refused for no model, two formats, cut off files, a missing config, tokenizer or shard.
    """
    if not directory.is_dir():
        raise Refused("source", str(directory), "there is no such folder", "name a folder that holds a model")
    paths = list_files(directory)
    broken = next((p for p in paths if not (directory / p).is_file()), None)
    if broken:
        raise Refused("source", broken, "it is no file (a broken link?)", AGAIN)
    kind, architecture, parameters = _headers(directory, paths)
    return Model(known or hash_files(directory, paths, progress), kind, architecture, parameters)


def _headers(directory: Path, paths: list[str]) -> tuple[str, str, int]:
    ggufs = [p for p in paths if p.endswith(".gguf")]
    tensors = [p for p in paths if p.endswith(".safetensors")]
    if ggufs and tensors:
        rule = f"it holds both GGUF ({ggufs[0]}) and safetensors ({tensors[0]})"
        raise Refused("source", str(directory), rule, "keep the files of one format in the folder")
    if ggufs:
        return "gguf", *_gguf(directory, ggufs)
    if tensors or INDEX in paths:
        return "safetensors", *_safetensors(directory, paths, tensors)
    rule = f"no .gguf and no .safetensors file is in it ({len(paths)} files)"
    raise Refused("source", str(directory), rule, "name a GGUF file or a Hugging Face folder with safetensors")


def _gguf(directory: Path, paths: list[str]) -> tuple[str, int]:
    """One file, or all parts of one split file."""
    splits = [SPLIT.match(p) for p in paths]
    if len(paths) > 1 and (None in splits or len({s["stem"] for s in splits if s}) > 1):
        rule = f"it holds {len(paths)} GGUF models ({', '.join(paths[:3])})"
        raise Refused("source", str(directory), rule, "name the one file that is meant")
    if splits[0] and len(paths) != int(splits[0]["parts"]):
        rule = f"{len(paths)} of {int(splits[0]['parts'])} parts of {splits[0]['stem']} are there"
        raise Refused("source", str(directory), rule, "put all parts into the folder")
    headers = [read_gguf(directory / p) for p in paths]
    architecture, parameters = headers[0].metadata.get("general.architecture"), sum(h.parameters for h in headers)
    if not architecture or not parameters:
        raise Refused("file", paths[0], "it names no architecture or holds no tensor", "export it with its weights")
    return str(architecture), parameters


def _safetensors(directory: Path, paths: list[str], tensors: list[str]) -> tuple[str, int]:
    """A Hugging Face folder: config, tokenizer, and every shard that the index names."""
    if "config.json" not in paths:
        raise Refused("source", str(directory), "config.json is missing", "add the model's config.json")
    if not any(t in paths for t in TOKENIZERS):
        rule = f"no tokenizer is in it ({', '.join(TOKENIZERS)})"
        raise Refused("source", str(directory), rule, "add the model's tokenizer files")
    if INDEX in paths:
        shards = set(_json(directory / INDEX).get("weight_map", {}).values())
        missing = sorted(shards - set(tensors))
        if missing:
            rule = f"{len(missing)} of {len(shards)} shards that the index names are missing, first {missing[0]}"
            raise Refused("source", str(directory), rule, "add the missing shards")
    config = _json(directory / "config.json")
    architecture = config.get("model_type") or next(iter(config.get("architectures") or []), None)
    parameters = sum(read_safetensors(directory / p).parameters for p in tensors)
    if not architecture or not parameters:
        raise Refused("source", str(directory), "config.json names no model_type, or no tensor is there", AGAIN)
    return str(architecture), parameters


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except ValueError as odd:
        raise Refused("file", path.name, f"it is not JSON ({odd})", AGAIN) from odd
    if not isinstance(found, dict):
        raise Refused("file", path.name, "it is not a JSON object", AGAIN)
    return found
