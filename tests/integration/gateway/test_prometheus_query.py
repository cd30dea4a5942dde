"""Queries and vetoes against a real Prometheus that scrapes a small exporter."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time

import httpx
import pytest
from prometheus_client import CollectorRegistry, Gauge, start_http_server

from configs.order import Order
from configs.stack import Stack
from gateway.prometheus import instant
from reports.vetoes_file import FILE, VetoFile
from rollout.errors import Refused, Unavailable
from rollout.judge import combine
from rollout.nouns import Outcome
from rollout.policy import Policy, Veto
from tasks.ticket import Ticket
from tasks.vetoes import ASK_EVERY_S, vetoes_of

PROGRAM = shutil.which("prometheus")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no program `prometheus` here (Debian: apt install prometheus)")
CONFIG = """
global: {{scrape_interval: 2s, scrape_timeout: 2s}}
scrape_configs:
  - job_name: engines
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(ready, seconds=60.0):
    """Wait for a truth."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def values(url: str, query: str) -> list[float]:
    """What Prometheus holds by now; nothing as long as it does not answer."""
    try:
        return list(instant(url, query).values())
    except Unavailable:
        return []


@pytest.fixture(scope="module")
def gauge():
    """A gauge of two GPUs of one service's version 3, and one of version 2."""
    registry = CollectorRegistry()
    gauge = Gauge("gpu_errors", "Errors of a GPU.", ("service", "version", "gpu"), registry=registry)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    gauge.port = server.server_port
    for version, gpu, value in (("3", "0", 1), ("3", "1", 4), ("2", "0", 0)):
        gauge.labels("chat", version, gpu).set(value)
    yield gauge
    server.shutdown()
    thread.join()


@pytest.fixture(scope="module")
def prometheus(gauge, tmp_path_factory):
    """The address of a real Prometheus that has scraped the gauge."""
    folder = tmp_path_factory.mktemp("prometheus")
    config, port = folder / "prometheus.yml", free_port()
    config.write_text(CONFIG.format(port=gauge.port))
    argv = [PROGRAM, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    argv += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: process.poll() is None and answers(url))
        until(lambda: len(values(url, "gpu_errors")) == 3)
        yield url
    finally:
        process.terminate()
        process.wait(20)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture
def asking(tmp_path):
    """What asks vetoes for version 3 of the service `chat`, and keeps the answers in the test's folder."""

    def begin(prometheus: str, *vetoes: Veto, environment=os.environ):
        stack, policy = Stack(project=tmp_path, home=tmp_path), Policy(vetoes=vetoes)
        order = Order(stack, None, "models:/m/1", "e", None, "p", policy, prometheus)
        return vetoes_of(order, Ticket("chat-1", "chat", 2, os.getpid()), 3, environment)

    return begin


def test_a_number_comes_as_one_value(prometheus):
    """A scalar, and a vector of one series without labels."""
    assert instant(prometheus, "scalar(sum(gpu_errors))") == {"": 5.0}
    assert instant(prometheus, "sum(gpu_errors)") == {"": 5.0}


def test_each_series_comes_with_its_labels(prometheus):
    """By label names in order, without the metric's own name."""
    found = instant(prometheus, 'gpu_errors{version="3"}')
    assert sorted(found.values()) == [1.0, 4.0]
    assert all("gpu=" in labels and "version=3" in labels and "__name__" not in labels for labels in found)


def test_no_data_is_empty_and_not_a_number_is_not_a_number(prometheus):
    """Nothing is made up of a series that does not exist, or of a share of no requests."""
    assert instant(prometheus, "nosuch_metric") == {}
    assert str(instant(prometheus, "vector(0) / vector(0)")[""]) == "nan"


@pytest.mark.parametrize(
    ("query", "word"), [("sum(", "parse error"), ("gpu_errors[1m]", "matrix"), ('"text"', "string")]
)
def test_an_expression_that_gives_no_number_is_refused(prometheus, query, word):
    """With Prometheus' own words where it has some."""
    with pytest.raises(Refused, match=word):
        instant(prometheus, query)


