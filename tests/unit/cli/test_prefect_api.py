"""Prefect's interface, asked again where it stumbles."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cli.prefect_api import PrefectApi
from configs.stack import Ports, Stack
from rollout.errors import Unavailable


class Stumbling(BaseHTTPRequestHandler):
    """Plays the faults in ``faults`` one after the other, a status or a lost connection, and then answers."""

    faults: list[int | None]
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        status = self.faults.pop(0) if self.faults else 200
        if status is None:
            self.close_connection = True
            return
        body = json.dumps({"id": "r", "state": {"type": "RUNNING"}}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    """A server on a free port."""
    Stumbling.faults, Stumbling.asked = [], []
    with ThreadingHTTPServer(("127.0.0.1", 0), Stumbling) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def api(server: ThreadingHTTPServer, tmp_path: Path) -> PrefectApi:
    """The interface at that server; the waits between tries are short."""
    return PrefectApi(Stack(project=tmp_path, home=tmp_path, ports=Ports(prefect=server.server_port)), (0.01, 0.01))


@pytest.mark.parametrize("fault", [503, None], ids=["locked", "connection lost"])
def test_a_stumble_is_asked_again(api: PrefectApi, fault: int | None) -> None:
    """A locked database and a lost answer end nothing."""
    Stumbling.faults = [fault, fault]
    assert api.run("r").state == "RUNNING"
    assert len(Stumbling.asked) == 3


@pytest.mark.parametrize("fault", [503, None], ids=["locked", "connection lost"])
def test_what_stays_is_told(api: PrefectApi, fault: int | None) -> None:
    """After the last try the error names the address."""
    Stumbling.faults = [fault] * 9
    with pytest.raises(Unavailable, match="/flow_runs/r" if fault else "127.0.0.1"):
        api.run("r")
    assert len(Stumbling.asked) == 3


def test_another_error_is_not_asked_again(api: PrefectApi) -> None:
    """What the server refuses, it refuses the second time too."""
    Stumbling.faults = [404]
    with pytest.raises(Unavailable, match="404"):
        api.run("r")
    assert len(Stumbling.asked) == 1
