"""What every engine kind promises, the in-memory one and llama.cpp alike."""

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_models import TinyModel, write_tiny

from engines.hardware import read_hardware
from engines.port import EngineKind, EngineSettings, EngineSpec, Faults, LocalSettings, MemorySettings, open_engine
from rollout.errors import Refused

SPEC = EngineSpec(context=128)
HARDWARE = read_hardware("/tmp")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return write_tiny(tmp_path_factory.mktemp("contract") / "hf")


@pytest.fixture(params=["memory", pytest.param("local", marks=pytest.mark.integration)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> EngineKind:
    settings: EngineSettings = MemorySettings() if request.param == "memory" else LocalSettings(str(tmp_path / "e"))
    return open_engine("llama_cpp", settings)


def test_a_plan_is_the_same_twice(engine: EngineKind, tiny: TinyModel) -> None:
    """Planning decides from its inputs alone."""
    assert engine.plan(tiny.version, SPEC, HARDWARE) == engine.plan(tiny.version, SPEC, HARDWARE)


def test_the_digest_follows_what_is_built(engine: EngineKind, tiny: TinyModel) -> None:
    """Another quantisation or model is another engine; other serving settings are not."""
    base = engine.plan(tiny.version, SPEC, HARDWARE)
    serving = replace(SPEC, slots=1, max_queue=0, drain_s=1.0, faults=Faults(ttft_delay_s=1.0))
    assert engine.plan(tiny.version, serving, HARDWARE).digest == base.digest
    assert engine.plan(tiny.version, replace(SPEC, quantization="F16"), HARDWARE).digest != base.digest
    assert engine.plan(replace(tiny.version, digest="0" * 64), SPEC, HARDWARE).digest != base.digest


def test_a_second_build_is_found(engine: EngineKind, tiny: TinyModel) -> None:
    """Same digest and directory; the second says that it was found and took no time."""
    seen: list[float] = []
    plan = engine.plan(tiny.version, SPEC, HARDWARE)
    first = engine.build(plan, lambda what, share: seen.append(share))
    second = engine.build(engine.plan(tiny.version, SPEC, HARDWARE), lambda what, share: None)
    assert (first.cached, second.cached, second.build_s) == (False, True, 0.0)
    assert (first.digest, first.directory, first.size) == (second.digest, second.directory, second.size)
    assert (first.digest, first.directory, first.served_name) == (plan.digest, plan.directory, "tiny")
    assert seen == sorted(seen) and seen[-1] == 1.0


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"quantization": "Q9"}, "quantization"),
        ({"kind": "nothing"}, "kind"),
        ({"slots": 0}, "slots"),
        ({"context": 0}, "context"),
        ({"threads": 0}, "threads"),
        ({"max_queue": -1}, "max_queue"),
        ({"drain_s": -1.0}, "drain_s"),
        ({"faults": Faults(cut_rate=1.5)}, "faults.cut_rate"),
    ],
)
def test_a_bad_spec_is_refused(engine: EngineKind, tiny: TinyModel, changes: dict[str, object], field: str) -> None:
    """The refusal names the field, the value and what to do."""
    with pytest.raises(Refused) as refusal:
        engine.plan(tiny.version, replace(SPEC, **changes), HARDWARE)
    assert refusal.value.field == field and refusal.value.fix


def test_a_serve_command_names_address_and_model(engine: EngineKind, tiny: TinyModel) -> None:
    """Host, port and served name are in the arguments, and stopping outlasts draining."""
    built = engine.build(engine.plan(tiny.version, SPEC, HARDWARE), lambda what, share: None)
    command = engine.serve_command(built, replace(SPEC, drain_s=12.0), "127.0.0.1", 18123)
    assert {"127.0.0.1", "18123", "tiny"} <= set(command.argv)
    assert command.stop_s > 12.0


@pytest.mark.parametrize("port", [8080, 9090, 0, -1, 65536])
def test_a_port_that_an_engine_may_not_have_is_refused(engine: EngineKind, tiny: TinyModel, port: int) -> None:
    """Reserved and impossible ports."""
    built = engine.build(engine.plan(tiny.version, SPEC, HARDWARE), lambda what, share: None)
    with pytest.raises(Refused, match=str(port)):
        engine.serve_command(built, SPEC, "127.0.0.1", port)


def test_readiness_and_metrics_are_told(engine: EngineKind) -> None:
    """A path to ask, and names for the queue and the tokens."""
    ready = engine.readiness(SPEC)
    assert ready.path.startswith("/") and ready.load_s > 0
    assert {"requests_running", "requests_waiting", "tokens_in_total", "tokens_out_total"} <= engine.metrics(SPEC)[
        0
    ].names.keys()


def test_it_says_who_counts_tokens(engine: EngineKind) -> None:
    """Engines of ours tell them in a header or trailer, so a gateway need not read answers."""
    assert engine.usage() == "engine"


def test_an_unknown_kind_fails_loudly(tmp_path: Path) -> None:
    """It never falls back to another engine."""
    with pytest.raises(Refused, match="no such engine"):
        open_engine("tensorflow", LocalSettings(str(tmp_path)))
