"""What an engine can be built from: one GGUF file, or a Hugging Face folder. Both give facts, and write a GGUF."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Protocol

from gguf import MODEL_ARCH_NAMES
from gguf.constants import GGMLQuantizationType

from engines.gguf_file import GgufFile, read_gguf
from engines.hf_convert import convert, jobs
from engines.hf_folder import HfFolder, read_hf_folder
from engines.hf_tokenizer import read_tokenizer
from engines.port import Progress
from engines.quantize import requantize, target_type, tensor_bytes
from engines.vocabulary import Vocabulary, of_folder, of_gguf
from rollout.errors import Refused
from rollout.nouns import ModelVersion


@dataclass(frozen=True)
class Facts:
    """What sizing and checks need to know of a model."""

    architecture: str
    parameters: int
    layers: int
    kv_heads: int
    head_dim: int
    context: int  # tokens that the model was trained for
    vocabulary: int
    weights_from: str  # the type that most weights have in the source


class Source(Protocol):
    """A model that was opened and checked."""

    facts: Facts

    def steps(self, quantization: str) -> tuple[str, ...]:
        """What ``write`` will do, in words."""

    def size(self, quantization: str) -> int:
        """Bytes of weights that ``write`` will put out."""

    def vocabulary(self) -> Vocabulary:
        """Its tokens; a second for a large GGUF file."""

    def derived_from(self, quantization: str) -> str:
        """Whether precision was already lost before: 'requantised from Q4_1', or ''."""

    def write(self, name: str, quantization: str, out: Path, progress: Progress) -> None:
        """Put the GGUF file at ``out``."""


def open_source(model: ModelVersion) -> Source:
    """The model's files, read and checked without loading them. Raises Refused."""
    directory = Path(model.directory)
    if model.format == "gguf":
        return GgufSource(read_gguf(_the_gguf(model, directory)))
    if model.format == "safetensors":
        return HfSource(read_hf_folder(directory))
    raise Refused(
        "format",
        model.format,
        "an engine is built from gguf or safetensors",
        "register a GGUF file or a Hugging Face folder with safetensors",
    )


def _the_gguf(model: ModelVersion, directory: Path) -> Path:
    names = [f.path for f in model.files if f.path.endswith(".gguf")]
    if len(names) != 1:
        raise Refused(
            "model files",
            ", ".join(names) or "none",
            f"{len(names)} GGUF files, and an engine needs one",
            "register one GGUF file per model version (join split files first)",
        )
    path = directory / names[0]
    if not path.is_file():
        raise Refused("model file", names[0], f"it is not in {directory.name}", "resolve the model again")
    return path


class GgufSource:
    """One GGUF file."""

    def __init__(self, file: GgufFile) -> None:
        if file.architecture not in MODEL_ARCH_NAMES.values():
            raise Refused(
                "architecture",
                file.architecture or "none",
                "llama.cpp has no such architecture",
                "give a text model in GGUF format",
            )
        if "tokenizer.ggml.model" not in file.metadata or "tokenizer.ggml.tokens" not in file.metadata:
            raise Refused(
                "tokenizer",
                file.path.name,
                "the GGUF file holds no tokenizer",
                "convert the model together with its tokenizer",
            )
        self._file = file
        heads = max(file.number("attention.head_count", 1), 1)
        self.facts = Facts(
            file.architecture,
            file.parameters,
            file.number("block_count", 1),
            file.number("attention.head_count_kv", heads),
            file.number("attention.key_length", file.number("embedding_length", 0) // heads),
            file.number("context_length", 0),
            file.metadata["tokenizer.ggml.tokens"].count,
            file.main_type,
        )

    def _is_already(self, quantization: str) -> bool:
        return all(target_type(t.name, t.shape, quantization) == t.type for t in self._file.tensors)

    def steps(self, quantization: str) -> tuple[str, ...]:
        if self._is_already(quantization):
            return ("check digests", f"copy (all weights are {quantization} already)", "verify")
        return ("check digests", f"quantise {self.facts.weights_from} to {quantization}", "verify")

    def size(self, quantization: str) -> int:
        return sum(tensor_bytes(t.shape, target_type(t.name, t.shape, quantization)) for t in self._file.tensors)

    def vocabulary(self) -> Vocabulary:
        return of_gguf(read_gguf(self._file.path, arrays=True))

    def derived_from(self, quantization: str) -> str:
        exact = self.facts.weights_from in ("F32", "F16", "BF16")
        return "" if exact or self._is_already(quantization) else f"requantised from {self.facts.weights_from}"

    def write(self, name: str, quantization: str, out: Path, progress: Progress) -> None:
        if self._is_already(quantization):
            shutil.copyfile(self._file.path, out)
            progress("copy", 1.0)
        else:
            requantize(read_gguf(self._file.path, arrays=True), quantization, out, progress)


class HfSource:
    """A Hugging Face folder."""

    def __init__(self, folder: HfFolder) -> None:
        read_tokenizer(folder.path)
        self._folder = folder
        planned = list(jobs(folder, "F16"))
        kinds = [w.type for w in folder.weights if len(w.shape) > 1]
        self.facts = Facts(
            folder.architecture,
            sum(prod(j.shape) for j in planned if j.name != "rope_freqs.weight"),
            folder.layers,
            folder.kv_heads,
            folder.head_dim,
            int(folder.config["max_position_embeddings"]),
            int(folder.config["vocab_size"]),
            GGMLQuantizationType(max(set(kinds), key=kinds.count)).name,
        )

    def steps(self, quantization: str) -> tuple[str, ...]:
        return ("check digests", f"convert {self.facts.weights_from} safetensors to {quantization} GGUF", "verify")

    def size(self, quantization: str) -> int:
        return sum(tensor_bytes(job.shape, job.target) for job in jobs(self._folder, quantization))

    def vocabulary(self) -> Vocabulary:
        return of_folder(self._folder.path, self.facts.vocabulary)

    def derived_from(self, quantization: str) -> str:
        return ""

    def write(self, name: str, quantization: str, out: Path, progress: Progress) -> None:
        convert(self._folder, name, quantization, out, progress)
