"""MLflow's webhook as MLflow really sends it."""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from model_samples import tiny_gguf
from running_mlflow import Server

from model_registry.mlflow_registry import MlflowRegistry
from model_registry.port import MlflowSettings
from model_registry.webhook import Promotion, Rejected, verify
from rollout.errors import Refused

SECRET = "a shared secret"
Delivery = tuple[dict[str, str], bytes]


def quiet(what: str, share: float) -> None:
    """Nobody waits for it."""


@pytest.fixture
def receiver() -> Iterator[tuple[str, queue.Queue[Delivery]]]:
    """A server that takes any POST; its address, and what it got."""
    got: queue.Queue[Delivery] = queue.Queue()

    class Take(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.put((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(202)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *said: object) -> None:
            """Not into the test's output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Take)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook", got
    server.shutdown()
    server.server_close()


@pytest.fixture
def registry(mlflow: Server, tmp_path: Path) -> MlflowRegistry:
    return MlflowRegistry(MlflowSettings(mlflow.uri, str(tmp_path / "cache")))


def test_setting_an_alias_sends_a_promotion(
    registry: MlflowRegistry, receiver: tuple[str, queue.Queue[Delivery]], tmp_path: Path
) -> None:
    """Registering and tagging say nothing; the alias does, signed with our secret and readable by nobody else's."""
    url, got = receiver
    registry.ensure_webhook(url, SECRET)
    name = f"m-{uuid.uuid4().hex[:8]}"
    registry.register(name, str(tiny_gguf(tmp_path / "tiny" / "t.gguf").parent), "a test", quiet)
    registry.tag(name, "1", {"k": "v"})
    time.sleep(1.1)  # the server's own cache of webhooks
    registry.set_alias(name, "candidate", "1")
    headers, body = got.get(timeout=30)
    promotion = verify(headers, body, SECRET, time.time())
    assert isinstance(promotion, Promotion)
    assert (promotion.name, promotion.alias, promotion.version) == (name, "candidate", "1")
    assert verify(headers, body, "another secret", time.time()) == Rejected(401, "the signature does not fit")
    assert got.empty()


def test_a_webhook_is_made_once(registry: MlflowRegistry) -> None:
    """Asking again with another address changes the one that is there."""
    first = registry.ensure_webhook("http://127.0.0.1:9/a", SECRET)
    assert registry.ensure_webhook("http://127.0.0.1:9/b", SECRET) == first
    assert [w.url for w in registry.client.list_webhooks()] == ["http://127.0.0.1:9/b"]


def test_an_address_that_mlflow_may_not_call_is_refused(registry: MlflowRegistry) -> None:
    """What MLflow says against an address is passed on."""
    with pytest.raises(Refused, match="scheme"):
        registry.ensure_webhook("ftp://127.0.0.1/hook", SECRET)
