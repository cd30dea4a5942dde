"""Envoy's admin interface over its unix socket: what it has in force, counted and told by itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx

from rollout.errors import Unavailable

Stats = dict[str, Any]


class Admin:
    """A client of one Envoy's admin socket. All verbs raise Unavailable where Envoy does not answer."""

    def __init__(self, socket: Path, timeout_s: float = 5.0) -> None:
        self._socket = socket
        transport = httpx.HTTPTransport(uds=str(socket))
        # Without the environment: a proxy named there would otherwise be asked for the host "admin".
        self._client = httpx.Client(transport=transport, base_url="http://admin", timeout=timeout_s, trust_env=False)

    def stats(self, names: list[str]) -> Stats:
        """The values of the named stats; a name that Envoy does not know is absent."""
        pattern = f"^({'|'.join(re.escape(name) for name in names)})$"
        listed = self._get("/stats", {"filter": pattern, "format": "json"})["stats"]
        return {entry["name"]: entry["value"] for entry in listed if "name" in entry}

    def routes(self, name: str) -> list[dict[str, Any]]:
        """The routes in force of the route configuration ``name``, as Envoy shows them (tokens redacted by it)."""
        dump = self._get("/config_dump", {"resource": "dynamic_route_configs"})
        configs = [config.get("route_config", {}) for config in dump.get("configs", [])]
        hosts = [host for config in configs if config.get("name") == name for host in config["virtual_hosts"]]
        return [route for host in hosts for route in host["routes"]]

    def hosts(self, cluster: str) -> list[dict[str, Any]]:
        """The state of each host of ``cluster``."""
        statuses = self._get("/clusters", {"format": "json"}).get("cluster_statuses", [])
        return [host for s in statuses if s["name"] == cluster for host in s.get("host_statuses", [])]

    def live(self) -> bool:
        """Whether Envoy has its configuration and listens."""
        return self._get("/server_info", {}).get("state") == "LIVE"

    def reopen_logs(self) -> None:
        """Let Envoy open its log files anew, after a rename."""
        self._send("POST", "/reopen_logs", {})

    def close(self) -> None:
        """Give the connection back."""
        self._client.close()

    def _get(self, path: str, query: dict[str, str]) -> dict[str, Any]:
        return self._send("GET", path, query).json()

    def _send(self, method: str, path: str, query: dict[str, str]) -> httpx.Response:
        try:
            answer = self._client.request(method, path, params=query)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            raise Unavailable(f"Envoy does not answer on {self._socket}: {error or type(error).__name__}") from error
        return answer
