"""A few of Envoy's own counters, for the same page as the metrics of the records."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.admin import Admin, Stats
from gateway.names import arm_of
from rollout.errors import Unavailable

#: (Envoy's name, ours, whether it only grows, what it means), one value per version.
_OF_VERSIONS = (
    ("membership_healthy", "instances_healthy", False, "Instances that pass their health checks."),
    ("membership_total", "instances", False, "Instances that the gateway knows."),
    ("upstream_rq_active", "requests_open", False, "Requests that are open now."),
    ("upstream_rq_retry", "attempts_repeated", True, "Attempts that were made again."),
    ("outlier_detection.ejections_active", "instances_ejected", False, "Instances put out for errors now."),
    ("outlier_detection.ejections_enforced_total", "ejections", True, "Ejections since the gateway's start."),
)
#: Copies beyond the bound on their number; both stand for one dropped before it was sent.
_DROPPED = ("upstream_rq_active_overflow", "upstream_rq_pending_overflow")
_CONNECTIONS = re.compile(r"http\.(?!mirror\b|admin\b)[^.]+\.downstream_(cx|rq)_active")
_COPIES = "@mirror"
_PATTERN = (
    r"^(cluster\..*@v[0-9+v]*\.("
    + "|".join(re.escape(name) for name, *_ in _OF_VERSIONS)
    + rf")|cluster\..*{_COPIES}\.({'|'.join(_DROPPED)})|http\..*\.downstream_(cx|rq)_active)$"
)


class ProxyMetrics(Collector):
    """Envoy's counters, asked for anew at each ``collect``. An Envoy that does not answer is a value, no error."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin

    def collect(self) -> Iterator[Metric]:
        """The metric families, for a registry."""
        up = "Whether Envoy's admin interface answered."
        try:
            stats = self._admin.matching(_PATTERN)
        except Unavailable:
            yield GaugeMetricFamily("roundhouse_gateway_up", up, value=0)
            return
        yield GaugeMetricFamily("roundhouse_gateway_up", up, value=1)
        yield from families(stats)


def families(stats: Stats) -> Iterator[Metric]:
    """Envoy's stats as metric families; those that it does not have are left out."""
    for kind, text in (("cx", "Open connections of clients."), ("rq", "Open requests of clients.")):
        names = [n for n in stats if (found := _CONNECTIONS.fullmatch(n)) and found.group(1) == kind]
        name = "connections" if kind == "cx" else "requests"
        yield GaugeMetricFamily(f"roundhouse_gateway_{name}_open", text, value=sum(stats[n] for n in names))
    for theirs, ours, grows, text in _OF_VERSIONS:
        family = CounterMetricFamily if grows else GaugeMetricFamily
        metric = family(f"roundhouse_version_{ours}", text, labels=("service", "version"))
        for labels, value in _by_version(stats, theirs):
            metric.add_metric(labels, value)
        yield metric
    dropped = CounterMetricFamily("roundhouse_mirror_dropped", "Copies beyond the bound.", labels=("service",))
    for service, value in _dropped(stats):
        dropped.add_metric((service,), value)
    yield dropped


def _by_version(stats: Stats, name: str) -> Iterable[tuple[tuple[str, str], float]]:
    """Sums over a version's own cluster and its arms, which count what the split sent there; hosts only of its own."""
    sums: dict[tuple[str, str], float] = {}
    for full, value in stats.items():
        cluster = full.removeprefix("cluster.").removesuffix(f".{name}")
        arm = arm_of(cluster) if full == f"cluster.{cluster}.{name}" else None
        if arm is None or ("+" in cluster and name.startswith(("membership", "outlier"))):
            continue
        key = (arm[0], str(arm[1]))
        sums[key] = sums.get(key, 0) + value
    return sums.items()


def _dropped(stats: Stats) -> Iterable[tuple[str, float]]:
    sums: dict[str, float] = {}
    for full, value in stats.items():
        cluster, dot, name = full.removeprefix("cluster.").partition(f"{_COPIES}.")
        if dot and name in _DROPPED:
            sums[cluster] = sums.get(cluster, 0) + value
    return sums.items()
