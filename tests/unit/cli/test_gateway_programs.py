"""The gateway's programs under supervisord, and what of a configuration an upgrade takes over."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.gateway_commands import app, row
from cli.parts import GATEWAYS, apart_from_gateway, parts, render
from configs.stack import Ports, Stack, TlsFile, TracingFile
from gateway.command import write_bootstrap
from gateway.render import Layout
from gateway.slots import put_in_charge
from gateway.upgrade import Slot
from rollout.errors import Refused

KEY = "A" * 43 + "="


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """A stack that never ran."""
    return Stack(project=tmp_path, home=tmp_path / "home")


@pytest.mark.parametrize("change", [{"tls": TlsFile(certificate="c", key="k")}, {"tracing": TracingFile(host="h")}])
def test_what_concerns_the_gateway_alone_is_left_to_its_upgrade(stack: Stack, change: dict) -> None:
    """Such a change is seen, and the rest of the configuration is the same; a change of ports is one of all."""
    before, after = render(stack, KEY), render(stack.model_copy(update=change), KEY)
    assert before != after
    assert apart_from_gateway(before) == apart_from_gateway(after)
    moved = render(stack.model_copy(update={"ports": Ports(gateway=9999)}), KEY)
    assert apart_from_gateway(moved) != apart_from_gateway(before)


def test_a_gateway_program_differs_without_notice_of_the_others(stack: Stack) -> None:
    """Another command of Envoy's is the gateway's matter, another one of the agent's is not."""
    conf = render(stack, KEY)
    assert apart_from_gateway(conf.replace("--concurrency 2", "--concurrency 4")) == apart_from_gateway(conf)
    assert apart_from_gateway(conf.replace("-m agent", "-m other")) != apart_from_gateway(conf)
    assert "[program:agent]" in apart_from_gateway(conf) and "[program:gateway" not in apart_from_gateway(conf)


def test_the_part_is_the_program_in_charge(stack: Stack) -> None:
    """``status`` and ``up`` look at the slot that serves, with its log."""
    write_bootstrap(stack.gateway())
    for slot, program in GATEWAYS.items():
        put_in_charge(Layout.of(stack.gateway()), slot)
        (part,) = (part for part in parts(stack) if part.name == "gateway")
        assert (part.program, part.log.name) == (program, f"{program}.log")


def test_a_grace_period_has_bounds() -> None:
    """Seconds below zero are refused before anything is done."""
    result = CliRunner().invoke(app, ["upgrade", "--grace", "-1"])
    assert isinstance(result.exception, Refused) and result.exception.field == "--grace"


def test_a_row_says_who_leaves_and_what_is_old() -> None:
    """A person sees at once which Envoy serves and whether it is the one asked for."""
    assert row(Slot("a", True, 7, "1.40.0", 3, True, 1, 2, True))[1:] == (
        "in charge", 7, "1.40.0", "3 s", 1, 2, "current",
    )  # fmt: skip
    assert row(Slot("b", False, 8, "1.40.0", 3, False, 1, 2, False))[1] == "leaving"
    assert "roundhouse up" in str(row(Slot("b", False, 8, "1.40.0", 3, True, 1, 2, False))[-1])
