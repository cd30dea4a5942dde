"""Asking engines that stumble: real servers that fail now and then, for a while, or always."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from engines.outputs import Asked, Asking, ask_both
from rollout.agreement import fresh, with_measured
from rollout.agreement_finding import Needs, decided, finding
from rollout.agreement_limits import OutputLimits
from rollout.answers import Comparison, Question
from rollout.errors import Unavailable
from rollout.nouns import Outcome
from tasks.outputs import compare_until_decided

QUICK = Asking(pause_s=0.01)
FORTY = [Question(f"Prompt {n}") for n in range(40)]
Fails = Callable[[int, str, str], bool]  # the number of the request, its path, its prompt
Start = Callable[[Fails], str]


@contextmanager
def engine(fails: Fails) -> Iterator[str]:
    """The address of a server that says hello and knows llama.cpp's way to a likelihood; what ``fails`` is a 503."""

    class Stumbling(BaseHTTPRequestHandler):
        asked = 0

        def _answer(self, value: object, prompt: str = "") -> None:
            Stumbling.asked += 1
            body = json.dumps(value).encode()
            self.send_response(503 if fails(Stumbling.asked, self.path, prompt) else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self._answer({"data": [{"id": "tiny"}]})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            prompt = asked["messages"][0]["content"] if "messages" in asked else ""
            said = {
                "/v1/chat/completions": {"choices": [{"message": {"content": "hello there"}, "logprobs": TOKENS}]},
                "/apply-template": {"prompt": "user: Hello"},
                "/tokenize": {"tokens": [1]},
                "/completion": {"completion_probabilities": [{"id": 1, "logprob": -0.5}]},
            }
            self._answer(said[self.path], prompt)

        def log_message(self, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Stumbling) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


TOKENS = {"content": [{"token": "hello"}, {"token": " there"}]}


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts such servers for the time of a test."""
    with ExitStack() as stack:
        yield lambda fails: stack.enter_context(engine(fails))


def never(number: int, path: str, prompt: str) -> bool:
    return False


def at_prompts(number: int, path: str, prompt: str) -> bool:
    """It lives and knows all ways of asking, but answers no prompt of the set."""
    return prompt.startswith("Prompt")


def test_a_hiccup_is_no_spoilt_answer(start: Start) -> None:
    """What fails once is asked again, of both arms."""
    base = start(lambda number, path, prompt: number % 2 == 1)
    (both,) = ask_both(base, base, [Question("Hello")], QUICK)
    assert [reply.error for reply in both[1:]] == ["", ""]
    assert [reply.text for reply in both[1:]] == ["hello there"] * 2


def test_an_engine_that_only_fails_is_not_there(start: Start) -> None:
    """Tried several times, and then it is told."""
    numbers: list[int] = []
    base = start(lambda number, path, prompt: numbers.append(number) is None)
    with pytest.raises(Unavailable, match="HTTP 503"):
        list(ask_both(base, base, [Question("Hello")], QUICK))
    assert len(numbers) == 6


def test_a_hiccup_while_it_is_tried_out_takes_no_metric_away(start: Start) -> None:
    """An engine that is away for half a second when it is first asked for likelihoods is asked for them later."""
    first: list[float] = []

    def away(number: int, path: str, prompt: str) -> bool:
        if path == "/apply-template":
            first.append(time.monotonic())
        return bool(first) and time.monotonic() < first[0] + 0.5

    with Asked(start(away), Asking(pause_s=0.4)) as asked:
        assert asked.tells_likelihood


def test_what_stable_does_not_answer_proves_nothing(start: Start) -> None:
    """There is nothing to compare with: neither a live candidate nor a dead one is called as good for it."""
    dead = start(at_prompts)
    for candidate in (start(never), dead):
        agreement = compare_until_decided(fresh(OutputLimits()), (dead, candidate), FORTY, Needs(), QUICK)
        assert decided(agreement, Needs())[0] is Outcome.UNDECIDED and agreement.totals.prompts == 0
        assert agreement.missing == ("40 of 40 prompts are left out, stable did not answer them (HTTP 503)",)


def test_a_prompt_that_stable_does_not_answer_is_skipped(start: Start) -> None:
    """The others decide, and the number of those left out is told."""
    stable, heard = start(lambda number, path, prompt: prompt in ("Prompt 1", "Prompt 3")), list[Comparison | None]()
    bases = (stable, start(never))
    agreement = compare_until_decided(fresh(OutputLimits()), bases, FORTY, Needs(), QUICK, heard.append)
    assert decided(agreement, Needs())[0] is Outcome.PROMOTE and agreement.totals.spoilt == (0, 0)
    told = f"2 of {agreement.totals.prompts + 2} prompts are left out, stable did not answer them (HTTP 503)"
    assert told in finding(agreement, Needs()).sentence
    assert [number for number, seen in enumerate(heard) if seen is None] == [1, 3]
    again = with_measured(fresh(OutputLimits()), [seen for seen in heard if seen is not None])
    assert (again.tests, again.totals) == (agreement.tests, agreement.totals)


def test_what_only_the_candidate_does_not_answer_is_spoilt(start: Start) -> None:
    """Asked again and again in vain, it is held against the candidate."""
    agreement = compare_until_decided(fresh(OutputLimits()), (start(never), start(at_prompts)), FORTY, Needs(), QUICK)
    assert decided(agreement, Needs())[0] is Outcome.ROLL_BACK
    assert agreement.totals.spoilt == (0, agreement.totals.prompts) and agreement.missing == ()


def test_what_the_time_did_not_suffice_for_is_told(start: Start) -> None:
    """With both numbers and the name of the limit."""
    asking, prompts = Asking(within_s=1.0), [Question(f"Hello {n}") for n in range(5000)]
    base = start(never)
    told = finding(
        compare_until_decided(fresh(OutputLimits()), (base, base), prompts, Needs(least=10_000), asking), Needs()
    )
    assert told.outcome is not Outcome.ROLL_BACK
    assert "of 5000 prompts were asked within the 1 s of budget_s" in told.sentence
