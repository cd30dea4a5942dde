"""What a release records of its GPUs, asked of an agent that really answers."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from history import GOOD

from gateway.memory import MemoryGateway
from gateway.port import Cursor
from gateway.samples import Arms
from rollout.nouns import Health, Hold, Instance, Outcome, Verdict, Version
from rollout.policy import Policy
from store.port import InstanceState
from tasks.reporting import markdown
from tasks.telemetry import CandidateGpus, candidate_gpus, gpu_metrics, gpu_use, tokens_of, use_by_phase
from tasks.timing import Stopwatch
from tasks.traffic import Stretch
from tasks.trail import first_trail, read_on


@pytest.fixture
def agent():
    """Answers with what it was asked; counts."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
            self.server.asked.append(asked)
            seconds = float(asked["until"]) - float(asked["since"])
            numbers = {"seconds": seconds, "joules": 100.0, **self.server.more}
            body = json.dumps({"together": numbers}).encode()
            self.send_response(self.server.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.status, server.asked, server.more = 200, [], {}
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


def test_energy_is_told_only_where_every_gpu_was_seen(agent):
    """With one of two missing the tokens of both would stand against the energy of one."""
    agent.server.more = {"gpus": 1.0, "energy_j_per_1000_tokens": 7.0}
    assert gpu_use(agent.url, 10.0, 15.5, ("G0",), 2000)["energy_j_per_1000_tokens"] == 7.0
    assert "energy_j_per_1000_tokens" not in gpu_use(agent.url, 10.0, 15.5, ("G0", "G1"), 2000)


def instance(service, version, ordinal, *gpus):
    """As the agent wrote it down."""
    told = f"{service}-v{version}-{ordinal}"
    return InstanceState(told, service, version, ordinal, "127.0.0.1", 1, Health.READY, placement={"gpus": gpus})


def test_the_gpus_of_a_candidate_are_told_apart():
    """Those that the stress test loads, and those that other versions or services work on too."""
    ready = tuple(Instance(f"chat-v2-{n}", "chat", 2, "127.0.0.1", 1, Health.READY) for n in range(2))
    seen = [instance("chat", 2, 0, "G0", "G1"), instance("chat", 2, 1, "G2"), instance("chat", 1, 0, "G2", "G4")]
    found = candidate_gpus(seen, Version("chat", 2, "models:/m/2", "d", ready))
    assert found == CandidateGpus(("G0", "G1", "G2"), ("G0", "G1"), frozenset({"G2"}))
    assert candidate_gpus([], Version("chat", 2, "models:/m/2", "d")) == CandidateGpus((), ())


def test_a_stress_test_is_billed_for_the_instance_that_it_loads(agent):
    """And where others work on a GPU too, that is said and no energy of tokens is asked for."""
    order = SimpleNamespace(stack=SimpleNamespace(agent_url=agent.url))
    gpus = CandidateGpus(("G0", "G1"), ("G0",), frozenset({"G1"}))
    load = SimpleNamespace(tokens=500)
    use = use_by_phase(order, gpus, {"stress": (1.0, 2.0), "evidence": (3.0, 4.0)}, load, [])
    assert [(asked["gpus"], asked["tokens"]) for asked in agent.server.asked] == [("G0", "500"), ("G0,G1", "0")]
    assert "gpus_shared" not in use["stress"] and use["canary"]["gpus_shared"] == 1.0


def test_metrics_bear_the_phase_and_energy_is_told_under_load():
    """Of the stress test where there was one, else of the canary; nothing without a GPU."""
    use = {"canary": {"joules": 1.0, "energy_j_per_1000_tokens": 7.0}}
    assert gpu_metrics(use)["energy_j_per_1000_tokens"] == 7.0
    use["stress"] = {"utilisation_mean": 0.5, "energy_j_per_1000_tokens": 5.0}
    metrics = gpu_metrics(use)
    assert metrics["gpu_stress_utilisation_mean"] == 0.5 and metrics["gpu_canary_joules"] == 1.0
    assert metrics["energy_j_per_1000_tokens"] == 5.0 and gpu_metrics({}) == {}


def test_only_the_candidates_tokens_count():
    """Its GPUs made no others; an answer of unknown length counts nothing; each stage counts its own."""
    gateway = MemoryGateway()
    for version, tokens in ((1, 16), (1, 16), (2, 16), (2, None)):
        gateway.add(GOOD._replace(version=version, arm=version, tokens_out=tokens, canary_permille=500))
    trail, _ = read_on(first_trail((), Cursor(), Policy()), gateway, Arms("chat", 1, 2, False, 0.0), 100.0, 1.0)
    stretch = Stretch("canary", Verdict(Outcome.PROMOTE, "x"), Hold("x"), 1.0, trail)
    assert tokens_of([stretch] * 2) == 32


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
