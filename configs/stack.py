"""The stack on one machine: where its files live, which ports its parts take, and the settings of each adapter."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from configs.load import Config, load
from engines.port import LocalSettings
from gateway.port import EnvoySettings, Tls, Tracing
from loadtest.port import LocustSettings
from model_registry.port import MlflowSettings, RemoteSettings
from platforms.port import DockerSettings, MixedSettings, SupervisorSettings
from rollout.limits import RESERVED_PORTS
from store.port import StoreSettings

Port = Annotated[int, Field(ge=1024, le=65535)]


class Ports(Config):
    """The ports of the parts, all on ``host``. Engines take theirs from ``engines_from`` to ``engines_to``."""

    gateway: Port = 8800
    agent: Port = 8801
    prefect: Port = 4200
    mlflow: Port = 5500
    engines_from: Port = 18100
    engines_to: Port = 18199

    @model_validator(mode="after")
    def _no_clash(self) -> Ports:
        parts = {"gateway": self.gateway, "agent": self.agent, "prefect": self.prefect, "mlflow": self.mlflow}
        if self.engines_from > self.engines_to:
            raise ValueError(f"engines_from {self.engines_from} is above engines_to {self.engines_to}; swap them")
        for name, port in parts.items():
            if self.engines_from <= port <= self.engines_to:
                raise ValueError(f"{name} port {port} lies in the engines' range; move one of them")
        if len(set(parts.values())) < len(parts):
            raise ValueError(f"two parts share a port: {parts}; give each its own")
        taken = [p for p in RESERVED_PORTS if self.engines_from <= p <= self.engines_to]
        if taken:
            raise ValueError(
                f"the engines' range holds the reserved port {taken[0]}; choose a range without 8080 and 9090"
            )
        return self


class TlsFile(Config):
    """Certificate chain and key of the gateway: PEM files, their paths from the project."""

    certificate: Annotated[str, Field(min_length=1)]
    key: Annotated[str, Field(min_length=1)]


class TracingFile(Config):
    """An OpenTelemetry collector (OTLP over HTTP), and the share of requests that begin a trace."""

    host: Annotated[str, Field(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)] = 4318
    percent: Annotated[float, Field(gt=0, le=100)] = 1.0


class DockerFile(Config):
    """The Docker engine for engines that run in containers; an empty url is DOCKER_HOST, else its usual socket."""

    url: str = ""


class EngineRemoteFile(Config):
    """A DVC remote that keeps built engines for several machines: a folder (its path from the project), or an address
    that DVC knows. Credentials belong into the environment or DVC's own configuration."""

    url: Annotated[str, Field(min_length=1)]

    @field_validator("url")
    @classmethod
    def _no_secret(cls, url: str) -> str:
        if urlsplit(url).password is not None:
            raise ValueError("an address here holds no password; give it to DVC by the environment")
        return url


class StackFile(Config):
    """``configs/stack.yaml``."""

    kind: Literal["stack"] = "stack"
    host: Literal["127.0.0.1"] = "127.0.0.1"
    ports: Ports = Ports()
    tls: TlsFile | None = None  # null: plain HTTP
    tracing: TracingFile | None = None  # null: no traces
    docker: DockerFile = DockerFile()
    engine_cache_gb: Annotated[float, Field(ge=0)] = 200.0  # engines kept on this machine; those in service always stay
    engine_upload_gb: Annotated[float, Field(ge=0)] = 2.0  # a larger engine is recorded in its run and not kept there
    engine_remote: EngineRemoteFile | None = None  # null: none


class Stack(Config):
    """The stack's settings, with every path derived from ``home`` in one place."""

    project: Path
    home: Path
    host: str = "127.0.0.1"
    ports: Ports = Ports()
    tls: TlsFile | None = None
    tracing: TracingFile | None = None
    docker: DockerFile = DockerFile()
    engine_cache_gb: float = 200.0
    engine_upload_gb: float = 2.0
    engine_remote: EngineRemoteFile | None = None

    @property
    def run(self) -> Path:
        """Sockets, pids, generated configuration."""
        return self.home / "run"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def cache(self) -> Path:
        """Downloaded models; may be kept when all else is deleted."""
        return Path(os.environ.get("ROUNDHOUSE_CACHE", self.home / "cache"))

    @property
    def secrets(self) -> Path:
        """Tokens and keys, readable by the owner only."""
        return self.home / "secrets"

    @property
    def tokens(self) -> Path:
        """The keys that open services and groups."""
        return self.secrets / "tokens.json"

    @property
    def supervisor_socket(self) -> Path:
        return self.run / "supervisor.sock"

    @property
    def prefect_api(self) -> str:
        return f"http://{self.host}:{self.ports.prefect}/api"

    @property
    def agent_url(self) -> str:
        return f"http://{self.host}:{self.ports.agent}"

    @property
    def mlflow_url(self) -> str:
        return f"http://{self.host}:{self.ports.mlflow}"

    @property
    def gateway_url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.ports.gateway}"

    def registry(self) -> MlflowSettings:
        return MlflowSettings(uri=self.mlflow_url, cache_directory=str(self.cache))

    def engines(self) -> LocalSettings:
        return LocalSettings(directory=str(self.home / "engines"))

    def remote(self) -> RemoteSettings | None:
        """Where engines are kept for other machines too."""
        if self.engine_remote is None:
            return None
        url = self.engine_remote.url
        return RemoteSettings(url if "://" in url else str(self.project / url))

    def platform(self) -> MixedSettings:
        """Where instances run: processes of this machine, containers where their engine names an image."""
        containers = DockerSettings(
            include_directory=str(self.run / "containers.d"),
            log_directory=str(self.logs / "instances"),
            url=self.docker.url,
        )
        return MixedSettings(self.processes(), containers)

    def processes(self) -> SupervisorSettings:
        """The stack's own process manager."""
        return SupervisorSettings(
            socket=str(self.supervisor_socket),
            include_directory=str(self.run / "instances.d"),
            log_directory=str(self.logs / "instances"),
        )

    def gateway(self) -> EnvoySettings:
        files = self.tls.model_dump() if self.tls else {}
        return EnvoySettings(
            directory=str(self.home / "gateway"),
            host=self.host,
            port=self.ports.gateway,
            tls=Tls(**{name: str(self.project / path) for name, path in files.items()}) if self.tls else None,
            tracing=Tracing(**self.tracing.model_dump()) if self.tracing else None,
        )

    def loadtest(self) -> LocustSettings:
        return LocustSettings()

    def store(self) -> StoreSettings:
        return StoreSettings(url=os.environ.get("ROUNDHOUSE_DATABASE_URL", f"sqlite:///{self.home / 'roundhouse.db'}"))


def project_directory() -> Path:
    """The checkout: ``ROUNDHOUSE_PROJECT``, or the folder that holds this package."""
    return Path(os.environ.get("ROUNDHOUSE_PROJECT", Path(__file__).resolve().parent.parent))


_CARRIED = tuple(name for name in StackFile.model_fields if name != "kind")


def load_stack() -> Stack:
    """``configs/stack.yaml`` (or the file named by ``ROUNDHOUSE_STACK``), at ``ROUNDHOUSE_HOME`` or ``.roundhouse``.

    Raises NotFound, Refused.
    """
    project = project_directory()
    path = Path(os.environ.get("ROUNDHOUSE_STACK", project / "configs" / "stack.yaml"))
    file = load(StackFile, path)
    home = Path(os.environ.get("ROUNDHOUSE_HOME", project / ".roundhouse")).absolute()
    return Stack(project=project, home=home, **{name: getattr(file, name) for name in _CARRIED})
