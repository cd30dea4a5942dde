"""One command to its end in a container: how builds run that need an engine's own image."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import docker
import psutil
from docker.models.containers import Container as Box

from platforms.docker_client import arguments, connect, docker_errors
from platforms.port import DockerSettings
from rollout.command import Command
from rollout.errors import Refused, Unavailable

OWNER = "roundhouse.owner"
Progress = Callable[[str, float], None]
_TAIL = 20


def run_in_container(settings: DockerSettings, command: Command, log: str) -> None:
    """Run it, its output appended to the file ``log``; the container is gone afterwards, however it ended.

    Containers that a killed build left are ended first. Raises NotFound (image, mount), Unavailable (it failed: with
    the last lines of its output), Refused (no container).
    """
    if command.container is None:
        raise Refused("container", None, "this command has none", "run it as a process")
    client = connect(settings.url)
    with docker_errors(command.argv[0]):
        _sweep(client)
        labels = {OWNER: owner_label()}
        asked = arguments(command.argv, command.env, command.container, command.cores, labels)
        box = client.containers.create(**asked)
        try:
            status, tail = _to_its_end(box, Path(log))
        finally:
            box.remove(force=True, v=True)
    if status != 0:
        raise Unavailable(f"{command.argv[0]} ended with {status} in {command.container.image}:\n{tail}")


def ensure_image(settings: DockerSettings, image: str, progress: Progress) -> None:
    """Have the image on this machine; pulled if it is not. Raises NotFound, Unavailable."""
    client = connect(settings.url)
    with docker_errors(f"image {image}"):
        if any(image in each.tags for each in client.images.list(name=image)):
            return
        for line in client.api.pull(image, stream=True, decode=True):
            progress(f"pull {image}: {line.get('status', '')}", 0.0)
        client.images.get(image)


def owner_label() -> str:
    """This process, told apart from a later one with the same pid."""
    return json.dumps([os.getpid(), psutil.Process().create_time()])


def _to_its_end(box: Box, log: Path) -> tuple[int, str]:
    box.start()
    with log.open("ab", buffering=0) as file:
        _copy(box, file)
    status = int(box.wait()["StatusCode"])
    return status, "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL:])


def _copy(box: Box, file: BinaryIO) -> None:
    for piece in box.logs(stream=True, follow=True):
        file.write(piece)


def _sweep(client: docker.DockerClient) -> None:
    for box in client.containers.list(all=True, filters={"label": OWNER}):
        pid, born = json.loads(box.labels[OWNER])
        if not _lives(int(pid), float(born)):
            box.remove(force=True, v=True)


def _lives(pid: int, born: float) -> bool:
    try:
        return abs(psutil.Process(pid).create_time() - born) < 1.0
    except psutil.Error:
        return False
