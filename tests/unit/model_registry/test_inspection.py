"""What makes a folder a model, and what does not."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from model_samples import tiny_folder, tiny_gguf

from model_registry.inspection import inspect_model
from rollout.errors import Refused


def quiet(what: str, share: float) -> None:
    """Nobody waits for it."""


def test_a_gguf_folder_is_a_model(tmp_path: Path) -> None:
    """One GGUF file is enough; its digest and size are those of the file."""
    file = tiny_gguf(tmp_path / "m.gguf")
    model = inspect_model(tmp_path, quiet)
    assert (model.format, model.architecture, model.parameters) == ("gguf", "llama", 128)
    assert model.files[0].sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert model.size == file.stat().st_size


def test_a_hugging_face_folder_is_a_model(tmp_path: Path) -> None:
    """Parameters are counted over all shards; hidden files are no part of it."""
    tiny_folder(tmp_path, shards=3)
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "lock").touch()
    model = inspect_model(tmp_path, quiet)
    assert (model.format, model.architecture, model.parameters) == ("safetensors", "qwen2", 96)
    assert not any(f.path.startswith(".") for f in model.files)


def test_progress_ends_at_all_of_it(tmp_path: Path) -> None:
    """Hashing tells how far it is, in shares that never fall, up to 1."""
    tiny_folder(tmp_path, shards=3)
    told: list[float] = []
    inspect_model(tmp_path, lambda what, share: told.append(share))
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_all_parts_of_a_split_file_are_one_model(tmp_path: Path) -> None:
    """A GGUF in two parts is a model; with one part missing it is refused."""
    for part in (1, 2):
        tiny_gguf(tmp_path / f"m-{part:05}-of-00002.gguf", seed=part)
    assert inspect_model(tmp_path, quiet).parameters == 256
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    with pytest.raises(Refused, match="1 of 2 parts"):
        inspect_model(tmp_path, quiet)


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (tiny_folder(folder, shards=2) / name).unlink()


def with_gguf(folder: Path) -> None:
    tiny_gguf(tiny_folder(folder) / "m.gguf")


def two_ggufs(folder: Path) -> None:
    tiny_gguf(folder / "a.gguf")
    tiny_gguf(folder / "b.gguf")


def broken_link(folder: Path) -> None:
    (tiny_folder(folder) / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(folder / "gone")


def odd_config(folder: Path) -> None:
    (tiny_folder(folder) / "config.json").write_text("{")


def nameless(folder: Path) -> None:
    (tiny_folder(folder) / "config.json").write_text("{}")


def only_text(folder: Path) -> None:
    folder.mkdir()
    (folder / "readme.md").write_text("soon")


def shell_script(folder: Path) -> None:
    folder.mkdir()
    (folder / "m.gguf").write_text("#!/bin/sh\n" * 10)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Path.mkdir, "0 files"),
        (only_text, "no .gguf and no .safetensors"),
        (shell_script, "begins with"),
        (with_gguf, "both GGUF"),
        (two_ggufs, "2 GGUF models"),
        (without("config.json"), "config.json is missing"),
        (without("tokenizer.json"), "no tokenizer"),
        (without("model-00002-of-00002.safetensors"), "1 of 2 shards"),
        (broken_link, "broken link"),
        (odd_config, "not JSON"),
        (nameless, "names no model_type"),
        (lambda folder: None, "no such folder"),
    ],
)
def test_what_is_no_model_is_refused_with_the_reason(tmp_path: Path, make: Callable[[Path], object], why: str) -> None:
    """Each lack has a message of its own, with a way to mend it."""
    make(tmp_path / "m")
    with pytest.raises(Refused) as refused:
        inspect_model(tmp_path / "m", quiet)
    assert why in refused.value.rule
    assert refused.value.fix


def test_files_known_are_not_read_again(tmp_path: Path) -> None:
    """With digests from an earlier check only headers are read."""
    tiny_gguf(tmp_path / "m.gguf")
    known = inspect_model(tmp_path, quiet).files
    told: list[str] = []
    assert inspect_model(tmp_path, lambda what, share: told.append(what), known).files == known
    assert told == []


def test_a_copy_elsewhere_has_the_same_digest(tmp_path: Path) -> None:
    """A model's digest does not depend on where it lies or when it was written."""
    tiny_folder(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    assert inspect_model(tmp_path / "a", quiet).digest == inspect_model(tmp_path / "b", quiet).digest
