"""Warm-up of engines that answer without an end, without a line, or not to what their own model wants asked."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import repeat

import pytest

from agent.probes import Probes, WarmUp, run_warm_up
from rollout.errors import Unavailable

TEXT, DONE = b'data: {"choices":[{"text":"x"}]}\n\n', b"data: [DONE]\n\n"
FOR_EVER = {"/pings": b": ping\n\n", "/tokens": TEXT, "/no-line": b"x" * 65536, "/error": b"y" * 65536}


class Engine(BaseHTTPRequestHandler):
    """By the first part of its path: one of FOR_EVER, or ``picky``, which takes no prompt of more than 40 letters."""

    def do_POST(self):
        prompt = json.loads(self.rfile.read(int(self.headers["content-length"])))["prompt"]
        kind = "/" + self.path.split("/")[1]
        refused = kind == "/picky" and len(prompt) > 40
        self.send_response(500 if kind == "/error" else 400 if refused else 200)
        self.end_headers()
        chunks = repeat(FOR_EVER[kind]) if kind in FOR_EVER else [b"too long"] if refused else [TEXT, DONE]
        try:
            for chunk in chunks:
                self.wfile.write(chunk)
                time.sleep(0 if len(chunk) > 1000 else 0.02)
        except OSError:
            self.server.left.set()

    def log_message(self, *_):
        pass


@pytest.fixture
def engine():
    """A server of all of them; ``left`` is set when somebody hung up on it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Engine)
    server.left, server.url = threading.Event(), f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def samples(directory, *prompts):
    lines = [json.dumps({"prompt": prompt, "max_tokens": 8, "messages": "", "tokens": 0}) for prompt in prompts]
    (directory / "warm_up.jsonl").write_text("\n".join(lines))
    return WarmUp(str(directory), "m", 1, 4096)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("pings", "did not end within 0.5 s"),
        ("tokens", "did not end within 0.5 s"),
        ("no-line", "a line of more than"),
        ("error", "answered 500: yyy"),
    ],
)
def test_an_answer_without_an_end_is_left(engine, tmp_path, kind, why):
    """After its time, or its bytes, with the reason; and the engine is hung up on."""
    with pytest.raises(Unavailable, match=why):
        run_warm_up(f"{engine.url}/{kind}", samples(tmp_path, "a"), most_s=0.5)
    assert engine.left.wait(10)


def test_a_warm_up_is_given_up_with_its_instance(engine, tmp_path):
    """The one that runs leaves its request; the instance that is started anew gets another."""
    probes, url = Probes(), f"{engine.url}/tokens"
    probes.warm_up("i", url, samples(tmp_path, "a"))
    assert not engine.left.wait(0.3)
    probes.forget(url, "i")
    assert engine.left.wait(10)
    probes.warm_up("i", f"{engine.url}/picky", samples(tmp_path, "a"))
    until = time.monotonic() + 10
    while (result := probes.warm_up_result("i")) == (None, "") and time.monotonic() < until:
        time.sleep(0.01)
    assert result[0]["settled"] >= 0 and result[1] == ""


def test_samples_that_the_engine_does_not_accept_do_not_end_it(engine, tmp_path):
    """They are left out; where it accepts none of them it gets plain prompts."""
    url = f"{engine.url}/picky"
    assert run_warm_up(url, samples(tmp_path, "a", "b" * 50))["skipped"] == 1.0
    numbers = run_warm_up(url, samples(tmp_path, "b" * 50, "c" * 900))
    assert numbers["skipped"] == 2.0 and numbers["requests"] >= 4
