"""The page that Prometheus reads, through the agent's own application."""

from __future__ import annotations

import threading

from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from agent.app import make_app
from agent.metrics_page import metrics_page
from agent.parts import this_machine
from agent.telemetry import GpuWatch
from gateway.port import EnvoySettings
from gateway.record_line import COLUMNS
from store.port import StoreSettings, open_store

LINE = "1795348406.272 L - chat/stable chat@v1 v1.chat-v1-0 200 - 1 2 3 4000 5000 5 - - chat/a 11,7 - text/event-stream"


def test_the_page_counts_each_request_once(tmp_path):
    """Requests since the agent's start; asked by several at once, none is counted twice."""
    (tmp_path / "run").mkdir()
    log = tmp_path / "run" / "records.log"
    log.write_text("")
    store = open_store(StoreSettings("sqlite://"))
    page = metrics_page(EnvoySettings(str(tmp_path)))
    app = make_app(store, "secret", [].append, lambda: True, page, dict, GpuWatch(this_machine))
    line = "\t".join(LINE.split(" ")) + "\n"
    assert line.count("\t") == len(COLUMNS) - 1
    log.write_text(line * 1000)
    with TestClient(app) as client:
        readers = [threading.Thread(target=client.get, args=("/metrics",)) for _ in range(4)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        page = client.get("/metrics")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/plain")
    metrics = {m.name: m for m in text_string_to_metric_families(page.text)}
    (requests,) = (s for s in metrics["roundhouse_requests"].samples if s.name.endswith("_total"))
    assert (requests.value, requests.labels["version"]) == (1000, "1")
    assert metrics["roundhouse_gateway_up"].samples[0].value == 0
