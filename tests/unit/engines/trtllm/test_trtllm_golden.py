"""What runs, per version and case, to the letter: builds, YAML, server, container, launch over nodes, reasons."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from trtllm_builds import hopper
from trtllm_specs import CASES, VERSIONS, Place

from engines.port import Placement
from engines.preview import preview, text_of
from rollout.errors import Refused

GOLDEN = Path(__file__).parents[3] / "golden" / "trtllm"
_COMPUTED = ("memory_bytes", "digest")  # reasons with numbers of the sizing, which has tests of its own


def shown(place: Place, version: str, case: str) -> str:
    """The preview of a case, or its refusal, without what differs between machines."""
    try:
        changes = CASES[case]
        blackwell = hopper(8, (10, 0)) if changes.get("quantization") == "nvfp4" else None
        plan = place.plan(blackwell, version=version, **changes)
    except Refused as refusal:
        return f"refused: {refusal}\n"
    gpus = tuple(f"GPU-{n}" for n in range(plan.needs.devices))
    plan = replace(plan, reasons={name: why for name, why in plan.reasons.items() if name not in _COMPUTED})
    text = text_of(preview(place.kind(), plan, hopper(8), placement=Placement(gpus=gpus)))
    for real, stable in ((plan.digest[:16], "DIGEST"), (str(place.root), "/data"), (sys.executable, "python")):
        text = text.replace(real, stable)
    return text


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", CASES)
def test_what_runs_is_what_was_written_down(place: Place, version: str, case: str) -> None:
    """Byte for byte; ROUNDHOUSE_REWRITE_GOLDEN=1 writes the files anew."""
    golden, text = GOLDEN / f"{version}.{case}.txt", shown(place, version, case)
    if os.environ.get("ROUNDHOUSE_REWRITE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_no_golden_file_is_left_over() -> None:
    """Each file belongs to a version and a case, so none describes what is no longer tried."""
    assert {path.name for path in GOLDEN.iterdir()} == {f"{v}.{c}.txt" for v in VERSIONS for c in CASES}


def test_no_secret_is_shown(place: Place) -> None:
    """A value of a variable that sounds secret is nowhere in what is shown."""
    text = shown(place, "1.2.1", "quantised")
    assert "hf_abc" not in text and "HF_TOKEN=***" in text
