"""Starts deployments and follows their runs through the Prefect server's REST interface."""

from __future__ import annotations

import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx

from configs.stack import Stack
from rollout.errors import NotFound, Refused, Unavailable

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")


@dataclass(frozen=True)
class Run:
    """A flow run: its id, state (``RUNNING``, ``COMPLETED`` ...), and the state's message."""

    id: str
    state: str
    message: str

    @property
    def ended(self) -> bool:
        return self.state in ENDED


class PrefectApi:
    """A few calls of the Prefect REST interface. ``waits_s``: before each try of a call but the first."""

    def __init__(self, stack: Stack, waits_s: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)) -> None:
        self._base, self._waits_s = stack.prefect_api, waits_s

    def start(self, flow: str, parameters: dict[str, Any]) -> Run:
        """Start the deployment ``flow/flow``. Raises NotFound, Refused (parameters), Unavailable."""
        found = self._call("GET", f"/deployments/name/{flow}/{flow}")
        if found.status_code == 404:
            raise NotFound(f"Prefect has no deployment {flow}/{flow}; `roundhouse up` deploys prefect.yaml")
        asked = {"parameters": parameters, "idempotency_key": uuid.uuid4().hex}
        answer = self._call("POST", f"/deployments/{found.json()['id']}/create_flow_run", asked)
        if answer.status_code in (409, 422):
            raise Refused("parameters", parameters, str(answer.json().get("detail")), "see `roundhouse release --help`")
        return _run(self._checked(answer))

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """What Prefect's REST API says at ``path``, read as JSON. Raises Unavailable."""
        return self._checked(self._call(method, path, body))

    def run(self, run_id: str) -> Run:
        """A run as it is now. Raises Unavailable."""
        return _run(self.ask("GET", f"/flow_runs/{run_id}"))

    def cancel(self, run_id: str) -> None:
        """Ask for a run's cancellation."""
        self._call("POST", f"/flow_runs/{run_id}/set_state", {"state": {"type": "CANCELLING"}, "force": False})

    def logs(self, run_id: str, offset: int) -> list[str]:
        """Log lines of a run from ``offset`` on."""
        body = {"logs": {"flow_run_id": {"any_": [run_id]}}, "sort": "TIMESTAMP_ASC", "offset": offset, "limit": 200}
        return [line["message"] for line in self.ask("POST", "/logs/filter", body)]

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        """Prefect says 503 while its SQLite file is locked, and means: ask again; its own client does so too.

        Nor is one slow answer the end of a release that is followed for hours. Each call here may be made twice: a
        run is started under an idempotency key.
        """
        for wait_s in self._waits_s:
            with suppress(httpx.TransportError):
                answer = self._send(method, path, body)
                if answer.status_code != 503:
                    return answer
            time.sleep(wait_s)
        try:
            return self._send(method, path, body)
        except httpx.HTTPError as error:
            raise Unavailable(f"Prefect does not answer at {self._base}: {error}; is the stack up?") from error

    def _send(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        return httpx.request(method, self._base + path, json=body, timeout=30.0, trust_env=False)

    def _checked(self, answer: httpx.Response) -> Any:
        if answer.is_error:
            raise Unavailable(
                f"Prefect answered {answer.status_code} at {answer.request.url.path}: {answer.text[:300]}"
            )
        return answer.json()


def _run(values: dict[str, Any]) -> Run:
    state = values.get("state") or {}
    return Run(values["id"], state.get("type", "SCHEDULED"), state.get("message") or "")
