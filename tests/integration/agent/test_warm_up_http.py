"""Warm-up over HTTP against a real server, in the thread that the agent uses."""

from __future__ import annotations

import json
import time

import pytest
from stand_in_llm import serving, truth_of

from agent.probes import Probes, WarmUp


@pytest.fixture(scope="module")
def llm():
    with serving(0.01, 0.001) as url:
        yield url


def result_of(url, directory, least=1):
    probes = Probes()
    probes.warm_up("i", url, WarmUp(str(directory), "chat-model", least))
    until = time.monotonic() + 30
    while (result := probes.warm_up_result("i")) == (None, "") and time.monotonic() < until:
        time.sleep(0.01)
    return result


def test_an_engine_gets_its_own_requests_with_its_own_name(llm, tmp_path):
    """What lies in its directory, under the name that it serves; TTFT and TPOT of each length are measured."""
    requests = [{"prompt": "word " * n, "max_tokens": 5, "messages": "", "tokens": n} for n in (8, 128)]
    (tmp_path / "warm_up.jsonl").write_text("".join(json.dumps(r) + "\n" for r in requests))
    numbers, error = result_of(f"{llm}/good", tmp_path, least=9)
    asked = [one for one in truth_of(llm)["requests"] if one["prompt"].startswith("word ")]
    assert error == "" and numbers["requests"] == len(asked) >= 9
    assert {one["model"] for one in asked} == {"chat-model"} and {len(one["prompt"]) for one in asked} == {40, 640}
    assert numbers["p8_ttft_s"] > numbers["p8_tpot_s"] > 0 and numbers["p128_requests"] >= 4


@pytest.mark.parametrize(
    ("kind", "why"),
    [("refuse", "answered 503"), ("cut", "closed connection"), ("error", "slot lost"), ("empty", "answers were empty")],
)
def test_an_engine_that_does_not_answer_well_is_not_warm(llm, tmp_path, kind, why):
    """Each way in which it may fail becomes a reason; one without requests of its own gets plain ones."""
    numbers, error = result_of(f"{llm}/{kind}", tmp_path)
    assert numbers is None and why in error
