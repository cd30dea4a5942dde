"""What users write is checked whole, before anything is changed; each refusal names field, value, rule and fix."""

from __future__ import annotations

import pytest

from configs.fields import permille
from configs.files import EngineFile, ServiceFile, load_engine, load_rollout, load_service, load_services
from configs.load import check, load
from configs.order import order
from configs.rollout_file import RolloutFile
from configs.stack import StackFile
from engines.port import LocalSettings, open_engine
from rollout.errors import NotFound, Refused

SERVICE = {"kind": "service", "name": "chat", "model": "m"}
ROLLOUT = {"kind": "rollout", "steps_percent": [5, 50]}


@pytest.mark.parametrize(
    ("model", "values", "words"),
    [
        (ServiceFile, {"kind": "service", "model": "m"}, ["name", "required"]),
        (ServiceFile, {**SERVICE, "name": "Not A Name"}, ["name", "Not A Name"]),
        (ServiceFile, {**SERVICE, "instances": 0}, ["instances", "0"]),
        (ServiceFile, {**SERVICE, "alias": "v3"}, ["alias", "reserved by MLflow"]),
        (ServiceFile, {**SERVICE, "port": 8080}, ["port", "8080", "reserved"]),
        (ServiceFile, {**SERVICE, "colour": "red"}, ["colour", "not permitted"]),
        (EngineFile, {"kind": "engine", "slots": 0}, ["slots", "0"]),
        (RolloutFile, {"kind": "rollout"}, ["steps_percent", "required"]),
        (StackFile, {"kind": "stack", "ports": {"gateway": 80}}, ["gateway", "80"]),
        (StackFile, {"kind": "stack", "ports": {"engines_from": 8000, "engines_to": 8100}}, ["8080", "reserved"]),
        (StackFile, {"kind": "stack", "ports": {"gateway": 4200}}, ["share a port"]),
        (StackFile, {"kind": "stack", "host": "0.0.0.0"}, ["host", "0.0.0.0"]),
        (ServiceFile, {**SERVICE, "name": "my_chat"}, ["name", "my_chat"]),  # no path of the gateway
        (ServiceFile, {**SERVICE, "response_timeout_s": 0.01}, ["response_timeout_s", "0.01"]),
        (ServiceFile, {**SERVICE, "body_limit_bytes": 32 << 20}, ["body_limit_bytes"]),
    ],
)
def test_bad_fields_are_named(model, values, words):
    """All wrong fields at once, each with the value that was given."""
    with pytest.raises(Refused) as refused:
        check(model, values, "file.yaml")
    for word in [*words, "Fix:"]:
        assert word in str(refused.value)


def test_all_errors_come_at_once():
    """A user mends a file once, not field by field."""
    with pytest.raises(Refused) as refused:
        check(ServiceFile, {"kind": "service", "instances": 0, "colour": "red"}, "file.yaml")
    assert all(word in str(refused.value) for word in ("name", "model", "instances", "colour"))


def test_shares_that_do_not_add_up_are_refused():
    """Steps must rise and stay within 100 %, in steps of 0.1 %."""
    for steps in ([50, 5], [5, 5], [0], [120]):
        with pytest.raises(Refused):
            check(RolloutFile, {**ROLLOUT, "steps_percent": steps}, "r.yaml").policy()
    with pytest.raises(Refused, match=r"steps of 0\.1 %"):
        check(RolloutFile, {**ROLLOUT, "steps_percent": [0.05]}, "r.yaml").policy()
    assert permille("x", 0.1) == 1 and permille("x", 33.3) == 333


def test_unknown_engines_and_quantisations_are_refused():
    """Before anything is fetched or built; the known ones are listed."""
    with pytest.raises(Refused, match="llama_cpp"):
        open_engine("tensorflow", LocalSettings("/nowhere"))
    with pytest.raises(Refused, match="Q9_9"):
        spec = check(EngineFile, {"kind": "engine", "quantization": "Q9_9"}, "e.yaml").spec()
        open_engine("llama_cpp", LocalSettings("/nowhere")).check(spec)


def test_a_file_of_another_kind_or_broken_yaml_is_refused(tmp_path):
    """The kind is explicit; a syntax error comes with its place."""
    path = tmp_path / "s.yaml"
    path.write_text("kind: engine\n")
    with pytest.raises(Refused, match="kind 'service'"):
        load(ServiceFile, path)
    path.write_text("kind: [")
    with pytest.raises(Refused, match="line"):
        load(ServiceFile, path)
    with pytest.raises(NotFound, match="does not exist"):
        load(ServiceFile, tmp_path / "none.yaml")


@pytest.mark.parametrize("model", [EngineFile, ServiceFile, RolloutFile, StackFile])
def test_what_is_no_readable_text_is_refused(tmp_path, model):
    """A folder, and a file in another encoding; UTF-8 is read whatever the locale."""
    with pytest.raises(Refused, match=r"it cannot be read: Is a directory.*Fix:"):
        load(model, tmp_path)
    latin = tmp_path / "x.yaml"
    latin.write_bytes("kind: x  # größer\n".encode("latin-1"))
    with pytest.raises(Refused, match=r"no text in UTF-8: .* at byte 13.*Fix:"):
        load(model, latin)


def test_the_files_of_this_project_are_good():
    """Each service names an engine and a rollout that exist and make sense."""
    for service in load_services():
        assert load_engine(service.engine).spec().quantization
        assert load_rollout(service.rollout).policy().steps


def test_an_order_refuses_what_does_not_exist():
    """Unknown service, engine, rollout; a model that is named in no way we know; names that reach out of the folder."""
    with pytest.raises(NotFound, match="chat"):
        order("nosuch")
    with pytest.raises(NotFound, match="q8_0"):
        order("chat", engine="nosuch")
    with pytest.raises(NotFound, match="standard"):
        order("chat", rollout="nosuch")
    with pytest.raises(Refused, match="models:/"):
        order("chat", model="smollm2")
    with pytest.raises(Refused):
        load_service("../stack")
    assert order("chat").model == "models:/smollm2@candidate"
