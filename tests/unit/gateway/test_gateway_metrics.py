"""Metrics out of records and out of Envoy's counters, as Prometheus reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from record_lines import line

from gateway.admin import Admin
from gateway.metrics import IDLE_S, TTFT_S, RecordMetrics
from gateway.proxy_metrics import ProxyMetrics, families

LABELS = {"door": "chat", "service": "chat", "version": "1", "kind": "live"}
GONE = {"host": "-", "attempts": "0", "usage_trailer": "-", "ttft_us": "-"}


class Watched:
    """A log, a clock and the metrics of both."""

    def __init__(self, log: Path, **settings: int) -> None:
        self.log, self.now = log, 1000.0
        self.metrics = RecordMetrics(log, lambda: self.now, **settings)
        self.registry = CollectorRegistry()
        self.registry.register(self.metrics)

    def see(self, *lines: str) -> Watched:
        """Let these lines be written and read."""
        with self.log.open("a") as f:
            f.writelines(lines)
        self.metrics.look()
        return self

    def value(self, name: str, **labels: str) -> float | None:
        """A sample's value."""
        return self.registry.get_sample_value(f"roundhouse_{name}", LABELS | labels)

    def doors(self) -> set[str]:
        """The doors that label any sample."""
        return {s.labels["door"] for m in self.registry.collect() for s in m.samples if "door" in s.labels}


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    """A log that already holds a request."""
    (tmp_path / "records.log").write_text(line())
    return Watched(tmp_path / "records.log")


def test_only_what_comes_is_counted_and_once(watched):
    """Counting begins at the end of the log and goes on from there; a line that is none is counted apart."""
    watched.see()
    assert watched.value("requests_total", code="2xx", end="ok") is None
    watched.see(line(), line(), "x\n").see(line())
    assert watched.value("requests_total", code="2xx", end="ok") == 3
    assert watched.registry.get_sample_value("roundhouse_unread_lines_total") == 1


@pytest.mark.parametrize(
    ("change", "labels"),
    [
        ({"status": "500"}, {"code": "5xx", "end": "ok"}),
        ({"flags": "UPE"}, {"code": "2xx", "end": "cut"}),
        ({"flags": "DC"}, {"code": "2xx", "end": "client_left"}),
        (GONE | {"status": "429", "flags": "RL"}, {"version": "2", "code": "4xx", "end": "ok"}),
    ],
)
def test_requests_are_told_apart_by_how_they_ended(watched, change, labels):
    """Status class and end; the version is the one that answered, else the one that was to answer."""
    assert watched.see(line(**change)).value("requests_total", **labels) == 1


def test_sums_and_times(watched):
    """Tokens, bytes, retries, and histograms in seconds."""
    watched.see(line(ttft_us="5000"), line(ttft_us="31000000", attempts="1"))
    assert (watched.value("tokens_total", direction="in"), watched.value("tokens_total", direction="out")) == (22, 14)
    assert watched.value("body_bytes_total", direction="out") == 2 * 5822
    assert watched.value("retried_requests_total") == 1
    assert watched.value("ttft_seconds_bucket", le="0.005") == 1  # a bound holds what is equal to it
    assert watched.value("ttft_seconds_bucket", le=str(TTFT_S[-1])) == 1
    assert (watched.value("ttft_seconds_count"), watched.value("ttft_seconds_sum")) == (2, 31.005)
    assert watched.value("request_seconds_bucket", le="10.0") == 2


def test_a_whole_answer_has_no_first_token(watched):
    """Its first byte comes when all is done, so it does not count there."""
    watched.see(line(content_type="application/json"))
    assert (watched.value("ttft_seconds_count"), watched.value("request_seconds_count")) == (0, 1)


def test_refusals_of_the_gateway_are_counted_by_reason(watched):
    """What the gateway itself refused; not an engine's answer of the same status."""
    watched.see(line(**GONE, status="429", flags="RL"), line(**GONE, status="401"), line(status="429"))
    assert watched.value("refused_total", version="2", reason="429") == 1
    assert watched.value("refused_total", version="2", reason="401") == 1
    assert watched.value("refused_total", reason="429") is None


def test_unknown_doors_make_no_labels(watched):
    """Requests to paths that lead nowhere are one series, whatever they ask for."""
    watched.see(*(line(**GONE, cluster="-", route="none", status="404", client=f"x{i}/y") for i in range(50)))
    assert watched.doors() == {""}


def test_series_are_bounded(tmp_path):
    """Beyond the bound, all new ones count as one more."""
    watched = Watched(tmp_path / "records.log", most=2)
    watched.see(*(line(route=f"s{i}/stable", cluster=f"s{i}@v1") for i in range(5)))
    assert watched.doors() == {"s0", "s1", "other"}
    labels = {"door": "other", "service": "other", "version": "", "code": "2xx", "end": "ok"}
    assert watched.value("requests_total", **labels) == 3


def test_what_is_gone_drops_out(watched):
    """A version without requests for long is no longer shown; one that has some stays."""
    watched.see(line(), line(host="v2.chat-v2-0"))
    watched.now += IDLE_S - 1
    watched.see(line())
    watched.now += 2
    watched.see()
    assert watched.value("requests_total", code="2xx", end="ok") == 2
    assert watched.value("requests_total", version="2", code="2xx", end="ok") is None


def test_an_envoy_that_does_not_answer_is_a_value(tmp_path):
    """The page is still made; it says that the gateway is not up."""
    registry = CollectorRegistry()
    registry.register(ProxyMetrics(Admin(tmp_path / "none.sock")))
    assert registry.get_sample_value("roundhouse_gateway_up") == 0


def test_envoys_counters_are_summed_by_version():
    """Requests over a version's own cluster and its arms, instances only of its own; copies by service."""
    stats = {
        "cluster.chat@v2.membership_healthy": 3,
        "cluster.chat@v2+v1.membership_healthy": 5,
        "cluster.chat@v2.upstream_rq_retry": 1,
        "cluster.chat@v2+v1.upstream_rq_retry": 4,
        "cluster.chat@v1+v2.upstream_rq_retry": 7,
        "cluster.chat@v2.outlier_detection.ejections_active": 1,
        "cluster.chat@mirror.upstream_rq_active_overflow": 2,
        "cluster.chat@mirror.upstream_rq_pending_overflow": 3,
        "http.gw.downstream_cx_active": 11,
        "http.mirror.downstream_cx_active": 5,
        "http.admin.downstream_rq_active": 1,
    }
    found = {(s.name, s.labels.get("version", "")): s.value for metric in families(stats) for s in metric.samples}
    assert found == {
        ("roundhouse_gateway_connections_open", ""): 11,
        ("roundhouse_gateway_requests_open", ""): 0,
        ("roundhouse_version_instances_healthy", "2"): 3,
        ("roundhouse_version_attempts_repeated_total", "2"): 5,
        ("roundhouse_version_attempts_repeated_total", "1"): 7,
        ("roundhouse_version_instances_ejected", "2"): 1,
        ("roundhouse_mirror_dropped_total", ""): 5,
    }
