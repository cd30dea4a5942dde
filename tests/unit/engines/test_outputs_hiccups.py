"""Asking engines that stumble: a real server that fails now and then, or always."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from engines.outputs import Asking, ask_both
from rollout.agreement import fresh
from rollout.agreement_finding import Needs, finding
from rollout.agreement_limits import OutputLimits
from rollout.answers import Question
from rollout.errors import Unavailable
from rollout.nouns import Outcome
from tasks.outputs import compare_until_decided


class Stumbling(BaseHTTPRequestHandler):
    """Tells its model and says hello, but each second answer is a 503, or all are; it knows no tokens."""

    always = False
    asked = 0

    def _answer(self, value: object) -> None:
        type(self).asked += 1
        body = json.dumps(value).encode()
        self.send_response(503 if self.always or type(self).asked % 2 else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self._answer({"data": [{"id": "tiny"}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert asked["temperature"] == 0
        self._answer({"choices": [{"message": {"content": "hello there"}}]})

    def log_message(self, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def base() -> Iterator[str]:
    """The address of such a server."""
    Stumbling.always, Stumbling.asked = False, 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Stumbling) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_hiccup_is_no_spoilt_answer(base: str) -> None:
    """What fails once is asked again, of both arms."""
    (both,) = ask_both(base, base, [Question("Hello")], Asking())
    assert [reply.error for reply in both[1:]] == ["", ""]
    assert [reply.text for reply in both[1:]] == ["hello there"] * 2


def test_an_engine_that_only_fails_is_not_there(base: str) -> None:
    """Tried several times, and then it is told."""
    Stumbling.always = True
    with pytest.raises(Unavailable, match="HTTP 503"):
        list(ask_both(base, base, [Question("Hello")], Asking()))
    assert Stumbling.asked >= 3


def test_what_the_time_did_not_suffice_for_is_told(base: str) -> None:
    """With both numbers and the name of the limit."""
    asking, prompts = Asking(within_s=3.0), [Question(f"Hello {n}") for n in range(2000)]
    told = finding(
        compare_until_decided(fresh(OutputLimits()), (base, base), prompts, Needs(least=10_000), asking), Needs()
    )
    assert told.outcome is not Outcome.ROLL_BACK
    assert "of 2000 prompts were answered within the 3 s of budget_s" in told.sentence
