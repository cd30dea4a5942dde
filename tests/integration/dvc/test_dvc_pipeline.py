"""`dvc repro` on a clone of this project: the real model from fetch to compare and stress, without a stack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_repro_makes_metrics_that_diff_shows_and_a_second_one_does_nothing(tmp_path: Path, sample_gguf: Path) -> None:
    """Another quantisation builds and evaluates again, and `dvc metrics diff` tells what it changed."""
    clone = tmp_path / "clone"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    keep = {"PATH": path, "ROUNDHOUSE_CACHE": str(sample_gguf.parents[2]), "DVC_SITE_CACHE_DIR": str(tmp_path / "site")}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=clone, env=os.environ | keep, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    run("dvc", "repro", "-q")
    shown = json.loads(run("dvc", "metrics", "show", "--json"))[""]["data"]
    assert shown["build/dvc/evaluation.json"]["data"]["tokens_per_s"] > 0
    agreement = shown["build/dvc/agreement.json"]["data"]
    assert agreement["outcome"] == "promote" and agreement["perplexity_ratio"] < 1.5 and agreement["equal_tokens"] > 0.5
    assert shown["build/dvc/stress/metrics.json"]["data"]["failed"] == 0
    assert "up to date" in run("dvc", "repro")
    run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qam", "measured")
    engine = clone / "configs" / "engines" / "q8_0.yaml"
    engine.write_text(engine.read_text().replace("quantization: Q8_0", "quantization: Q4_0"))
    run("dvc", "repro", "-q", "evaluate")
    changed = json.loads(run("dvc", "metrics", "diff", "--json"))["build/dvc/evaluation.json"]["bytes"]
    assert changed["new"] < changed["old"]
    run("dvc", "plots", "show", "-o", str(tmp_path / "plots"))
    assert "ttft_p50" in (tmp_path / "plots" / "index.html").read_text()
