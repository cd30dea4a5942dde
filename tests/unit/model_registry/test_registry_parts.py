"""The small pure parts: what is written down, what the server is told, how foreign errors are told."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from model_registry.dvc_registry import DvcRegistry
from model_registry.files import digest_of
from model_registry.hub import choose
from model_registry.inspection import Model
from model_registry.mlflow_errors import told
from model_registry.mlflow_server import mlflow_server
from model_registry.port import MlflowSettings, open_registry
from model_registry.record import Entry, files_of, to_tags
from rollout.errors import Conflict, Corrupt, NotFound, Refused, RoundhouseError, Unavailable
from rollout.nouns import ModelFile

MODEL = Model((ModelFile("a", 1, "aa"), ModelFile("sub/b", 2, "bb")), "gguf", "llama", 7)
ENTRY = Entry("m", "1", to_tags(MODEL, "here"), (), "run")


def test_the_record_is_read_back() -> None:
    """What is written into tags comes out of them again."""
    assert files_of(ENTRY) == MODEL.files


def test_a_version_without_a_record_is_refused() -> None:
    """A version that was registered by other means cannot be verified, and the message says what to do."""
    with pytest.raises(Refused, match="roundhouse model register m SOURCE"):
        files_of(replace(ENTRY, tags={}))


@pytest.mark.parametrize("files", ["{", "[[1]]", '[["a", 1, "cc"]]', "[]"])
def test_a_record_that_was_changed_is_refused(files: str) -> None:
    """The list of files must fit the digest that was recorded with it."""
    with pytest.raises(Corrupt, match="record of its files"):
        files_of(replace(ENTRY, tags={**ENTRY.tags, "roundhouse.files": files}))


@pytest.mark.parametrize("path", ["../up", "/etc/passwd", "a/../../b"])
def test_a_record_that_leaves_the_folder_is_refused(path: str) -> None:
    """No record makes a fetch write outside of its folder."""
    model = replace(MODEL, files=(ModelFile(path, 1, "aa"),))
    with pytest.raises(Corrupt, match="outside"):
        files_of(replace(ENTRY, tags=to_tags(model, "here")))


def test_more_files_than_a_tag_holds_are_refused() -> None:
    """A folder of thousands of files is refused before anything is sent."""
    files = tuple(ModelFile(f"file-{n}", n, "0" * 64) for n in range(2000))
    with pytest.raises(Refused, match="2000 files"):
        to_tags(replace(MODEL, files=files), "here")


def test_the_digest_does_not_depend_on_the_order() -> None:
    """Files in any order are the same model; another name or content is another one."""
    a, b = MODEL.files
    assert digest_of([a, b]) == digest_of([b, a])
    assert len({digest_of([a, b]), digest_of([a]), digest_of([replace(a, path="c"), b])}) == 3


@pytest.mark.parametrize(
    ("code", "message", "ours"),
    [
        ("RESOURCE_DOES_NOT_EXIST", "gone", NotFound),
        ("INVALID_PARAMETER_VALUE", "Registered model alias x not found.", NotFound),
        ("INVALID_PARAMETER_VALUE", "Invalid webhook URL scheme", Refused),
        ("RESOURCE_ALREADY_EXISTS", "twice", Conflict),
        ("PERMISSION_DENIED", "no", Refused),
        ("INTERNAL_ERROR", "locked", Unavailable),
        ("SOMETHING_NEW", "?", Unavailable),
    ],
)
def test_mlflow_errors_are_told_as_ours(code: str, message: str, ours: type[RoundhouseError]) -> None:
    """Each code of MLflow has one of our kinds; the subject begins the message or is its value."""
    error = told("models:/m/1", code, f"{code}: {message}\nstack")
    assert type(error) is ours
    assert "models:/m/1" in str(error)
    assert "stack" not in str(error)


def test_the_server_is_told_by_variables_that_mlflow_knows(tmp_path: Path) -> None:
    """Each variable that we set is one of the pinned MLflow's own."""
    import mlflow.environment_variables as documented
    import mlflow.server as server
    import mlflow.server.constants as constants

    _, environment = mlflow_server(tmp_path, "127.0.0.1", 5000, "key")
    internal = {v for k, v in vars(constants).items() if k.endswith("ENV_VAR")} | {server._MLFLOW_SGI_NAME.name}
    known = internal | {getattr(v, "name", "") for v in vars(documented).values()}
    outside = {"DO_NOT_TRACK", "GIT_PYTHON_REFRESH", "MALLOC_ARENA_MAX", "TMPDIR", "MLFLOW_DISABLE_TELEMETRY"}
    assert set(environment) - outside <= known


def test_the_port_is_instant_to_import() -> None:
    """Naming settings and nouns loads neither MLflow nor DVC, nor does opening the modules beside them."""
    modules = "model_registry.sources, model_registry.mlflow_registry"
    code = f"import {modules}, sys; print({{'mlflow', 'dvc'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_database_is_no_registry(tmp_path: Path) -> None:
    """A client that writes into the database goes past the server, whose webhooks would stay silent."""
    with pytest.raises(Refused, match="http"):
        open_registry(MlflowSettings("sqlite:///mlflow.db", str(tmp_path)))


def test_settings_of_another_type_fail_loudly() -> None:
    """There is no default registry."""
    with pytest.raises(TypeError, match="dict"):
        open_registry({})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("paths", "file", "chosen"),
    [
        (("m.safetensors", "config.json", "m.bin", "onnx/m.onnx"), None, ("m.safetensors", "config.json")),
        (("a.gguf", "b.gguf"), None, ("a.gguf", "b.gguf")),
        (("a.gguf", "b.gguf"), "b.gguf", ("b.gguf",)),
        (("m.bin",), None, ()),
        (("../x.gguf", "/y.gguf"), None, ()),
    ],
)
def test_the_files_of_a_hub_model(paths: tuple[str, ...], file: str | None, chosen: tuple[str, ...]) -> None:
    """Safetensors with what belongs to them, else GGUF, else the one named; never a path that leaves the folder."""
    assert choose(paths, file) == chosen


@pytest.mark.parametrize("source", ["dvc:", "dvc:a@b@c", "model.gguf"])
def test_what_is_no_dvc_path_is_refused(tmp_path: Path, source: str) -> None:
    """The form of a source is checked before a repository is opened."""
    with pytest.raises(Refused, match="dvc:PATH"):
        DvcRegistry(str(tmp_path)).resolve(source)
