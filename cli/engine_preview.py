"""``roundhouse engine preview``: the exact commands, files and container of an engine, and why they are so."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.screen import progress, show_json
from configs.files import load_engine
from configs.stack import load_stack
from engines.devices.choose import place
from engines.hardware import read_hardware
from engines.local_model import read_local_model
from engines.port import open_engine
from engines.preview import preview as preview_of
from engines.preview import record_of, text_of
from engines.sizing.gpu_catalogue import hardware_of
from model_registry.sources import fetch_any
from rollout.errors import Refused, Unavailable
from rollout.nouns import ModelFile, ModelVersion

_MODEL_FILES = (".safetensors", ".json", ".jinja", ".txt", ".model", ".jsonl")
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]


def preview(
    engine_file: Annotated[str, typer.Argument(help="A file of configs/engines.")],
    model: Annotated[str, typer.Option(help="models:/NAME/VERSION, dvc:PATH@REV, hf:ORG/NAME, or a folder.")] = "",
    gpus: Annotated[str, typer.Option(help="4xH100, 8xA100-40G, L4 ..., or `local`: this machine.")] = "local",
    as_json: Json = False,
) -> None:
    """Print what would be built and served, without doing any of it.

    Example: `roundhouse engine preview llama70b_tp4 --model models:/llama/1 --gpus 4xH100`
    """
    stack = load_stack()
    spec = load_engine(engine_file).spec()
    kind = open_engine(spec.kind, stack.engines())
    kind.check(spec)
    hardware = hardware_of(gpus, read_hardware(stack.engines().directory))
    files = _files(model, spec.kind, stack, as_json)
    small = spec.speculative.draft_model
    draft = _files(small, spec.kind, stack, as_json) if small else None
    plan = kind.plan(files, spec, hardware, draft)
    try:
        placement = place(plan.spec, hardware, ())
    except Unavailable as short:
        raise Refused("gpus", gpus, str(short), "ask about a larger machine with --gpus") from short
    shown = preview_of(kind, plan, hardware, placement=placement)
    if as_json:
        show_json(record_of(shown))
    else:
        typer.echo(text_of(shown), nl=False)


def _files(model: str, engine: str, stack: Any, quiet: bool) -> ModelVersion:
    """The model's files: a folder or GGUF file as it is, all else by its registry. Raises Refused, NotFound."""
    if not model:
        raise Refused("model", model, "what is built depends on it", "name one: --model models:/NAME/VERSION")
    if model.startswith(("models:", "dvc:", "hf:")):
        with progress(quiet) as report:
            return fetch_any(model, stack.registry(), report, str(stack.project))
    place = Path(model).expanduser()
    if place.is_file() and place.suffix != ".gguf":
        rule = "a preview reads the weights' headers and the tokenizer too, and this is one file that has neither"
        fix = "name the folder with config.json, weights and tokenizer, or models:/NAME/VERSION; or ask `engine plan`"
        raise Refused("model", model, rule, f"{fix}, which reads config.json alone")
    unread = engine != "llama_cpp" and place.is_dir() and not any(place.glob("*.gguf"))
    return unread_folder(place) if unread else read_local_model(place)


def unread_folder(place: Path) -> ModelVersion:
    """A Hugging Face folder by the names and sizes of its files: reading a hundred gigabytes for a preview would take
    minutes. So the digest, and with it the engine's directory, are not those of the same model once it is registered.
    """
    found = sorted(path for path in place.iterdir() if path.suffix in _MODEL_FILES)
    files = tuple(ModelFile(path.name, path.stat().st_size, "") for path in found)
    digest = hashlib.sha256("".join(f"{file.path} {file.size}\n" for file in files).encode()).hexdigest()
    place = place.resolve()
    return ModelVersion(place.name, "0", place.as_uri(), str(place), files, "safetensors", "", 0, digest)
