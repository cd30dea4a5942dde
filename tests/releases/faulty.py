"""Candidates with one fault each, the service and policy that they are released under, and the load meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from whole_stack import until

from configs.stack import Stack
from gateway.tokens import TokenFile

SERVICE, MODEL, SOUND = "proving", "smollm2-proving", "proving"
TRAFFIC, TRAFFIC_AND_OUTPUTS = "proving", "proving-outputs"  # policies: asking both engines the same takes a minute
RATE = 8  # requests/s: what two engines of one thread each keep up with on two processors, with room for the stack

#: without the prefix cache each request costs what its prompt says, although all prompts are alike
_ENGINE = {"kind": "engine", "engine": "llama_cpp", "quantization": "Q8_0", "slots": 2, "context": 256, "threads": 1}
_ENGINE |= {"prefix_reuse": False}
_SERVICE = {"kind": "service", "name": SERVICE, "model": MODEL, "engine": SOUND, "rollout": TRAFFIC}
_SERVICE |= {"instances": 1, "response_timeout_s": 20}
#: No mirror stage: while copies are sent, stable serves everybody and the candidate half of that, and on two processors
#: the less loaded engine is the faster one. 2 % errors lie beyond what is allowed, 20 % on TTFT beyond its harm.
_ROLLOUT = {
    "kind": "rollout",
    "mirror_percent": 0,
    "steps_percent": [50],
    "margins": {
        "ttft": {"harm": 1.07, "allow": 1.18},
        "tpot": {"harm": 1.1, "allow": 1.3},
        "errors": {"harm_ratio": 1.05, "allow_percent": 1.8},
        "refusals": None,
        "abandoned": 0,
    },
    "min_samples": 50,
    "step_timeout_s": 900,
    "on_timeout": "roll_back",
    "warm_up_requests": 4,
    "stress": None,
    "keep_warm_s": 0,
}

_USERS = {"users_only": True}  # the warm-up would turn most of them back before the judge sees a request


@dataclass(frozen=True)
class Fault:
    """What is wrong with a candidate's engine, the metric that has to say so, and the words that it has to use."""

    name: str
    engine: dict[str, Any]
    metric: str
    words: tuple[str, ...]

    @property
    def rollout(self) -> str:
        """The policy that its candidate is released under."""
        return TRAFFIC_AND_OUTPUTS if self.metric == "outputs" else TRAFFIC

    @property
    def file(self) -> str:
        """The name of its engine file."""
        return f"proving-{self.name}"


FAULTS = (
    Fault(
        "late", {"faults": _USERS | {"ttft_stretch": 0.2}}, "TTFT", ("TTFT of the candidate", "proven above the margin")
    ),
    Fault(
        "slow",
        {"faults": _USERS | {"token_stretch": 0.5}},
        "TPOT",
        ("TPOT of the candidate", "proven above the margin"),
    ),
    Fault("failing", {"faults": _USERS | {"error_rate": 0.02}}, "errors", ("errors: candidate", "5xx")),
    Fault("cutting", {"faults": _USERS | {"cut_rate": 0.1}}, "errors", ("errors: candidate", " cut")),
    Fault("empty", {"faults": _USERS | {"empty_rate": 0.2}}, "errors", ("errors: candidate", " empty")),
    Fault("malformed", {"faults": _USERS | {"malformed_rate": 0.2}}, "errors", ("errors: candidate", " malformed")),
    Fault(
        "short",
        {"faults": _USERS | {"longest_prompt_bytes": 512}},
        "errors",
        ("5xx", "most of all in prompts of 0.5 to 2"),
    ),
    Fault("coarse", {"quantization": "Q2_K"}, "outputs", ("outputs",)),
)


def write_configs(project: Path) -> None:
    """The files of the service, its policy, its sound engine and one engine for each fault."""
    engines = {SOUND: {}, **{fault.file: fault.engine for fault in FAULTS}}
    files = {f"engines/{name}": _ENGINE | changes for name, changes in engines.items()}
    files |= {f"services/{SERVICE}": _SERVICE, f"rollouts/{TRAFFIC}": _ROLLOUT}
    files[f"rollouts/{TRAFFIC_AND_OUTPUTS}"] = _ROLLOUT | {"outputs": {}}
    for name, content in files.items():
        (project / "configs" / f"{name}.yaml").write_text(yaml.safe_dump(content))


@contextlib.contextmanager
def mixed_load(stack: Stack, folder: Path) -> Iterator[Path]:
    """Requests all the time, in a process of its own; the file with its counts."""
    token, out = folder / "token", folder / "counts.json"
    with open(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(TokenFile(stack.tokens).secret(SERVICE))
    script = Path(__file__).with_name("mixed_load.py")
    url = f"{stack.gateway_url}/api/predict/{SERVICE}"
    command = [sys.executable, str(script), url, str(token), str(out), str(RATE)]
    client = subprocess.Popen(command, cwd=stack.project, env=os.environ | {"PYTHONPATH": str(stack.project)})
    try:
        until(lambda: counts(out).get("answered", 0) > 0, 20, "a first answer")
        yield out
    finally:
        client.send_signal(signal.SIGTERM)
        try:
            client.wait(30)
        finally:
            client.kill()
            client.wait()


def counts(out: Path) -> dict[str, int]:
    """How many requests ended, by how."""
    return json.loads(out.read_text()) if out.exists() else {}
