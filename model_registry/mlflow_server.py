"""How to run MLflow's server in little memory: one process, no job runner, no telemetry, SQLite.

``mlflow server`` keeps its command line's process (about 210 MiB) as the parent of the one that serves. Here uvicorn
runs MLflow's application itself, told by the variables that the command line would have set. They are MLflow's own
(``mlflow/server/constants.py``) and not promised to stay: a test compares them with the pinned version.
"""

from __future__ import annotations

import sys
from pathlib import Path

APPLICATION = "mlflow.server.fastapi_app:app"


def mlflow_server(home: Path, host: str, port: int, webhook_key: str) -> tuple[list[str], dict[str, str]]:
    """The command and the environment to add. Makes the folders ``home/artifacts`` and ``home/tmp``.

    ``webhook_key`` (``Fernet.generate_key()``, 32 url-safe base64 bytes) encrypts the webhooks' secrets in the
    database: keep it, with another one they cannot be read. The receiver of our webhook is on loopback, so the
    server's guard against calls to private addresses is off: whoever may write webhooks may make it call this machine.
    """
    home = home.resolve()
    for folder in (home / "artifacts", home / "tmp"):
        folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "uvicorn", APPLICATION, "--host", host, "--port", str(port)]
    options = ["--workers", "1", "--no-access-log", "--timeout-graceful-shutdown", "5"]
    return command + options, {**_where(home), **_webhooks(webhook_key), **_lean(home)}


def _where(home: Path) -> dict[str, str]:
    store = f"sqlite:///{home / 'mlflow.db'}"
    return {
        "_MLFLOW_SERVER_FILE_STORE": store,
        "_MLFLOW_SERVER_REGISTRY_STORE": store,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(home / "artifacts"),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SGI_NAME": "uvicorn",
    }


def _webhooks(key: str) -> dict[str, str]:
    return {
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": key,
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_CACHE_TTL": "1",  # seconds until a changed webhook is used
    }


def _lean(home: Path) -> dict[str, str]:
    return {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "GIT_PYTHON_REFRESH": "quiet",
        "MALLOC_ARENA_MAX": "2",
        "TMPDIR": str(home / "tmp"),  # uploads pass through it, and the database's lock file stays in it
    }
