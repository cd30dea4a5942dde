"""Health as it is asked over HTTP: only an instance that was asked and did not answer counts as silent."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from agent.probes import Probes


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def server():
    """Answers health with a status that the test sets."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(self.server.status)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.status = 200
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def settled(probes, clock, url, seconds=0.6):
    """The answer to the probe that this asks for."""
    clock.now += seconds
    probes.health(url)
    until = time.monotonic() + 5
    while probes._health[url].pending is not None and not probes._health[url].pending.done():
        assert time.monotonic() < until
        time.sleep(0.005)
    return probes.health(url)


def test_time_in_which_nobody_asked_is_not_silence(server):
    """A loop that stalled for a minute must not kill what is well."""
    clock = Clock()
    probes, url = Probes(clock), f"http://127.0.0.1:{server.server_port}/health"
    assert settled(probes, clock, url) == (True, 0.0)
    clock.now += 60.0
    assert probes.health(url) == (True, 0.0)
    assert settled(probes, clock, url) == (True, 0.0)


def test_unanswered_probes_add_up_until_one_is_answered(server):
    """Counted from the first one that was asked in vain."""
    clock = Clock()
    probes, url = Probes(clock), f"http://127.0.0.1:{server.server_port}/health"
    server.status = 503
    settled(probes, clock, url)
    assert settled(probes, clock, url, 5.0)[0] is False
    assert probes.health(url)[1] == pytest.approx(5.0)
    server.status = 200
    assert settled(probes, clock, url) == (True, 0.0)
