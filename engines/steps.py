"""Runs the commands of a build, one after the other, and says in plain words why one of them failed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from engines.port import BuildPlan, Progress, Run
from rollout.command import Command, MaskedLines, revealed, secrets_of
from rollout.errors import Corrupt, RoundhouseError, Unavailable

OUT = "{out}"  # stands for the engine directory in the commands of a plan
LOG, DURATIONS = "build.log", "build.json"
_LEASH = str(Path(__file__).with_name("leash.py"))
_TAIL_LINES, _TAIL_BYTES = 12, 16_384
_GRACE_S = 5.0  # between SIGTERM and SIGKILL, when we are interrupted
_POLL_S = 0.1

_REASONS: tuple[tuple[str, type[RoundhouseError], str], ...] = (
    (r"CUDA out of memory|OutOfMemoryError|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY|\(out of memory\)",
     Unavailable, "the GPU has too little free memory; free it, or build on a larger GPU or with more of them"),
    (r"No space left on device|Disk quota exceeded", Unavailable, "no space is left on the disk; free some"),
    (r"File too large", Unavailable, "a file grew over the limit for one file (ulimit -f); raise it"),
    (r"GPU is required|no CUDA-capable device|No CUDA GPUs are available|Torch not compiled with CUDA"
     r"|NVIDIA driver on your system|CUDA driver version is insufficient|libcuda\.so",
     Unavailable, "no GPU can be used where the command ran; build on a machine with an NVIDIA GPU and driver"),
    (r"Unsupported model architecture|Invalid model type|Unsupported architecture|Unrecognized configuration class",
     Corrupt, "the model's architecture is not supported by this tool; choose another recipe or engine version"),
    (r"SafetensorError|HeaderTooLarge|MetadataIncompleteBuffer|InvalidHeaderDeserialization|Error while deserializing",
     Corrupt, "a weight file is damaged or truncated; fetch the model again"),
    (r"unrecognized arguments|No such option|invalid choice", Unavailable,
     "the installed tool does not know one of the flags: its version is not the one that was planned for"),
    (r"No module named|ModuleNotFoundError|cannot be run: No such file", Unavailable,
     "a program or Python module that the command needs is not installed"),
    (r"MemoryError|Cannot allocate memory", Unavailable, "the machine has too little memory for this step"),
)  # fmt: skip


def run_here(command: Command, log: str) -> None:
    """Run one command as a process group of its own and wait; its output is appended to the file ``log``.

    The group is ended when we are interrupted and when our process dies. Values of the environment that look secret are
    masked in the log. Raises Unavailable where the program is missing or what it needs is, Corrupt where its input is.
    """
    environment = {**os.environ, **revealed(command.env, os.environ)}
    program = shutil.which(command.argv[0], path=environment.get("PATH"))
    if program is None:
        raise Unavailable(f"{command.argv[0]} is not installed here; install it, or build in its container")
    cores = ",".join(str(core) for core in command.cores)
    with open(log, "ab") as file:
        before = file.tell()
        file.write(f"$ {shlex.join(command.argv)}\n".encode())
        file.flush()
        process = subprocess.Popen(
            (sys.executable, "-I", "-S", _LEASH, str(os.getpid()), cores, program, *command.argv[1:]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        code = _follow(process, file, secrets_of(environment))
    if code:
        raise failure(command.argv, code, tail(log, before))


def _follow(process: subprocess.Popen[bytes], file: BinaryIO, secrets: Sequence[str]) -> int:
    """Copy its output until it has ended; what is left of its group is ended in every case. Its exit status."""
    try:
        _copy(process, file, secrets)
    except BaseException:
        _signal(process, signal.SIGTERM)
        _ended(process, _GRACE_S)
        raise
    finally:
        _signal(process, signal.SIGKILL)  # before it is reaped: until then nobody else can have its number
        process.wait()
        if process.stdout:
            process.stdout.close()
    return process.returncode


def _copy(process: subprocess.Popen[bytes], file: BinaryIO, secrets: Sequence[str]) -> None:
    assert process.stdout is not None
    lines = MaskedLines(secrets)
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(_POLL_S):
                if _ended(process, 0.0):  # a child that outlives it may hold the pipe open
                    break
                continue
            chunk = os.read(process.stdout.fileno(), 65_536)
            if not chunk:  # it may have closed its output and work on
                while not _ended(process, 1.0):
                    pass
                break
            file.write(lines.more(chunk))
            file.flush()
    file.write(lines.rest())
    file.flush()


def _ended(process: subprocess.Popen[bytes], patience_s: float) -> bool:
    """Whether it has ended, waiting at most so long; it is left to be reaped."""
    until = time.monotonic() + patience_s
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if time.monotonic() >= until:
            return False
        time.sleep(0.02)
    return True


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def tail(log: str, start: int = 0) -> str:
    """The last lines that were written to a log after ``start`` (bytes)."""
    with open(log, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start, size - _TAIL_BYTES))
        text = file.read().decode("utf-8", "replace").replace("\r", "\n")
    lines = [line.rstrip() for line in text.splitlines() if line.strip() and not line.startswith("$ ")]
    return "\n".join(lines[-_TAIL_LINES:])


def failure(argv: Sequence[str], code: int, said: str) -> RoundhouseError:
    """What a failed command is called: a known reason in its output becomes a plain sentence, the rest is quoted."""
    name = Path(argv[1] if len(argv) > 1 and "python" in Path(argv[0]).name else argv[0]).name
    refused = re.search(r"^refused: (.+)$", said, re.MULTILINE)  # our own checks, which run as steps too
    if refused:
        return Corrupt(refused[1])
    for pattern, kind, reason in _REASONS:
        if re.search(pattern, said):
            return kind(f"{name} failed (exit {code}): {reason}\n{said}")
    if code == 128 + signal.SIGKILL:
        return Unavailable(f"{name} was killed (SIGKILL); most often the machine ran out of memory\n{said}")
    return Unavailable(f"{name} failed (exit {code}); its last lines:\n{said or '(none)'}")


def placed(command: Command, directory: str) -> Command:
    """The command with ``{out}`` replaced by the directory, in arguments, environment and mounts."""
    box = command.container
    if box is not None:
        mounts = tuple(
            replace(m, host=m.host.replace(OUT, directory), inside=m.inside.replace(OUT, directory)) for m in box.mounts
        )
        box = replace(box, mounts=mounts)
    argv = tuple(word.replace(OUT, directory) for word in command.argv)
    env = {name: value.replace(OUT, directory) for name, value in command.env.items()}
    return replace(command, argv=argv, env=env, container=box)


def build_in(
    plan: BuildPlan,
    directory: Path,
    progress: Progress,
    run: Run | None,
    now: Callable[[], float] = time.monotonic,
) -> None:
    """Write the plan's files into the directory and run its commands there, containers by ``run``.

    Leaves ``build.log`` and ``build.json`` (seconds of each step). The log of a failed build is kept beside the
    engines, in ``.logs``, and named in the error. Raises Unavailable, Corrupt.
    """
    log = directory / LOG
    try:
        log.touch()
        _write_files(plan.files, directory)
        seconds = {}
        for number, step in enumerate(plan.commands):
            progress(step.name, number / len(plan.commands))
            start = now()
            _run(placed(step.command, str(directory)), str(log), run)
            seconds[step.name] = round(now() - start, 3)
        (directory / DURATIONS).write_text(json.dumps({"seconds": seconds}, indent=2) + "\n", encoding="utf-8")
    except OSError as bad:
        full = bad.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        why = "no space is left on the disk; free some" if full else str(bad)
        raise Unavailable(f"the build in {directory.parent} failed: {why}{_keep(log)}") from bad
    except (Unavailable, Corrupt) as bad:
        raise type(bad)(f"{bad}{_keep(log)}") from bad


def _run(command: Command, log: str, run: Run | None) -> None:
    if command.container is None:
        run_here(command, log)
    elif run is None:
        raise Unavailable(f"{command.argv[0]} needs the container {command.container.image}, and none can be run here")
    else:
        run(command, log)


def _write_files(files: Mapping[str, str], directory: Path) -> None:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _keep(log: Path) -> str:
    """Copy the log of a build whose directory will go, as far as the disk lets us; says where it is."""
    kept = log.parent.parent / ".logs" / f"{log.parent.name.removesuffix('.building')}.log"
    try:
        kept.parent.mkdir(exist_ok=True)
        shutil.copyfile(log, kept)
    except OSError:
        return ""
    return f"\nThe whole log is in {kept}."
