"""Envoy's admin interface over its unix socket: what it has in force, counted and told by itself."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import httpx

from rollout.errors import Unavailable

Stats = dict[str, Any]


class Admin:
    """A client of one Envoy's admin socket. All verbs raise Unavailable where Envoy does not answer.

    Where the socket is a link, each request goes to whom it leads then: no connection stays with an Envoy that was
    relieved.
    """

    def __init__(self, socket: Path, timeout_s: float = 5.0) -> None:
        self._socket, self._timeout_s = socket, timeout_s
        self._target, self._client = _target(socket), self._connected()

    def stats(self, names: list[str]) -> Stats:
        """The values of the named stats; a name that Envoy does not know is absent."""
        return self.matching(f"^({'|'.join(re.escape(name) for name in names)})$")

    def matching(self, pattern: str) -> Stats:
        """The values of all stats whose names match a regular expression (RE2)."""
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
        """Whether Envoy has its configuration and works."""
        return self.server().get("state") == "LIVE"

    def server(self) -> dict[str, Any]:
        """Envoy of itself: version, state, uptimes, command line."""
        return self._get("/server_info", {})

    def drain(self) -> None:
        """From now on answers tell clients to leave (``connection: close``, GOAWAY), more of them over the drain time.

        Ports stay open.
        """
        self._send("POST", "/drain_listeners", {"graceful": "", "skip_exit": ""})

    def close_ports(self) -> None:
        """Stop listening; open connections stay. What waits in a port's queue is reset."""
        self._send("POST", "/drain_listeners", {"inboundonly": ""})

    def reopen_logs(self) -> None:
        """Let Envoy open its log files anew, after a rename."""
        self._send("POST", "/reopen_logs", {})

    def close(self) -> None:
        """Give the connection back."""
        self._client.close()

    def _connected(self) -> httpx.Client:
        # Nothing is encrypted on a unix socket, so no authorities are loaded (20 ms). Without the environment: a proxy
        # named there would otherwise be asked for the host "admin".
        transport = httpx.HTTPTransport(uds=str(self._socket), verify=False)
        return httpx.Client(transport=transport, base_url="http://admin", timeout=self._timeout_s, trust_env=False)

    def _get(self, path: str, query: dict[str, str]) -> dict[str, Any]:
        return self._send("GET", path, query).json()

    def _send(self, method: str, path: str, query: dict[str, str]) -> httpx.Response:
        now = _target(self._socket)
        if now != self._target:
            self._client.close()
            self._target, self._client = now, self._connected()
        try:
            answer = self._client.request(method, path, params=query)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            raise Unavailable(f"Envoy does not answer on {self._socket}: {error or type(error).__name__}") from error
        return answer


def is_live(admin: Admin) -> bool:
    """Whether an Envoy answers there and works; no Envoy is no error."""
    try:
        return admin.live()
    except Unavailable:
        return False


@cache
def admin_at(socket: Path) -> Admin:
    """The client of a socket that this process shares."""
    return Admin(socket)


def _target(socket: Path) -> str:
    """What a link leads to now; nothing for a socket itself and where there is none."""
    try:
        return os.readlink(socket)
    except OSError:
        return ""
