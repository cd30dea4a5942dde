"""``roundhouse policy simulate``: a policy tried on traffic given by hand, or on what the gateway recorded."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cli.policy_simulate import simulate
from gateway.record_line import COLUMNS
from rollout.errors import NotFound, Refused

app = typer.Typer()
app.command()(simulate)
QUICK = ["fast", "--rate", "50", "--errors", "1", "--runs", "2", "--against", "standard"]
GOOD = {
    "kind": "L",
    "route": "chat/stable",
    "cluster": "chat@v1",
    "host": "v1.chat-v1-0",
    "status": "200",
    "flags": "-",
    "attempts": "1",
    "bytes_in": "800",
    "bytes_out": "9",
    "ttft_us": "100000",
    "total_us": "400000",
    "client": "chat/alice",
    "usage_header": "4,16",
    "content_type": "text/event-stream",
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A stack's home in which the gateway recorded sixty requests, one a second, every sixth of them failed."""
    begin = time.time() - 70
    run = tmp_path / "gateway" / "run"
    run.mkdir(parents=True)
    with (run / "records.log").open("w") as log:
        for i in range(60):
            bad = {"status": "500"} if i % 6 == 0 else {}
            row = GOOD | {"at": f"{begin + i:.3f}"} | bad
            log.write("\t".join(row.get(name, "-") for name, _ in COLUMNS) + "\n")
    return tmp_path


def test_the_policy_is_shown_beside_others_with_its_steps_and_the_computed_ones() -> None:
    """A table for each policy, wrong and missed decisions, and both schedules."""
    shown = CliRunner().invoke(app, QUICK)
    assert shown.exit_code == 0
    assert "3000 requests/min of 1 kind of request, 1.00% of them fail" in shown.stdout
    assert [line for line in shown.stdout.splitlines() if line.startswith(("fast:", "standard:"))] == [
        "fast: 25, 50 %",
        "standard: 1, 5, 25, 50 %",
    ]
    assert shown.stdout.count("its steps after mirroring: ") == 2
    assert shown.stdout.count("computed ones after mirroring:") == 2


def test_json_holds_every_number_and_a_seed_repeats_it() -> None:
    """A script gets the same table twice, with a result for each size of regression."""
    once = ["fast", "--rate", "50", "--runs", "1", "--against", "fast", "--json"]
    first, second = (json.loads(CliRunner().invoke(app, once).stdout) for _ in range(2))
    assert first == second
    fast = first["policies"][0]
    assert (fast["name"], fast["wrong_rollbacks"], first["runs"]) == ("fast", 0.0, 1)
    assert [r["effect"] for r in fast["results"]][:2] == ["identical", "latency x1.1"]
    assert fast["automatic_schedule"]["minutes"] <= fast["fixed_schedule"]["minutes"]


def test_traffic_is_read_from_the_gateways_records(home: Path) -> None:
    """Rate, errors and latencies of a service are those of its recorded requests."""
    options = ["fast", "--service", "chat", "--runs", "1", "--against", "fast", "--json"]
    traffic = json.loads(CliRunner().invoke(app, options, env={"ROUNDHOUSE_HOME": str(home)}).stdout)["traffic"]
    assert traffic["requests_per_minute"] == pytest.approx(60, rel=0.01)
    assert traffic["errors"] == pytest.approx(1 / 6)
    assert [kind["ttft_median_s"] for kind in traffic["kinds"]] == [pytest.approx(0.1)]


def test_a_service_without_requests_is_refused(home: Path) -> None:
    """Nothing recorded: the message says how to give rates by hand."""
    refused = CliRunner().invoke(app, ["fast", "--service", "other"], env={"ROUNDHOUSE_HOME": str(home)})
    assert isinstance(refused.exception, Refused)
    assert "--rate 10" in str(refused.exception)


@pytest.mark.parametrize("options", [[], ["--service", "chat", "--rate", "10"]])
def test_traffic_comes_from_one_place(options: list[str]) -> None:
    """Neither records nor rates, or both, are refused."""
    refused = CliRunner().invoke(app, ["fast", *options])
    assert isinstance(refused.exception, Refused)


def test_an_unknown_policy_is_not_found() -> None:
    """The name of no file of configs/rollouts is said to be none."""
    missing = CliRunner().invoke(app, ["nosuch", "--rate", "10"])
    assert isinstance(missing.exception, NotFound)
