"""What must be right before anything starts: ports, folders, keys, the parts' configuration."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from cli.parts import render, settings_text
from cli.processes import marked
from configs.environment import settings_file
from configs.stack import Stack
from platforms.on_process import write_aside
from platforms.ports import holder
from rollout.errors import Conflict, Refused

LONGEST_SOCKET = 107  # bytes of a unix socket's path, sun_path in unix(7)


@contextlib.contextmanager
def only_one(stack: Stack) -> Iterator[None]:
    """One ``up`` or ``down`` at a time. Raises Conflict."""
    stack.run.mkdir(parents=True, exist_ok=True)
    handle = os.open(stack.run / "up.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        _lock(handle, stack)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, stack: Stack) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Conflict(f"another `roundhouse up` or `down` works on {stack.home}; wait for it") from None


def require_home(stack: Stack) -> None:
    """Raises Refused when supervisord's socket would have a path too long for a socket."""
    # supervisord binds a name with its pid appended, and renames it
    if len(f"{stack.supervisor_socket}.4194304".encode()) > LONGEST_SOCKET:
        rule = f"the socket {stack.supervisor_socket} has a path that is too long"
        raise Refused("ROUNDHOUSE_HOME", str(stack.home), rule, "choose a shorter folder, for example ~/.roundhouse")


def require_ports(stack: Stack) -> None:
    """Raises Conflict for the first part whose port another program holds, naming port and holder."""
    ours = {process.pid for process in marked(stack)}
    for name in ("gateway", "agent", "prefect", "mlflow"):
        taken_by = holder(getattr(stack.ports, name), stack.host)
        if taken_by and taken_by.pid not in ours:
            fix = f"end that process, or set `ports: {name}` in configs/stack.yaml"
            raise Conflict(f"{name}: {taken_by}. Fix: {fix}.")


def prepare(stack: Stack) -> str:
    """Folders, keys and settings in place; the text of supervisord's configuration. Raises Refused."""
    require_home(stack)
    for folder in (stack.home, stack.run, stack.logs, stack.secrets, stack.home / "tmp", stack.home / "prefect"):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    for folder in (stack.logs / "instances", Path(stack.processes().include_directory), stack.cache):
        folder.mkdir(parents=True, exist_ok=True)
    key(stack, "mlflow-webhook", secrets.token_urlsafe)
    fernet = key(stack, "mlflow-fernet", lambda: base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())
    write_aside(settings_file(stack), settings_text(stack))
    return render(stack, fernet)


def key(stack: Stack, name: str, make: Callable[[], str]) -> str:
    """The secret of that name, made once and readable by the owner only."""
    path = stack.secrets / name
    if not path.exists():
        write_aside(path, make() + "\n")
    return path.read_text().strip()
