"""Serving: a command that names address and model, and where to ask for readiness and numbers."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from engine_cases import CASES, Case
from running_engine import CLIENT, body, running_engine

from engines.port import EngineKind, Placement
from engines.warm_up import read_requests
from rollout.errors import Refused
from rollout.nouns import Engine

starts = pytest.mark.parametrize("case", [c for c in CASES if c.starts], ids=lambda case: case.name)


@pytest.fixture
def kind(case: Case, shelf: Callable[[Case], tuple[EngineKind, Engine]]) -> EngineKind:
    return shelf(case)[0]


@pytest.fixture
def built(case: Case, shelf: Callable[[Case], tuple[EngineKind, Engine]]) -> Engine:
    return shelf(case)[1]


def _said(case: Case, kind: EngineKind, built: Engine, **changes: object) -> str:
    """All that a command says: arguments, environment, files, container."""
    command = kind.serve_command(built, replace(case.spec, **changes), "127.0.0.1", 18123)
    return json.dumps([*command.argv, command.env, command.files, str(command.container)])


def test_a_serve_command_names_address_and_engine(case: Case, kind: EngineKind, built: Engine) -> None:
    """Host, port, and the served name or the directory that bears it; the same twice."""
    said = _said(case, kind, built)
    assert "18123" in said and ("127.0.0.1" in said or "0.0.0.0" in said)
    assert built.served_name in said or built.directory in said
    assert said == _said(case, kind, built)


def test_stopping_outlasts_draining(case: Case, kind: EngineKind, built: Engine) -> None:
    """SIGKILL comes after the time that open streams have, and readiness is waited for."""
    spec = replace(case.spec, drain_s=12.0)
    drain, ready = kind.drain(spec), kind.readiness(spec)
    assert kind.serve_command(built, spec, "127.0.0.1", 18123).stop_s >= 12.0
    assert drain.stop_s > 0 and drain.wait_s >= 12.0
    assert ready.path.startswith("/") and ready.load_s > 0


@pytest.mark.parametrize("port", [8080, 9090, 0, -1, 65536])
def test_a_port_that_an_engine_may_not_have_is_refused(case: Case, kind: EngineKind, built: Engine, port: int) -> None:
    """Reserved and impossible ports."""
    with pytest.raises(Refused, match=str(port)):
        kind.serve_command(built, case.spec, "127.0.0.1", port)


def test_the_environment_is_passed_on(case: Case, kind: EngineKind, built: Engine) -> None:
    """A variable of the spec is one of the process."""
    spec = replace(case.spec, environment={"ROUNDHOUSE_EXAMPLE": "17"})
    assert kind.serve_command(built, spec, "127.0.0.1", 18123).env["ROUNDHOUSE_EXAMPLE"] == "17"


def test_an_instance_keeps_to_its_place(case: Case, kind: EngineKind, built: Engine) -> None:
    """The processors, and the GPUs where there are some, that were chosen for it are in its command."""
    gpus = tuple(gpu.uuid for gpu in case.hardware.gpus[: case.spec.tensor_parallel])
    command = kind.serve_command(built, case.spec, "127.0.0.1", 18123, Placement((1, 3), gpus))
    told = " ".join([*command.argv, *command.env.values()])
    assert command.cores == (1, 3) or "1,3" in told
    inside = command.container.gpus if command.container else ()
    assert all(gpu in told or gpu in inside for gpu in gpus)


def test_numbers_are_named(case: Case, kind: EngineKind) -> None:
    """Each page has a path and names for at least what a release looks at."""
    pages = kind.metrics(case.spec)
    assert case.metrics <= {name for page in pages for name in page.names}
    assert all(page.path.startswith("/") and all(page.names.values()) for page in pages)


def test_it_says_who_counts_tokens(case: Case, kind: EngineKind) -> None:
    """Our own server tells them in a header or trailer; others' answers are read."""
    assert kind.usage() == case.usage


@starts
@pytest.mark.integration
def test_a_process_does_what_the_engine_said(case: Case, kind: EngineKind, built: Engine, tmp_path: Path) -> None:
    """Ready, it answers the warm-up and has the numbers; after SIGTERM an open stream ends whole, if it said so."""
    with running_engine(kind, built, case.spec, tmp_path / "log") as running:
        for request in read_requests(built.directory, case.spec.context):
            path, content = request.sent_as(built.served_name)
            assert CLIENT.post(running.base + path, json=content).status_code == 200
        for page in kind.metrics(case.spec):
            text = CLIENT.get(running.base + page.path).text
            assert all(theirs in text for theirs in page.names.values())
        options = body(stream=True, max_tokens=64, ignore_eos=True)
        with CLIENT.stream("POST", f"{running.base}/v1/completions", json=options) as stream:
            chunks = stream.iter_text()
            text = next(chunks)
            running.process.terminate()
            text += "".join(chunks)
        assert text.endswith("data: [DONE]\n\n") is kind.drain(case.spec).finishes
        assert running.process.wait(kind.drain(case.spec).stop_s) == 0
