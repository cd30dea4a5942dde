"""What a release records of its GPUs, asked of an agent that really answers."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from rollout.nouns import Outcome, Sample, Samples, Verdict
from tasks.reporting import markdown
from tasks.telemetry import gpu_metrics, gpu_use, tokens_of
from tasks.timing import Stopwatch
from tasks.traffic import Stretch


@pytest.fixture
def agent():
    """Answers with what it was asked; counts."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
            self.server.asked.append(asked)
            seconds = float(asked["until"]) - float(asked["since"])
            body = json.dumps({"together": {"seconds": seconds, "joules": 100.0}}).encode()
            self.send_response(self.server.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.status, server.asked = 200, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}", server=server)
    server.shutdown()
    server.server_close()


def test_a_stretch_is_asked_for_by_gpu_and_a_cpu_engine_asks_nothing(agent):
    """Without a GPU there is nothing to record and nobody to ask."""
    assert gpu_use(agent.url, 10.0, 15.5, ("G0", "G1"), 2000) == {"seconds": 5.5, "joules": 100.0}
    assert agent.server.asked == [{"since": "10.0", "until": "15.5", "gpus": "G0,G1", "tokens": "2000"}]
    assert gpu_use(agent.url, 10.0, 15.5, ()) == {} and len(agent.server.asked) == 1
    agent.server.status = 500
    with pytest.raises(httpx.HTTPStatusError):
        gpu_use(agent.url, 0.0, 1.0, ("G0",))


def test_metrics_bear_the_phase_and_energy_is_told_under_load():
    """Of the stress test where there was one, else of the canary; nothing without a GPU."""
    use = {"canary": {"joules": 1.0, "energy_j_per_1000_tokens": 7.0}}
    assert gpu_metrics(use)["energy_j_per_1000_tokens"] == 7.0
    use["stress"] = {"utilisation_mean": 0.5, "energy_j_per_1000_tokens": 5.0}
    metrics = gpu_metrics(use)
    assert metrics["gpu_stress_utilisation_mean"] == 0.5 and metrics["gpu_canary_joules"] == 1.0
    assert metrics["energy_j_per_1000_tokens"] == 5.0 and gpu_metrics({}) == {}


def test_only_the_candidates_tokens_count():
    """Its GPUs made no others; an answer of unknown length counts nothing."""
    sample = Sample(1.0, 2, False, False, 0.1, 0.2, 16)
    seen = Samples((sample, sample, sample), (sample, sample._replace(tokens_out=None)))
    assert tokens_of([Stretch("canary", Verdict(Outcome.PROMOTE, "x"), 1.0, (), seen)] * 2) == 32


def test_a_part_that_runs_several_times_spans_from_the_first_to_the_last():
    """In the time of day, beside the seconds of a clock that does not step."""
    clock, dates = iter(range(100)), iter(range(1000, 1100))
    watch = Stopwatch(lambda: next(clock), lambda: next(dates))
    for name in ("stress", "evidence", "evidence"):
        watch(name, lambda: None)()
    assert watch.spans() == {"stress": (1000, 1001), "evidence": (1002, 1005)}
    assert watch.seconds()["evidence"] == 2


def test_the_page_of_a_release_has_a_table_of_gpus_only_where_there_are_any():
    """One column a phase."""
    evidence = {
        "service": "chat",
        "outcome": "promoted",
        "reason": "good",
        "model": "m",
        "engine": {"digest": "d" * 64},
        "candidate": 2,
        "stable": 1,
        "policy": "p",
        "release": "r",
        "findings": [],
        "seconds": {"total": 1.0},
    }
    assert "GPU" not in markdown(evidence)
    page = markdown({**evidence, "gpu": {"stress": {"joules": 12.0}, "canary": {"watts_mean": 3.5}}})
    assert "| GPU | stress | canary |\n|---|---|---|\n| joules | 12 |  |\n| watts_mean |  | 3.5 |\n" in page
