"""The page that Prometheus reads: metrics of the records and of Envoy, made when it is asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from gateway.admin import Admin
from gateway.metrics import RecordMetrics
from gateway.port import EnvoySettings
from gateway.proxy_metrics import ProxyMetrics
from gateway.render import Layout

CONTENT_TYPE = CONTENT_TYPE_LATEST


def metrics_page(settings: EnvoySettings, *more: Collector) -> Callable[[], bytes]:
    """What makes the page, with ``more`` collectors on it. It reads the records on from where they end now; a stack
    that nobody asks costs nothing."""
    layout, lock, registry = Layout.of(settings), threading.Lock(), CollectorRegistry()
    records = RecordMetrics(layout.records)
    registry.register(records)
    for collector in (ProxyMetrics(Admin(layout.admin)), *more):
        registry.register(collector)

    def page() -> bytes:
        with lock:  # two readers at once would count the same records twice
            records.look()
            return generate_latest(registry)

    return page
