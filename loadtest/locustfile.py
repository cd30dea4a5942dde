"""What Locust loads: reads the plan, runs its users for the plan's time, writes samples and seconds as JSON lines.

Standard input is the cord to the process that started this one. Its first line holds the headers (they may hold a
token, so they are in no file, argument or environment); its end means that the parent is gone, and so this one goes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import gevent
from gevent import monkey
from locust import events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

from loadtest.meter import Sample, Second
from loadtest.plans import read_plan
from loadtest.users import OpenAIUser


def _hold_the_cord() -> None:
    """A thread of the system, not a greenlet: it must see the end even when the event loop is stuck."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os._exit(3)

    monkey.get_original("_thread", "start_new_thread")(watch, ())


@events.init_command_line_parser.add_listener
def _options(parser: LocustArgumentParser) -> None:
    parser.add_argument("--plan", required=True, help="JSON file of the load plan; results are written beside it")


@events.init.add_listener
def _prepare(environment: Environment, **_: object) -> None:
    line = sys.stdin.buffer.readline()
    if not line:
        os._exit(3)
    _hold_the_cord()
    plan_file = Path(environment.parsed_options.plan)
    OpenAIUser.plan = read_plan(plan_file.read_text(), json.loads(line))
    recorder = Recorder(environment, plan_file.parent)
    OpenAIUser.on_tokens = recorder.add_tokens
    environment.events.request.add_listener(recorder.on_request)
    environment.events.test_start.add_listener(recorder.on_start)
    environment.events.quitting.add_listener(recorder.on_end)


class Recorder:
    """Writes ``samples.jsonl`` and ``seconds.jsonl``; ends the test when the plan's time is over."""

    def __init__(self, environment: Environment, directory: Path) -> None:
        self._runner = environment.runner
        self._samples = (directory / "samples.jsonl").open("w")
        self._seconds = (directory / "seconds.jsonl").open("w")
        self._second = Second()
        self._started = self._last = self._cpu = 0.0

    def add_tokens(self, count: int) -> None:
        """Tokens that have just arrived; negative where chunks held fewer tokens than they seemed to."""
        self._second.tokens += count

    def on_request(self, context: Sample, **_: object) -> None:
        """One request has ended."""
        self._second.samples.append(context)
        self._samples.write(json.dumps(context) + "\n")

    def on_start(self, **_: object) -> None:
        """The first user is about to start."""
        self._started = self._last = time.monotonic()
        self._cpu = time.process_time()
        gevent.spawn(self._each_second)
        gevent.spawn_later(OpenAIUser.plan.duration_s, self._runner.quit)

    def on_end(self, **_: object) -> None:
        """All users have ended: write what is left."""
        if self._second.samples or self._second.tokens:
            self._write(0.0)
        self._samples.close()
        self._seconds.close()

    def _each_second(self) -> None:
        for number in range(1, sys.maxsize):
            due = self._started + number
            gevent.sleep(max(0.0, due - time.monotonic()))
            self._write(time.monotonic() - due)

    def _write(self, lag_s: float) -> None:
        now, cpu = time.monotonic(), time.process_time()
        span_s, second = max(now - self._last, 1e-3), self._second
        line = second.line(
            now - self._started, span_s, OpenAIUser.open_requests, (cpu - self._cpu) / span_s, max(lag_s, 0.0)
        )
        self._second, self._last, self._cpu = Second(), now, cpu
        self._samples.flush()
        self._seconds.write(json.dumps(line) + "\n")
        self._seconds.flush()
