"""``python -m loadtest run``, as a pipeline calls it."""

from __future__ import annotations

import json

from loadtest.__main__ import main
from loadtest.port import MemorySettings


def run(tmp_path, *more: str) -> int:
    """The command over a load test that sends nothing."""
    words = ["run", "--url", "http://127.0.0.1:1", "--out", str(tmp_path / "out"), "--duration", "2", *more]
    return main(words, MemorySettings())


def test_it_writes_what_a_pipeline_keeps(tmp_path, capsys):
    """Metrics, plots and the page lie in the folder; the last line is the numbers; progress goes to stderr."""
    assert run(tmp_path) == 0
    shown = capsys.readouterr()
    numbers = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert numbers["requests"] > 0 and json.loads(shown.out)["requests"] == numbers["requests"]
    assert len(shown.err.splitlines()) == 2 and "TTFT p50 20 ms" in shown.err
    assert (tmp_path / "out" / "plots.csv").read_text().count("\n") == 3
    assert (tmp_path / "out" / "report.html").exists()


def test_a_refusal_is_a_sentence_and_an_exit_status(tmp_path, capsys):
    """Bad input ends with 2, the rule on stderr, and no folder made."""
    assert run(tmp_path, "--users", "0") == 2
    assert "users: 0 is refused" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_missing_token_file_is_named(tmp_path, capsys):
    """It ends with the status of what was not found."""
    assert run(tmp_path, "--token-file", str(tmp_path / "absent")) == 3
    assert "absent" in capsys.readouterr().err
