"""The model's files on their way into an engine directory: checked, linked or converted, and checked again."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from engines.gguf_file import GgufFile, read_gguf
from engines.model_folder import check_folder
from engines.port import BuildStep
from engines.sizing.config_file import shape_at
from engines.sizing.shape import ModelShape
from engines.vllm.gguf_shape import gguf_dtype, gguf_shape
from engines.vllm.interpreter import Installed
from rollout.command import Command
from rollout.errors import Corrupt, Refused
from rollout.nouns import ModelVersion

_SCRIPT = str(Path(__file__).with_name("from_gguf.py"))
_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
_QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


@dataclass(frozen=True)
class Source:
    """A model's files, read as far as their headers. ``gguf`` is None for a Hugging Face folder."""

    model: ModelVersion
    shape: ModelShape
    gguf: GgufFile | None = None

    @property
    def size(self) -> int:
        """Bytes that it will have in an engine directory."""
        if self.gguf is None:
            return sum(file.size for file in self.model.files)
        return self.shape.parameters * _BYTES[self.shape.dtype] + self.gguf.metadata["tokenizer.ggml.tokens"].count * 96


def open_model(model: ModelVersion) -> Source:
    """Headers, index, config and tokenizer, without the weights. Raises Refused, Corrupt."""
    directory = Path(model.directory)
    if model.format == "safetensors":
        shape = shape_at(directory)
        check_folder(directory)
        return Source(model, shape)
    names = [file.path for file in model.files if file.path.endswith(".gguf")]
    if model.format != "gguf" or len(names) != 1:
        rule = "vLLM is built from a Hugging Face folder with safetensors, or from one GGUF file"
        raise Refused(
            "model files", model.format, f"{rule}; there are {len(names)}", "register the model in such files"
        )
    file = read_gguf(directory / names[0])
    return Source(model, gguf_shape(file), file)


def check_converter(source: Source, found: Installed | None) -> None:
    """What reads GGUF files is installed. Raises Refused."""
    if source.gguf is not None and (found is None or not found.reads_gguf):
        rule = "GGUF is converted by transformers, gguf and accelerate, and not all of them are installed beside vLLM"
        raise Refused("model file", source.gguf.path.name, rule, "run make setup-vllm, or register safetensors")


def steps_of(source: Source, folder: str, found: Installed | None) -> tuple[BuildStep, ...]:
    """The command that converts it into ``folder`` of the engine directory; none where its files are linked."""
    if source.gguf is None or found is None:
        return ()
    file, out = str(source.gguf.path), f"{{out}}/{folder}"
    argv = (found.python, "-I", _SCRIPT, file, out, gguf_dtype(source.gguf))
    name = f"convert {folder}: {source.gguf.main_type} GGUF to {argv[-1]} safetensors"
    return (BuildStep(name, Command(argv, dict(_QUIET))),)


def link(model: ModelVersion, folder: Path) -> None:
    """Its recorded files, as hard links where the file system allows and as copies elsewhere."""
    for file in model.files:
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        source = (Path(model.directory) / file.path).resolve()
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)


def check_written(folder: Path, shape: ModelShape) -> None:
    """What was written is whole and has the model's shape. Raises Corrupt."""
    check_folder(folder, "build it again")
    written = shape_at(folder)
    if written.parameters != shape.parameters:
        raise Corrupt(f"the build wrote {written.parameters} parameters and the model has {shape.parameters}")
