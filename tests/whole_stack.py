"""A whole stack for the tests that need one: up once a session, on free ports, in a folder of its own."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from cli.processes import end, marked
from cli.stack import down, up
from configs.stack import Ports, Stack, project_directory
from platforms.ports import is_free

ENGINES = 20
T = TypeVar("T")


def free_ports() -> Ports:
    """Ports in a row that nobody holds, below those that the system gives to clients."""
    while True:
        first = random.randrange(20000, 32000)
        if all(is_free(port) for port in range(first, first + 4 + ENGINES)):
            parts = dict(zip(("gateway", "agent", "prefect", "mlflow"), range(first, first + 4), strict=True))
            return Ports(**parts, engines_from=first + 4, engines_to=first + 3 + ENGINES)


def project_of_links(folder: Path) -> Path:
    """A project in ``folder``: the checkout by links, but with folders of configs that tests may write into."""
    here = project_directory()
    (folder / "configs").mkdir(parents=True)
    for path in (*here.iterdir(), *(here / "configs").iterdir()):
        if path.name in (".roundhouse", "__pycache__", "configs"):
            continue
        copy = folder / path.relative_to(here)
        if path.is_dir() and path.parent != here:
            shutil.copytree(path, copy)
        else:
            copy.symlink_to(path)
    return folder


def silent(step: str, state: str) -> None:
    """Nobody watches."""


def until(holds: Callable[[], T], within_s: float, what: str) -> T:
    """What ``holds`` returns once it is true; a failed test after ``within_s`` seconds."""
    deadline = time.monotonic() + within_s
    while not (found := holds()):
        assert time.monotonic() < deadline, f"{what} did not come about within {within_s:g} s"
        time.sleep(0.1)
    return found


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Every part ready. A test that ends a part brings it back with ``up``."""
    home = Path(tempfile.mkdtemp(prefix="rh-", dir="/tmp"))
    stack = Stack(project=project_of_links(home / "project"), home=home, ports=free_ports())
    try:
        up(stack, silent)
        yield stack
        down(stack, silent)
        assert not marked(stack), "the stack left processes behind"
    finally:
        end(marked(stack), grace_s=1.0)
        shutil.rmtree(home, ignore_errors=True)
