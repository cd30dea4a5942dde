"""Locust, headless, in a process of its own: start, follow second by second, end it surely, read the raw samples."""

from __future__ import annotations

import http.client
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtest.page import write_page
from loadtest.plans import checked, path_of, target, written
from loadtest.port import LoadPlan, LoadReport, LocustSettings, OnSecond
from loadtest.report import SAMPLES, SECONDS, put, read_lines, summarise, write_report
from rollout.errors import Refused, Unavailable

ROOT = Path(__file__).resolve().parent.parent
START_S = 60.0  # the longest start that is waited for; 0.6 s where nothing else runs
POLL_S = 0.05


class LocustLoadTest:
    """The load test that a release runs."""

    def __init__(self, settings: LocustSettings) -> None:
        self._settings = settings

    def run(self, plan: LoadPlan, directory: str, on_second: OnSecond) -> LoadReport:
        """Run to the end; see ``port.LoadTest``. Whatever ends this call, also an exception, ends Locust first."""
        must_answer(checked(plan))
        folder = folder_for(directory)
        log = folder / "locust.log"
        for name in (SAMPLES, SECONDS):
            (folder / name).unlink(missing_ok=True)
        put(folder / "plan.json", json.dumps(written(plan), indent=2) + "\n")
        with _locust(plan, folder, log, self._settings.nice) as process:
            _follow(process, folder / SECONDS, _longest(plan), on_second)
            if process.returncode != 0:
                raise Unavailable(f"Locust ended with {process.returncode}: {_last_lines(log)}; see {log}")
        samples, seconds = read_lines(folder / SAMPLES), read_lines(folder / SECONDS)
        report = summarise(samples, seconds, folder)
        write_report(report, plan)
        write_page(plan, report, samples, seconds)
        return report


def must_answer(plan: LoadPlan, timeout_s: float = 5.0) -> None:
    """Raises Unavailable unless an HTTP server is at the plan's URL; which status it answers does not matter."""
    parts = target(plan.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=timeout_s)
    try:
        connection.request(
            "GET", path_of(plan).removesuffix("/chat/completions").removesuffix("/completions") + "/models"
        )
        connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"nothing answers at {plan.url}: {error or type(error).__name__}") from error
    finally:
        connection.close()


def folder_for(directory: str) -> Path:
    """The results' folder, made if need be, absolute. Raises Refused where there can be none."""
    folder = Path(directory).resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(
            "directory", directory, error.strerror or "cannot be made", "name a folder to write to"
        ) from error
    return folder


@contextmanager
def _locust(plan: LoadPlan, folder: Path, log: Path, nice: int) -> Iterator[subprocess.Popen[bytes]]:
    """The process. Its standard input is the cord: if this process dies in any way, Locust sees the end of it."""
    rate = plan.users / plan.ramp_s if plan.ramp_s else plan.users
    command = ["nice", "-n", str(nice), sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest" / "locustfile.py")]
    command += ["--headless", "--only-summary", "--skip-log-setup", "--exit-code-on-error", "0"]
    command += ["-u", str(plan.users), "-r", f"{rate:g}", "--stop-timeout", str(math.ceil(plan.timeout_s) + 1)]
    command += ["--plan", str(folder / "plan.json")]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        _send_headers(process, plan.headers)
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _send_headers(process: subprocess.Popen[bytes], headers: dict[str, str]) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(headers).encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        process.wait()  # it died at once; the caller sees its exit status and its log


def _environment() -> dict[str, str]:
    """Ours, less what would steer Locust from outside; the root is where the locustfile finds this package."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "OTEL_SDK_DISABLED": "true"}


def _longest(plan: LoadPlan) -> float:
    """Seconds after which Locust cannot be well any more: start, run, open requests, and a little."""
    return START_S + plan.duration_s + plan.timeout_s + 15.0


def _follow(process: subprocess.Popen[bytes], path: Path, longest_s: float, on_second: OnSecond) -> None:
    """Hand each new line of ``path`` on until the process has ended. Raises Unavailable when it never does."""
    deadline, offset = time.monotonic() + longest_s, 0
    while True:
        over = process.poll() is not None
        offset, seconds = new_lines(path, offset)
        for second in seconds:
            on_second(second)
        if over:
            return
        if time.monotonic() > deadline:
            raise Unavailable(f"Locust did not end within {longest_s:g} s; see {path.parent / 'locust.log'}")
        time.sleep(POLL_S)


def new_lines(path: Path, offset: int) -> tuple[int, list[dict[str, float]]]:
    """The complete lines from ``offset`` on, and the offset after them. A file that is not there yet has none."""
    try:
        with path.open("rb") as lines:
            lines.seek(offset)
            data = lines.read()
    except FileNotFoundError:
        return offset, []
    whole = data[: data.rfind(b"\n") + 1]
    return offset + len(whole), [json.loads(line) for line in whole.splitlines()]


def _last_lines(log: Path, count: int = 3) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-count:]) or "no word"
