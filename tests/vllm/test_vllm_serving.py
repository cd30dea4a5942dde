"""One vLLM server: ready, counted, full, drained."""

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from running_engine import CLIENT, events
from running_vllm import FIRST, RunningVllm, asked, serving

from engines.port import Placement
from engines.sizing.memory import VLLM_CPU_BLOCK
from engines.vllm.engine import Vllm
from engines.vllm.serve import METRICS
from engines.warm_up import read_requests
from rollout.nouns import Engine

_SPECULATION = {"spec_drafted_total", "spec_accepted_total"}


def test_it_answers_by_its_name_and_for_its_context(one_rank: RunningVllm, engine: Engine) -> None:
    """/v1/models tells both; another name is not served."""
    (told,) = CLIENT.get(f"{one_rank.base}/v1/models").json()["data"]
    assert (told["id"], told["max_model_len"]) == ("smollm2", FIRST.context)
    assert one_rank.complete(model="another").status_code == 404


def test_every_warm_up_request_is_answered(one_rank: RunningVllm, engine: Engine) -> None:
    """Those that a build wrote fit the context and are greedy."""
    requests = read_requests(engine.directory, FIRST.context)
    assert len(requests) >= 3
    for request in requests:
        path, content = request.sent_as("smollm2")
        assert CLIENT.post(one_rank.base + path, json=content).status_code == 200


def test_tokens_are_counted_in_answers_and_in_streams_that_ask(one_rank: RunningVllm) -> None:
    """``usage`` is read off answers; a prompt that was seen before is said to be cached."""
    prompt = "word " * 300
    first, again = (one_rank.complete(prompt, model="smollm2", max_tokens=3).json()["usage"] for _ in range(2))
    assert first["completion_tokens"] == 3 and first["prompt_tokens"] >= 300
    assert again["prompt_tokens_details"]["cached_tokens"] == 256  # whole blocks of 128
    streamed = asked(prompt, max_tokens=3, stream=True, stream_options={"include_usage": True})
    told = events(CLIENT.post(f"{one_rank.base}/v1/completions", json=streamed).text)[-1]["usage"]
    assert told["completion_tokens"] == 3 and told["prompt_tokens"] == first["prompt_tokens"]


def test_more_than_the_queue_takes_is_refused(one_rank: RunningVllm) -> None:
    """Two slots and one that waits; the fourth gets 503 at once, and is counted."""
    before = sum(value for _, value in one_rank.samples().get(METRICS["requests_refused_total"], []))
    long = asked("Once upon a time", max_tokens=400, ignore_eos=True, stream=True)
    with ExitStack() as open_streams:
        for _ in range(FIRST.slots + FIRST.max_queue):
            stream = open_streams.enter_context(CLIENT.stream("POST", f"{one_rank.base}/v1/completions", json=long))
            assert stream.status_code == 200
        refused = one_rank.complete(model="smollm2", max_tokens=1)
        gauges = ("requests_running", "requests_waiting")
        until = time.monotonic() + 10.0  # they follow when a step is done
        while (seen := [one_rank.samples()[METRICS[name]][0][1] for name in gauges]) != [FIRST.slots, FIRST.max_queue]:
            assert time.monotonic() < until, seen
            time.sleep(0.05)
    assert refused.status_code == 503
    assert sum(value for _, value in one_rank.samples()[METRICS["requests_refused_total"]]) == before + 1


def test_each_name_of_ours_is_one_of_its_numbers(one_rank: RunningVllm, greedy: list[str]) -> None:
    """Counters and gauges by their own name, histograms by their count."""
    there = one_rank.samples()
    missing = {n for n, theirs in METRICS.items() if theirs not in there and f"{theirs}_count" not in there}
    assert greedy and missing - {"requests_refused_total"} == _SPECULATION


def test_after_sigterm_it_finishes_what_is_open(kind: Vllm, engine: Engine, tmp_path: Path) -> None:
    """An open stream ends whole; meanwhile health still says 200 and new requests fail: so it must be out of rotation
    before. Keys and values in 16 bits have the room that was reckoned; threads were bound to the processors that it was
    given; its ranks end with it."""
    spec = replace(FIRST, dtype="bfloat16", context=1024, slots=3)
    with serving(kind, engine, spec, tmp_path / "log", Placement(cores=(0, 1))) as running:
        assert "local_rank=0, core ids=[0, 1]" in running.log.read_text()
        assert running.kv_tokens() == (spec.slots * spec.context + VLLM_CPU_BLOCK,) * 2
        long = asked("Once upon a time", max_tokens=300, ignore_eos=True, stream=True)
        with CLIENT.stream("POST", f"{running.base}/v1/completions", json=long) as stream:
            chunks = stream.iter_text()
            text = next(chunks)
            running.process.terminate()
            time.sleep(0.5)
            assert running.health() == 200 and running.complete(model="smollm2", max_tokens=1).status_code == 500
            text += "".join(chunks)
        assert text.rstrip().endswith("data: [DONE]") and "error" not in text
        assert sum(bool(event["choices"][0]["text"]) for event in events(text)) > 200
        assert running.process.wait(kind.drain(spec).stop_s) == 0
        assert _of_group(running.process.pid) == []


def _of_group(leader: int) -> list[str]:
    """Processes that are left of its group."""
    left = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[2] == str(leader) and fields[0] != "Z":
            left.append(status.parent.name)
    return left
