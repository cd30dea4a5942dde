"""What a plan must be, and the bytes that it becomes."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import loadtest
from loadtest.plans import authorization, checked, path_of, read_plan, request_bytes, written
from loadtest.port import LoadPlan
from rollout.errors import NotFound, Refused

PLAN = LoadPlan("http://127.0.0.1:8800/api/predict/chat", headers={"Authorization": "Bearer sekret"})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("users", 0),
        ("users", 100000),
        ("duration_s", 0.0),
        ("duration_s", float("nan")),
        ("duration_s", float("inf")),
        ("max_tokens", 0),
        ("api", "embeddings"),
        ("ramp_s", -1.0),
        ("ramp_s", 11.0),
        ("timeout_s", 0.0),
        ("prompts", ("good", " ")),
        ("url", "https://127.0.0.1:8800"),
        ("url", "127.0.0.1:8800"),
        ("url", "http://"),
        ("url", "http://host:99999"),
        ("url", "http://user@host"),
        ("url", "http://host/?a=b"),
        ("url", "http://host/a b\r\nX: y"),
        ("headers", {"Bad name": "x"}),
        ("headers", {"X": "a\r\nInjected: b"}),
    ],
)
def test_a_plan_that_cannot_work_is_refused_by_field(field, value):
    """The error names the field, the rule and the fix."""
    with pytest.raises(Refused) as refusal:
        checked(replace(PLAN, **{field: value}))
    assert refusal.value.field == field and "Fix: " in str(refusal.value)


def test_a_refused_header_does_not_show_its_value():
    """A token never reaches a message."""
    with pytest.raises(Refused) as refusal:
        checked(replace(PLAN, headers={"Authorization": "sekret\n"}))
    assert "sekret" not in str(refusal.value)


@pytest.mark.parametrize("base", ["http://h:1/x", "http://h:1/x/", "http://h:1/x/v1", "http://h:1/x/v1/"])
def test_the_path_stands_under_the_base(base):
    """A base may end with a slash or with /v1, as users write it."""
    assert path_of(LoadPlan(base)) == "/x/v1/completions"
    assert path_of(LoadPlan(base, api="chat")) == "/x/v1/chat/completions"


@pytest.mark.parametrize("api", ["chat", "completions"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_request_says_what_the_plan_says(api, stream):
    """Method, path, headers, and a body of exactly the stated length."""
    plan = replace(PLAN, api=api, stream=stream, prompts=("hé",), model="m", max_tokens=5)
    head, _, content = request_bytes(plan, 3).partition(b"\r\n\r\n")
    body = json.loads(content)
    assert head.startswith(f"POST {path_of(plan)} HTTP/1.1\r\n".encode())
    assert f"Content-Length: {len(content)}".encode() in head and b"Authorization: Bearer sekret" in head
    assert (body["max_tokens"], body["stream"], body["model"]) == (5, stream, "m")
    assert (body["messages"][0]["content"] if api == "chat" else body["prompt"]) == "hé"
    assert ("stream_options" in body) is stream


def test_bundled_prompts_are_never_the_same_twice():
    """No request can live off the prefix cache of another."""
    prompts = [json.loads(request_bytes(PLAN, n).partition(b"\r\n\r\n")[2])["prompt"] for n in range(100)]
    assert len({prompt[:8] for prompt in prompts}) == 100


def test_a_written_plan_comes_back_without_its_headers():
    """What lies in the file never holds the token; all else survives."""
    text = json.dumps(written(replace(PLAN, prompts=("a", "b"), model="m")))
    assert "sekret" not in text
    assert read_plan(text, dict(PLAN.headers)) == replace(PLAN, prompts=("a", "b"), model="m")


def test_the_repr_of_a_plan_hides_its_headers():
    """A log line with a plan shows no token."""
    assert "sekret" not in repr(PLAN)


def test_a_token_comes_from_its_file(tmp_path):
    """Stripped, as Bearer; no file asked for, no header; a missing file is an error that names it."""
    (tmp_path / "token").write_text("abc\n")
    assert authorization(str(tmp_path / "token")) == {"Authorization": "Bearer abc"}
    assert authorization(None) == {}
    with pytest.raises(NotFound, match="absent"):
        authorization(str(tmp_path / "absent"))


def test_no_file_here_hides_another_module():
    """Locust puts this folder first on sys.path, so a name must be no root folder's, dependency's or stdlib's."""
    folder = Path(loadtest.__file__).parent
    taken = set(sys.stdlib_module_names) | set(importlib.metadata.packages_distributions())
    taken |= {path.name for path in folder.parent.iterdir() if path.is_dir()}
    names = {path.stem for path in folder.glob("*.py")} - {"__init__", "__main__"}
    assert names and not names & taken


def test_only_what_locust_loads_imports_locust():
    """Importing Locust hangs a Prefect flow's process, so nothing else may do it, nor import what does."""
    files = {p.name: p.read_text() for p in Path(loadtest.__file__).parent.glob("*.py")}
    words = ("import locust", "from locust", "import gevent", "from gevent", "loadtest.users", "loadtest.locustfile")
    assert {name for name, text in files.items() if any(w in text for w in words)} == {"users.py", "locustfile.py"}
