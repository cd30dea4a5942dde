"""One command to its end in a container: how builds run that need an engine's own image."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import docker
import psutil
from docker.errors import ImageNotFound
from docker.errors import NotFound as NoContainer
from docker.models.containers import Container as Box
from docker.utils import parse_repository_tag

from platforms.docker_client import arguments, connect, docker_errors
from platforms.port import DockerSettings
from rollout.command import Command, MaskedLines, masked, revealed, secrets_of
from rollout.errors import Conflict, NotFound, Refused, Unavailable

OWNER = "roundhouse.owner"
Progress = Callable[[str, float], None]
_TAIL_LINES, _TAIL_BYTES = 20, 16_384


class StepFailed(Unavailable):
    """A command that ended badly: its exit ``code``, and what it ``said`` at its end."""

    def __init__(self, command: Command, code: int, said: str) -> None:
        self.argv, self.code, self.said = command.argv, code, said
        image = command.container.image if command.container else ""
        super().__init__(f"{command.argv[0]} ended with {code} in {image}:\n{said}")


def run_in_container(settings: DockerSettings, command: Command, log: str) -> None:
    """Run it, its output appended to the file ``log``; the container is gone afterwards, however it ended.

    Values of the environment that look secret are masked in the log and in errors. Containers that a killed build left
    are ended first. Raises StepFailed, NotFound (image, mount, variable), Unavailable, Refused (no container).
    """
    if command.container is None:
        raise Refused("container", None, "this command has none", "run it as a process")
    client, secrets = connect(settings.url), secrets_of({**os.environ, **revealed(command.env, os.environ)})
    try:
        with docker_errors(command.argv[0]):
            _sweep(client)
            labels = {OWNER: owner_label()}
            asked = arguments(command.argv, command.env, command.container, command.cores, labels)
            box = client.containers.create(**asked)
            try:
                code, said = _to_its_end(box, Path(log), secrets)
            finally:
                with contextlib.suppress(NoContainer):
                    box.remove(force=True, v=True)
    except (NotFound, Conflict, Unavailable) as bad:
        raise type(bad)(masked(str(bad), secrets)) from None
    if code != 0:
        raise StepFailed(command, code, said)


def ensure_image(settings: DockerSettings, image: str, progress: Progress) -> None:
    """Have the image, named in any way that Docker takes, on this machine; pulled if it is not there.

    Raises NotFound, Unavailable (with what the registry says).
    """
    client = connect(settings.url)
    with docker_errors(f"image {image}"):
        with contextlib.suppress(ImageNotFound):
            client.images.get(image)
            return
        if image.startswith("sha256:"):
            raise NotFound(f"image {image} is not on this machine, and cannot be pulled by its id; name its repository")
        repository, tag = parse_repository_tag(image)
        for line in client.api.pull(repository, tag or "latest", stream=True, decode=True):
            if "error" in line:
                raise Unavailable(f"image {image}: Docker says {line['error']}")
            progress(f"pull {image}: {line.get('status', '')}", 0.0)
        client.images.get(image)


def owner_label() -> str:
    """This process, told apart from a later one with the same pid, and from those of other machines or containers that
    use the same Docker."""
    return json.dumps([*_here(), os.getpid(), psutil.Process().create_time()])


def _here() -> tuple[str, int]:
    """What makes a pid unique: the machine's boot and the namespace of pids."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.stat("/proc/self/ns/pid").st_ino


def _to_its_end(box: Box, log: Path, secrets: tuple[str, ...]) -> tuple[int, str]:
    """Its exit code, and the last of what it said; the log is not read again, it may be large."""
    pieces = box.attach(stream=True)  # its log would be followed without the last line where no line break ends it
    box.start()
    lines, last = MaskedLines(secrets), b""
    with log.open("ab", buffering=0) as file:
        for piece in pieces:
            text = lines.more(piece)
            file.write(text)
            last = (last + text)[-_TAIL_BYTES:]
        file.write(rest := lines.rest())
    code = int(box.wait()["StatusCode"])
    return code, "\n".join((last + rest).decode(errors="replace").splitlines()[-_TAIL_LINES:])


def _sweep(client: docker.DockerClient) -> None:
    for box in client.containers.list(all=True, filters={"label": OWNER}, ignore_removed=True):
        if is_abandoned(box.labels[OWNER]):
            with contextlib.suppress(NoContainer):  # another build may sweep as well
                box.remove(force=True, v=True)


def is_abandoned(label: str) -> bool:
    """Whether the process that this label names was of this machine and namespace, and is gone."""
    try:
        boot, namespace, pid, born = json.loads(label)
        ours = (boot, namespace) == _here()
        return ours and abs(psutil.Process(int(pid)).create_time() - float(born)) >= 1.0
    except psutil.NoSuchProcess:
        return True
    except (ValueError, TypeError, psutil.Error):
        return False
