"""The engine process as its clients and its keeper see it: loading, streaming, waiting, draining, dying, faults."""

import json
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from running_engine import CLIENT, RunningEngine, body, events, running_engine

from engines.llama_cpp import LlamaCpp
from engines.port import EngineSpec, Faults
from rollout.nouns import Engine

SPEC = EngineSpec(quantization="Q4_0", slots=1, context=512)


@pytest.fixture(scope="module")
def server(kind: LlamaCpp, sample: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    log = tmp_path_factory.mktemp("log") / "log"
    with running_engine(kind, sample, replace(SPEC, max_queue=1, context=4096), log) as running:
        yield running


def _gone(pid: int) -> bool:
    """Whether the process ended; a zombie that its new parent has not collected yet counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _await_gone(pids: list[int]) -> None:
    end = time.monotonic() + 20
    while not all(map(_gone, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    assert all(map(_gone, pids))


def _refused(answer: httpx.Response) -> str:
    assert answer.status_code == 503
    return str(answer.json()["error"]["message"])


def test_loading_is_reported_as_not_ready(kind: LlamaCpp, sample: Engine, tmp_path: Path) -> None:
    """Health is 503 before it is 200, and requests are refused meanwhile."""
    with running_engine(kind, sample, SPEC, tmp_path / "log", ready=False) as running:
        running.await_health(503)
        assert CLIENT.get(f"{running.base}/health").json() == {"status": "loading"}
        assert "loading" in _refused(running.complete())
        running.await_health(200)
        assert running.complete().status_code == 200


def test_answers_carry_counts_streamed_or_not(server: RunningEngine) -> None:
    """The stream's text is the answer's text, ends with [DONE], and its last event has llama.cpp's timings."""
    whole = server.complete().json()
    streamed = server.complete(stream=True)
    assert streamed.headers["content-type"] == "text/event-stream"
    assert streamed.text.endswith("data: [DONE]\n\n")
    parts = events(streamed.text)
    assert "".join(p["choices"][0]["text"] for p in parts) == whole["choices"][0]["text"]
    assert parts[-1]["timings"]["predicted_n"] == whole["usage"]["completion_tokens"] == 8


def test_other_paths_and_errors_pass_unchanged(server: RunningEngine) -> None:
    """The model's name, an unknown path, a bad body and an over-long prompt are answered by llama.cpp."""
    assert CLIENT.get(f"{server.base}/v1/models").json()["data"][0]["id"] == "smollm"
    assert CLIENT.get(f"{server.base}/nowhere").status_code == 404
    assert CLIENT.post(f"{server.base}/v1/completions", content=b"{").status_code in (400, 500)
    long = server.complete("word " * 6000)
    assert (long.status_code, long.json()["error"]["type"]) == (400, "exceed_context_size_error")


def test_metrics_are_llama_cpps_and_the_queues(server: RunningEngine, kind: LlamaCpp) -> None:
    """Each name that the engine kind maps to is there."""
    server.complete()
    assert all(server.metric(name) >= 0 for name in kind.metrics(EngineSpec())[0].names.values())
    assert server.metric("llamacpp:tokens_predicted_total") > 0


def test_a_request_beyond_the_queue_is_refused_and_a_gone_client_frees_its_slot(server: RunningEngine) -> None:
    """One at work, one waiting, the third gets 450 and when to come again; when both clients leave, their work ends.

    The waiting one leaves first: it never reached llama.cpp.
    """
    endless = body(max_tokens=5000, stream=True, ignore_eos=True)
    with CLIENT.stream("POST", f"{server.base}/v1/completions", json=endless) as first:
        chunks = first.iter_raw()
        next(chunks)
        waiting = threading.Thread(target=_give_up, args=(f"{server.base}/v1/completions", endless))
        waiting.start()
        while server.metric("roundhouse_requests_waiting") < 1 and waiting.is_alive():
            time.sleep(0.01)
        full = server.complete()
        assert (full.status_code, full.headers["retry-after"]) == (450, "1")
        why = {"message": "1 requests are waiting, the bound is 1", "type": "queue_full", "code": 450, "limit": "queue"}
        assert full.json() == {"error": why}
        waiting.join()
        assert server.metric("roundhouse_requests_waiting") == 0
    end = time.monotonic() + 20
    while server.metric("llamacpp:requests_processing") + server.metric("roundhouse_requests_running") > 0:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert server.metric("roundhouse_requests_refused_total") >= 1


def _give_up(url: str, request: dict) -> None:
    with pytest.raises(httpx.ReadTimeout), httpx.Client(timeout=3.0) as client:
        client.post(url, json={**request, "stream": False})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_open_stream_is_finished_after_the_signal(
    kind: LlamaCpp, sample: Engine, tmp_path: Path, number: signal.Signals
) -> None:
    """Health turns 503, a new request is refused with a closed connection, the stream ends with [DONE], exit 0."""
    with running_engine(kind, sample, SPEC, tmp_path / "log") as running:
        request = body(max_tokens=120, stream=True, ignore_eos=True)
        with CLIENT.stream("POST", f"{running.base}/v1/completions", json=request) as stream:
            chunks = stream.iter_text()
            text = next(chunks)
            children = running.children()
            running.process.send_signal(number)
            running.await_health(503)
            refusal = running.complete()
            assert "draining" in _refused(refusal) and refusal.headers["connection"] == "close"
            text += "".join(chunks)
        assert text.endswith("data: [DONE]\n\n")
        assert events(text)[-1]["timings"]["predicted_n"] == 120
        assert running.process.wait(20) == 0
        _await_gone(children)


def test_draining_ends_at_its_bound(kind: LlamaCpp, sample: Engine, tmp_path: Path) -> None:
    """A stream that would go on is cut when drain_s is over, and the log says so."""
    spec = replace(SPEC, drain_s=0.2, context=4096)
    with running_engine(kind, sample, spec, tmp_path / "log") as running:
        request = body(max_tokens=4000, stream=True, ignore_eos=True)
        with CLIENT.stream("POST", f"{running.base}/v1/completions", json=request) as stream:
            chunks = stream.iter_text()
            next(chunks)
            running.process.terminate()
            with pytest.raises(httpx.RemoteProtocolError):
                list(chunks)
        assert running.process.wait(20) == 0
        assert "cutting 1 requests" in running.log.read_text()


@pytest.mark.parametrize("loaded", [True, False])
def test_a_killed_engine_leaves_no_child(kind: LlamaCpp, sample: Engine, tmp_path: Path, loaded: bool) -> None:
    """SIGKILL of the front ends the process with the model, whether it was loading or serving."""
    with running_engine(kind, sample, SPEC, tmp_path / "log", ready=loaded) as running:
        if not loaded:
            running.await_health(503)
        while not (children := running.children()):
            time.sleep(0.01)
        running.process.kill()
        running.process.wait()
        _await_gone(children)


def test_the_front_ends_with_llama_cpp(kind: LlamaCpp, tiny: Engine, tmp_path: Path) -> None:
    """When the process with the model dies, the whole instance exits with 1."""
    with running_engine(kind, tiny, SPEC, tmp_path / "log") as running:
        (child,) = running.children()
        subprocess.run(["kill", "-9", str(child)], check=True)
        assert running.process.wait(20) == 1
        assert "died" in running.log.read_text()


def test_a_file_that_llama_cpp_cannot_load_ends_the_process(kind: LlamaCpp, tiny: Engine, tmp_path: Path) -> None:
    """It never gets ready and exits with 1."""
    (tmp_path / "model.gguf").write_bytes(b"GGUF nonsense")
    broken = replace(tiny, directory=str(tmp_path))
    with running_engine(kind, broken, SPEC, tmp_path / "log", ready=False) as running:
        assert running.process.wait(30) == 1


def test_a_taken_port_is_said_and_ends_the_process(kind: LlamaCpp, tiny: Engine, tmp_path: Path) -> None:
    """A second instance on the same port exits with 1 and names the port."""
    with running_engine(kind, tiny, SPEC, tmp_path / "log") as running:
        port = int(running.base.rpartition(":")[2])
        command = kind.serve_command(tiny, SPEC, "127.0.0.1", port)
        second = subprocess.run(command.argv, capture_output=True, text=True, timeout=30)
        assert second.returncode == 1 and str(port) in second.stdout


def _faulty(kind: LlamaCpp, engine: Engine, log: Path, faults: Faults):
    return running_engine(kind, engine, replace(SPEC, faults=faults), log)


def test_an_erring_engine_answers_500(kind: LlamaCpp, tiny: Engine, tmp_path: Path) -> None:
    """All requests fail at a rate of 1, health does not, and the log warns."""
    with _faulty(kind, tiny, tmp_path / "log", Faults(error_rate=1.0)) as running:
        answer = running.complete()
        assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
        assert "DELIBERATE FAULTS ARE ON: error_rate=1.0" in running.log.read_text()


def test_a_cutting_engine_ends_streams_without_done(kind: LlamaCpp, tiny: Engine, tmp_path: Path) -> None:
    """The client sees a broken connection after a few events; answers that are not streamed are whole."""
    with _faulty(kind, tiny, tmp_path / "log", Faults(cut_rate=1.0)) as running:
        request, text = body(stream=True, max_tokens=50, ignore_eos=True), ""
        with CLIENT.stream("POST", f"{running.base}/v1/completions", json=request) as stream:
            with pytest.raises(httpx.RemoteProtocolError):
                for chunk in stream.iter_text():
                    text += chunk
        assert 1 <= len(events(text)) <= 3 and "[DONE]" not in text
        assert running.complete().status_code == 200


def test_a_slow_engine_is_slow_by_what_was_asked(kind: LlamaCpp, tiny: Engine, tmp_path: Path) -> None:
    """The first byte comes after the delay, and a stream of 10 tokens takes at least 10 delays more, complete."""
    with _faulty(kind, tiny, tmp_path / "log", Faults(ttft_delay_s=0.4, token_delay_s=0.05)) as running:
        request = body(stream=True, max_tokens=10, ignore_eos=True)
        start = time.monotonic()
        with CLIENT.stream("POST", f"{running.base}/v1/completions", json=request) as stream:
            chunks = stream.iter_text()
            text = next(chunks)
            first = time.monotonic()
            text += "".join(chunks)
        assert first - start >= 0.4 and time.monotonic() - start >= 0.9
        assert text.endswith("data: [DONE]\n\n") and events(text)[-1]["timings"]["predicted_n"] == 10


def _first_and_last(running: RunningEngine, prompt: str) -> tuple[float, float]:
    """Seconds from asking to the first event of a stream of 12 tokens, and from there to its end."""
    request = body(prompt, stream=True, max_tokens=12, ignore_eos=True)
    start = time.monotonic()
    with CLIENT.stream("POST", f"{running.base}/v1/completions", json=request) as stream:
        chunks = stream.iter_text()
        next(chunks)
        first = time.monotonic()
        list(chunks)
    return first - start, time.monotonic() - first


def test_a_stretch_follows_what_the_engine_takes(kind: LlamaCpp, sample: Engine, tmp_path: Path) -> None:
    """Three times the wait for the first token and twice the time per token, against the same engine without."""
    faults = Faults(ttft_stretch=2.0, token_stretch=1.0)
    with (
        running_engine(kind, sample, SPEC, tmp_path / "sound") as sound,
        _faulty(kind, sample, tmp_path / "slow", faults) as slow,
    ):
        pairs = [[_first_and_last(e, f"{n}: {'word ' * 40}") for e in (sound, slow)] for n in range(7)]
    for part, least, most in ((0, 2.0, 4.5), (1, 1.5, 3.0)):
        ratio = statistics.median(slow[part] / sound[part] for sound, slow in pairs)
        assert least < ratio < most


def test_an_engine_that_works_for_short_prompts_only(kind: LlamaCpp, tiny: Engine, tmp_path: Path) -> None:
    """A body over the bound is answered 500, one below it is answered."""
    with _faulty(kind, tiny, tmp_path / "log", Faults(longest_prompt_bytes=200)) as running:
        assert running.complete("a" * 20).status_code == 200
        assert running.complete("a" * 200).status_code == 500


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_answers_nothing_or_nonsense(kind: LlamaCpp, tiny: Engine, tmp_path: Path, stream: bool) -> None:
    """Status 200 and the right content type, with no body or with one that is no JSON."""
    with (
        _faulty(kind, tiny, tmp_path / "empty", Faults(empty_rate=1)) as empty,
        _faulty(kind, tiny, tmp_path / "malformed", Faults(malformed_rate=1)) as malformed,
    ):
        nothing, nonsense = (e.complete(stream=stream) for e in (empty, malformed))
    assert nothing.status_code == nonsense.status_code == 200 and nothing.content == b""
    expected = "text/event-stream" if stream else "application/json"
    assert all(a.headers["content-type"].startswith(expected) for a in (nothing, nonsense))
    with pytest.raises(ValueError):
        json.loads(nonsense.text.removeprefix("data: "))


def test_a_hanging_engine_never_answers(kind: LlamaCpp, tiny: Engine, tmp_path: Path) -> None:
    """The client gives up, which frees the slot; health is fine all the time."""
    with _faulty(kind, tiny, tmp_path / "log", Faults(hang_rate=1)) as running:
        with pytest.raises(httpx.ReadTimeout), httpx.Client(timeout=1.0) as client:
            client.post(f"{running.base}/v1/completions", json=body())
        assert running.health() == 200
        end = time.monotonic() + 10
        while running.metric("roundhouse_requests_running") and time.monotonic() < end:
            time.sleep(0.02)
        assert running.metric("roundhouse_requests_running") == 0


def test_no_prompt_reaches_the_log(server: RunningEngine) -> None:
    """What users write stays out of the log."""
    server.complete("The secret word is xyzzyplugh")
    assert "xyzzyplugh" not in server.log.read_text()
