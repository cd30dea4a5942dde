"""What scripts read of a command."""

from __future__ import annotations

import json
import math
from pathlib import Path

from cli.screen import show_json


def refuse(name):
    raise AssertionError(f"{name} is no JSON")


def test_json_for_a_script_is_json_for_any_parser(capsys):
    """No infinity and no NaN, and values of ours as their text."""
    show_json({"low": -math.inf, "rates": [math.nan, 0.5], "file": Path("/a/b")})
    told = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert told == {"low": None, "rates": [None, 0.5], "file": "/a/b"}
