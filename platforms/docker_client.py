"""Docker's engine as platforms use it: how a container is asked for, and what its errors mean here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound
from docker.types import DeviceRequest, LogConfig, Ulimit
from requests.exceptions import RequestException

from rollout.command import Container, Mount, revealed
from rollout.errors import Conflict, NotFound, Refused, RoundhouseError, Unavailable

TIMEOUT_S = 20.0
LOG_OPTIONS = {"max-size": "10m", "max-file": "3"}
_FIX = "start Docker, or set `docker: {url: ...}` in configs/stack.yaml"


def connect(url: str) -> docker.DockerClient:
    """A client; an empty ``url`` is what the environment says (DOCKER_HOST), else Docker's own socket. Asks nothing."""
    address = url or os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    try:
        return docker.DockerClient(base_url=address, timeout=TIMEOUT_S, version="1.41")
    except DockerException as bad:
        raise Refused("docker.url", address, str(bad), "write for example unix:///var/run/docker.sock") from None


class Silent(Unavailable):
    """Docker did not answer: whether it did what it was asked is not known."""


@contextmanager
def docker_errors(what: str) -> Iterator[None]:
    """Docker's errors as ours. Raises NotFound (image), Conflict, Unavailable, Silent."""
    try:
        yield
    except RoundhouseError:
        raise
    except ImageNotFound as missing:
        raise NotFound(f"{what}: {missing.explanation}; fetch it with `docker pull`") from missing
    except APIError as refused:
        kind = Conflict if refused.status_code == 409 else Unavailable
        raise kind(f"{what}: Docker says {refused.explanation or refused}") from refused
    except (DockerException, RequestException) as silent:
        raise Silent(f"{what}: Docker does not answer ({type(silent).__name__}); {_FIX}") from silent


def arguments(
    argv: tuple[str, ...], env: Mapping[str, str], container: Container, cores: tuple[int, ...], labels: dict[str, str]
) -> dict[str, Any]:
    """What ``docker run`` is asked for, as keyword arguments of ``containers.create``.

    It runs as this user, whose files it writes, and may gain no privileges; ``init`` hands signals on and reaps.
    """
    asked: dict[str, Any] = {
        "image": container.image,
        "command": list(argv),
        "environment": {"HOME": "/tmp", **revealed(env, os.environ)},
        "user": f"{os.getuid()}:{os.getgid()}",
        "labels": labels,
        "init": True,
        "security_opt": ["no-new-privileges"],
        "volumes": {m.host: {"bind": m.inside, "mode": _mode(m)} for m in _checked(container.mounts)},
        "ulimits": [Ulimit(name=name, soft=bound, hard=bound) for name, bound in container.ulimits.items()],
        "log_config": LogConfig(type=LogConfig.types.JSON, config=LOG_OPTIONS),
    }
    if container.entrypoint:
        asked["entrypoint"] = container.entrypoint
    if container.gpus:
        asked["device_requests"] = [DeviceRequest(device_ids=list(container.gpus), capabilities=[["gpu"]])]
    if container.shm_bytes and container.ipc != "host":  # Docker refuses a size for memory that is not the container's
        asked["shm_size"] = container.shm_bytes
    if container.ipc:
        asked["ipc_mode"] = container.ipc
    if cores:
        asked["cpuset_cpus"] = ",".join(str(core) for core in cores)
    return asked


def _mode(mount: Mount) -> str:
    return "ro" if mount.read_only else "rw"


def _checked(mounts: tuple[Mount, ...]) -> tuple[Mount, ...]:
    """Docker makes a missing directory of the host, owned by root: we say that it is missing."""
    for mount in mounts:
        if not os.path.exists(mount.host):
            raise NotFound(f"mount {mount.inside}: there is no {mount.host} on this machine")
    return mounts
