"""A made-up release as its files tell it, for tests and for looking at the page."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reports.samples_file import BEFORE, FILE, SampleFile
from rollout.evidence import fresh, next_stage, with_samples
from rollout.judge import judge
from rollout.nouns import Sample, Samples
from rollout.policy import Policy

POLICY = Policy(mirror=200, steps=(50, 250), objectives=None, settle_s=0.0)
T0 = 1_700_000_000.0


def request(rng: random.Random, at: float, version: int, slower: float = 1.0, **more: Any) -> Sample:
    """One answer; the candidate's first token takes ``slower`` times as long."""
    cached = rng.random() < 0.4
    first = (0.05 if cached else 0.15) * rng.lognormvariate(0, 0.4) * slower
    tokens = rng.randint(8, 120)
    failed = rng.random() < 0.01
    return Sample(
        at=at,
        version=version,
        mirrored=bool(more.pop("mirrored", False)),
        failed=failed,
        ttft_s=None if failed else first,
        total_s=None if failed else first + tokens * 0.012 * rng.lognormvariate(0, 0.1),
        tokens_out=None if failed else tokens,
        error="5xx" if failed else "",
        bytes_in=more.pop("bytes_in", rng.choice([200, 900, 5000])),
        cached=cached,
        instance=f"chat-v{version}-0",
        **more,
    )


def stage_of(rng: random.Random, stage: int, slower: float, begin: float, seconds: int = 240) -> Samples:
    """What both arms did in a stage, at five requests a second."""
    stable, candidate = [], []
    for number in range(seconds * 5):
        at, name, size = begin + number / 5, f"s{stage}-{number}", rng.choice([200, 900, 5000])
        if stage == 0:
            stable.append(request(rng, at, 1, request_id=name, bytes_in=size))
            if rng.random() < 0.2:
                candidate.append(request(rng, at, 2, slower, request_id=name, bytes_in=size, mirrored=True))
            continue
        weight = POLICY.steps[stage - 1] / 1000
        hit = rng.random() < weight
        arm = candidate if hit else stable
        arm.append(request(rng, at, 2 if hit else 1, slower if hit else 1.0, weight=weight, request_id=name))
    return Samples(tuple(stable), tuple(candidate))


def past_release(directory: Path, slower: float = 1.0, seed: int = 1) -> dict[str, Any]:
    """Write samples, looks and outputs of a release into its folder; its evidence."""
    rng, evidence, file, at = random.Random(seed), fresh(POLICY), SampleFile(directory / FILE), T0
    file.append(BEFORE, [request(rng, T0 - 900 + n, 1) for n in range(800)])
    lines, stages = [], []
    for stage, name in enumerate(("mirror", "canary 5 %", "canary 25 %")):
        evidence, samples = next_stage(evidence, stage), stage_of(rng, stage, slower, at)
        file.append(name, (*samples.stable, *samples.candidate))
        for step in range(24):
            begin, end = at + step * 10, at + step * 10 + 10
            arms = [tuple(s for s in arm if begin <= s.at < end) for arm in (samples.stable, samples.candidate)]
            evidence = with_samples(evidence, Samples(*arms))
            verdict = judge(evidence, POLICY, (stage + 1) / 3)
            look = {"at": end, "stage": name, "canary_permille": 0 if stage == 0 else POLICY.steps[stage - 1]}
            look |= {"mirror_permille": 200 if stage == 0 else 0, "outcome": str(verdict.outcome)}
            findings = [asdict(f) for f in verdict.findings]
            lines.append(json.dumps({**look, "reason": verdict.reason, "forecast": "", "findings": findings}))
        stages.append({"stage": name, "outcome": str(verdict.outcome), "seconds": 240.0})
        at += 240
    (directory / "looks.jsonl").write_text("\n".join(lines) + "\n")
    (directory / "outputs.json").write_text(json.dumps(OUTPUTS))
    harmful = str(verdict.outcome) == "roll back"
    return {
        "release": "chat-1f0c2ab3",
        "service": "chat",
        "outcome": "rolled back" if harmful else "promoted",
        "reason": verdict.reason,
        "model": "models:/smollm2/2",
        "engine": {"digest": "d" * 64, "cached": True, "size": 1, "build_s": 0.0},
        "stable": 1,
        "candidate": 2,
        "policy": "standard",
        "rules": asdict(POLICY),
        "begun_at": T0,
        "ended_at": at,
        "findings": findings,
        "stages": stages,
        "stress": {"requests": 64.0, "failed": 0.0, "ttft_p95": 0.21},
        "seconds": {"fetch": 1.2, "build": 0.1, "evidence": 720.0},
        "gpu": {"build": {"power_w": 212.0}, "evidence": {"power_w": 355.5, "used_gib": 41.0}},
    }


OUTPUTS = {
    "finding": {"sentence": "not yet proven: defects: perplexity of right answers is 1.02x stable's (64 answers)"},
    "agreement": {
        "examples": [
            {
                "difference": 0.8,
                "prompt": "Write a page that says <b>hello</b>.",
                "stable": "<b>hello</b>",
                "candidate": "</pre><script>alert('it runs')</script><img src=http://there.example/x>",
                "diverged_at": 0,
                "gain": -0.41,
                "id": "",
            },
            {
                "difference": 0.3,
                "prompt": "",
                "stable": "",
                "candidate": "",
                "diverged_at": 12,
                "gain": None,
                "id": "9f2c",
            },
        ]
    },
}
