"""The variables that every process of the stack runs with. Pure: a stack in, a mapping out."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from configs.stack import Stack

#: every process of a stack carries its home under this name, so that none is ever lost
MARK = "ROUNDHOUSE_PART_OF"
#: settings of somebody else's Prefect or MLflow in the caller's shell must not reach ours
FOREIGN = ("PREFECT_", "MLFLOW_", "_MLFLOW_", "SUPERVISOR_")


def settings_file(stack: Stack) -> Path:
    """Where ``up`` writes the settings in force, for the agent and the flows to read."""
    return stack.run / "stack.json"


def stack_environment(stack: Stack) -> dict[str, str]:
    """Our variables: who belongs to the stack, where things lie, no telemetry, Prefect tuned for SQLite."""
    return _belonging(stack) | _quiet(stack) | _prefect(stack)


def process_environment(stack: Stack, inherited: Mapping[str, str]) -> dict[str, str]:
    """The caller's variables without foreign settings, ours on top, and this interpreter's programs first on PATH."""
    kept = {name: value for name, value in inherited.items() if not name.startswith(FOREIGN)}
    programs = str(Path(sys.executable).parent)
    path = [programs, *(p for p in inherited.get("PATH", os.defpath).split(os.pathsep) if p != programs)]
    return kept | stack_environment(stack) | {"PATH": os.pathsep.join(path)}


def _belonging(stack: Stack) -> dict[str, str]:
    return {
        MARK: str(stack.home),
        "ROUNDHOUSE_HOME": str(stack.home),
        "ROUNDHOUSE_PROJECT": str(stack.project),
        "ROUNDHOUSE_CACHE": str(stack.cache),
        "ROUNDHOUSE_STACK": str(settings_file(stack)),
        "MLFLOW_TRACKING_URI": stack.mlflow_url,
        "TMPDIR": str(stack.home / "tmp"),
    }


def _quiet(stack: Stack) -> dict[str, str]:
    """No telemetry (each name checked in its project's source), nothing written outside home, little memory."""
    return {
        "DO_NOT_TRACK": "true",  # MLflow heeds exactly "true"; Prefect 1, true and yes
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(stack.cache / "dvc"),
        "MPLCONFIGDIR": str(stack.cache / "matplotlib"),
        "GIT_PYTHON_REFRESH": "quiet",
        "MALLOC_ARENA_MAX": "2",
        "PYTHONUNBUFFERED": "1",
    }


def _prefect(stack: Stack) -> dict[str, str]:
    home = stack.home / "prefect"
    recorder = "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER"
    return {
        "PREFECT_HOME": str(home),
        "PREFECT_PROFILES_PATH": str(home / "profiles.toml"),
        "PREFECT_API_URL": stack.prefect_api,
        "PREFECT_SERVER_API_HOST": stack.host,
        "PREFECT_SERVER_API_PORT": str(stack.ports.prefect),
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_CLI_COLORS": "false",
        # SQLite has one writer: many small writes make the next flow run wait (PrefectHQ/prefect#18934)
        f"{recorder}_READ_BATCH_SIZE": "200",
        f"{recorder}_BATCH_SIZE": "200",
        f"{recorder}_FLUSH_INTERVAL": "1",
        # kept in memory, a lease outlives its holder when the server restarts, and locks the service
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_WORKER_QUERY_SECONDS": "0.5",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    }
