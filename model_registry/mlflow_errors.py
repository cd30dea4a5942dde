"""The border to MLflow: whether its server answers, and its errors told as ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from rollout.errors import Conflict, NotFound, Refused, RoundhouseError, Unavailable

ANSWER_S = 3.0  # how long a server may take to say that it is alive

#: MLflow's client reads these at each call. A server that does not answer is found by us first, so few retries do.
CLIENT_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


def use_quiet_client() -> None:
    """Set MLflow's client up before it is imported; what the user has set stays."""
    for name, value in CLIENT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextmanager
def border(uri: str, subject: str) -> Iterator[None]:
    """Ask the server at ``uri`` for a sign of life, then map what goes wrong inside. ``subject`` begins the message."""
    _alive(uri)
    from mlflow.exceptions import MlflowException
    from requests.exceptions import HTTPError, RequestException

    try:
        yield
    except MlflowException as error:
        raise told(subject, error.error_code, error.message) from error
    except HTTPError as error:
        code = "RESOURCE_DOES_NOT_EXIST" if error.response is not None and error.response.status_code == 404 else ""
        raise told(subject, code, str(error)) from error
    except RequestException as error:
        raise told(subject, "", str(error)) from error


def told(subject: str, code: str, message: str) -> RoundhouseError:
    """Our error for one of MLflow's, by its code; a missing alias comes as an invalid parameter."""
    text = message.split("\n")[0].removeprefix(f"{code}: ")
    match code:
        case "RESOURCE_DOES_NOT_EXIST" | "NOT_FOUND" | "ENDPOINT_NOT_FOUND":
            return NotFound(f"{subject}: {text}")
        case "INVALID_PARAMETER_VALUE" if "not found" in text:
            return NotFound(f"{subject}: {text}")
        case "RESOURCE_ALREADY_EXISTS" | "RESOURCE_CONFLICT":
            return Conflict(f"{subject}: {text}")
        case "INVALID_PARAMETER_VALUE" | "BAD_REQUEST" | "INVALID_STATE":
            return Refused("registry", subject, text, "change the value that MLflow names")
        case "PERMISSION_DENIED" | "UNAUTHENTICATED" | "CUSTOMER_UNAUTHORIZED":
            return Refused("registry", subject, text, "set MLFLOW_TRACKING_USERNAME and _PASSWORD")
    return Unavailable(f"{subject}: MLflow failed ({code or 'no code'}): {text}")


def _alive(uri: str) -> None:
    try:
        httpx.get(f"{uri}/health", timeout=ANSWER_S, trust_env=False).raise_for_status()
    except httpx.HTTPError as error:
        why = type(error).__name__
        raise Unavailable(f"MLflow at {uri} does not answer ({why}); start it with: roundhouse up") from error