def test_who_does_not_answer_is_unavailable(prometheus, gauge):
    """Nobody listens; somebody else does; and no message holds the password of the address."""
    for port in (free_port(), gauge.port):
        with pytest.raises(Unavailable) as error:
            instant(f"http://me:hunter2secret@127.0.0.1:{port}", "up", timeout_s=2)
        assert f"127.0.0.1:{port}" in str(error.value) and "hunter2" not in str(error.value)


def test_a_veto_ends_a_release_by_its_worst_series(prometheus, asking, tmp_path):
    """The candidate's version is filled in; stable's series do not count."""
    query = 'gpu_errors{service="$service",version="$candidate"}'
    now = time.time()
    (finding,) = asking(prometheus, Veto("gpu errors", query, above=3))(now)
    assert finding.outcome is Outcome.ROLL_BACK and finding.candidate == 4.0 and "gpu=1" in finding.sentence
    verdict = combine((finding,))
    assert verdict.outcome is Outcome.ROLL_BACK and verdict.reason.startswith("veto gpu errors: 4 at gpu=1")
    stable = query.replace("$candidate", "$stable")
    (finding,) = asking(prometheus, Veto("gpu errors", stable, above=3))(now)
    assert finding.outcome is Outcome.PROMOTE and finding.candidate == 0.0
    kept = list(VetoFile(tmp_path / "reports" / "chat-1" / FILE))
    (highest,) = (value for value in kept[0].by_query[query].values.values() if value > 3)
    assert highest == 4.0 and kept[0].by_query[query].series == 2 and list(kept[1].by_query) == [stable]


def test_a_veto_follows_what_prometheus_scrapes(prometheus, gauge, asking):
    """It is asked anew every few seconds; a value that goes back in time ends nothing."""
    query = 'gpu_errors{service="other"}'
    gauge.labels("other", "3", "0").set(9)
    until(lambda: values(prometheus, query) == [9.0])
    ask = asking(prometheus, Veto("x", query, above=5, for_s=60))
    assert ask(0.0)[0].outcome is Outcome.UNDECIDED
    gauge.labels("other", "3", "0").set(1)
    until(lambda: values(prometheus, query) == [1.0])
    assert ask(ASK_EVERY_S / 2)[0].outcome is Outcome.UNDECIDED  # what was told stands until it is asked again
    assert ask(ASK_EVERY_S)[0].outcome is Outcome.PROMOTE
    gauge.labels("other", "3", "0").set(9)
    until(lambda: values(prometheus, query) == [9.0])
    assert [ask(at)[0].outcome for at in (100.0, 130.0, 160.0)] == [
        Outcome.UNDECIDED,
        Outcome.UNDECIDED,
        Outcome.ROLL_BACK,
    ]


def test_vetoes_without_an_answer_are_undecided_and_say_why(prometheus, asking):
    """No series, a wrong expression, nobody there, a variable that is not set: told, and nothing is raised."""
    vetoes = (Veto("empty", "nosuch_metric", above=1), Veto("wrong", "sum(", above=1))
    empty, wrong = asking(prometheus, *vetoes)(0.0)
    assert empty.outcome is wrong.outcome is Outcome.UNDECIDED
    assert "no value" in empty.sentence and "parse error" in wrong.sentence
    up = Veto("up", "max_over_time(up[1m])", below=1)  # one scrape that came late is no answer of its own
    (away,) = asking(f"http://127.0.0.1:{free_port()}", up)(0.0)
    assert away.outcome is Outcome.UNDECIDED and "does not answer" in away.sentence
    (unset,) = asking("$PROMETHEUS_URL", up, environment={})(0.0)
    assert unset.outcome is Outcome.UNDECIDED and "PROMETHEUS_URL" in unset.sentence
    (found,) = asking("$PROMETHEUS_URL", up, environment={"PROMETHEUS_URL": prometheus})(0.0)
    assert found.outcome is Outcome.PROMOTE


def test_a_policy_without_vetoes_asks_nobody(asking):
    """Nothing is looked up where nothing was asked for."""
    assert asking("http://127.0.0.1:9")(0.0) == ()
