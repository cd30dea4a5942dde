"""The registry's interface: where models come from, and where verdicts go. No vendor is imported here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from rollout.nouns import ModelFile, ModelVersion

if TYPE_CHECKING:
    from model_registry.engine_remote import EngineRemote

EVALUATION = "roundhouse.evaluation"  # the tag of a version, or of a model, that names its evaluation set

Progress = Callable[[str, float], None]  # (what is being done, share done 0..1)


@dataclass(frozen=True)
class Registered:
    """A model version as the registry lists it, without its files."""

    name: str
    version: str
    uri: str
    digest: str
    format: str
    architecture: str
    parameters: int
    size: int
    aliases: tuple[str, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    run_id: str | None = None
    evaluation: str = ""  # where its evaluation set is: the version's word, else the model's; empty: nobody named one


class ModelRegistry(Protocol):
    """The verbs. Implementations: ``mlflow_registry``, ``dvc_registry`` (resolve only), ``memory``."""

    def register(self, name: str, directory: str, source: str, progress: Progress) -> Registered:
        """A new version from a folder of files, each with its sha256. Raises Refused when it is no model."""

    def fetch(self, uri: str, progress: Progress, full: bool = False) -> ModelVersion:
        """Resolve a version or an alias to verified local files; ``full``: hash also what was checked before.

        Raises NotFound, Corrupt, Unavailable.
        """

    def resolve(self, uri: str) -> Registered:
        """What a version or an alias names now. Raises NotFound."""

    def versions(self, name: str) -> list[Registered]:
        """All versions of a model, newest first."""

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Move an alias."""

    def tag(self, name: str, version: str, tags: dict[str, str]) -> None:
        """Write tags on a version; on the model itself, for all its versions, where ``version`` is empty."""

    def log_release(self, run: ReleaseRun) -> str:
        """Write down what a release did; returns an address at which a person can read it."""

    def record_build(self, build: EngineBuild) -> EngineRun:
        """Write down a build: a run with its numbers and its log, and tags on the model version if it is one of ours.

        Raises Unavailable.
        """

    def put_engine(self, run: EngineRun, build: EngineBuild, progress: Progress) -> None:
        """Keep the engine's files in the run that built it; all of them or none. Raises Unavailable, NotFound."""

    def get_engine(self, digest: str, into: str, progress: Progress) -> EngineRun:
        """Write the files of that engine below ``into``, from the newest run that keeps them, checked.

        Raises NotFound when no run does, Corrupt, Unavailable.
        """


@dataclass(frozen=True)
class ReleaseRun:
    """What a release logs: parameters, metrics by (name, step, value), text and files by artifact path."""

    name: str
    params: dict[str, Any]
    metrics: tuple[tuple[str, int, float], ...]
    texts: dict[str, str]
    files: dict[str, str]  # artifact directory -> local file
    tags: dict[str, str]
    service: str = ""  # runs of one service stand together


@dataclass(frozen=True)
class EngineBuild:
    """A build that succeeded. ``files`` are all of its directory, ``built_with`` what it is bound to (versions, GPU
    architecture), ``log`` what the build said, ``pointer`` the text by which a DVC remote knows it (empty: none)."""

    model_uri: str
    kind: str
    digest: str
    directory: str
    files: tuple[ModelFile, ...]
    seconds: float
    built_with: dict[str, str]
    version: str = ""  # of the engine
    log: str = ""
    pointer: str = ""

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class EngineRun:
    """Where a build is written down, and the address at which a person can read it."""

    id: str
    address: str


@dataclass(frozen=True)
class RemoteSettings:
    """A DVC remote for engines: a folder, or any address that DVC knows (s3://bucket/path ...)."""

    url: str
    kind: Literal["dvc"] = "dvc"


@dataclass(frozen=True)
class MlflowSettings:
    """An MLflow tracking server, and the cache in whose folder ``models`` fetched files are kept."""

    uri: str
    cache_directory: str
    kind: Literal["mlflow"] = "mlflow"


@dataclass(frozen=True)
class MemorySettings:
    """A registry in this process, for tests; files stay where they are."""

    cache_directory: str
    kind: Literal["memory"] = "memory"


RegistrySettings = MlflowSettings | MemorySettings


def open_registry(settings: RegistrySettings) -> ModelRegistry:
    """The implementation that ``settings`` asks for, by its type; an unknown one fails loudly."""
    match settings:
        case MlflowSettings():
            from model_registry.mlflow_registry import MlflowRegistry

            return MlflowRegistry(settings)
        case MemorySettings():
            from model_registry.memory import MemoryRegistry

            return MemoryRegistry(settings)
    raise TypeError(f"no registry for settings of type {type(settings).__name__}")


def open_remote(settings: RemoteSettings) -> EngineRemote:
    """The remote for engines that ``settings`` names."""
    from model_registry.engine_remote import EngineRemote

    return EngineRemote(settings)
