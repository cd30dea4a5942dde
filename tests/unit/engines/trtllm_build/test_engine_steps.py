"""Running the commands of a build: logs, secrets, interruption, and plain words for what went wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from trtllm_builds import PATIENCE_S, marked, until

from engines.port import BuildPlan, BuildStep, EngineSpec
from engines.steps import build_in, failure, placed, run_here, tail
from rollout.command import Command, Container, Mount
from rollout.errors import Corrupt, Unavailable
from rollout.nouns import ModelVersion

CHILD = "import subprocess as s; s.Popen(['sleep', '77']); print('up', flush=True); s.run(['sleep', '77'])"


def python(code: str, **more: object) -> Command:
    """A command that runs this code."""
    return Command((sys.executable, "-c", code), **more)  # type: ignore[arg-type]


def plan(*commands: Command, files: dict[str, str] | None = None) -> BuildPlan:
    """A plan of these commands."""
    model = ModelVersion("m", "1", "file:m", "/m", (), "safetensors", "LlamaForCausalLM", 1, "d")
    steps = tuple(BuildStep(f"step {number}", command) for number, command in enumerate(commands))
    return BuildPlan(model, EngineSpec(), "d", "/e", (), 0, 0, commands=steps, files=files or {})


def test_output_is_appended_to_the_log(tmp_path: Path) -> None:
    """Standard output and error of each command, after the command itself; earlier lines stay."""
    log = tmp_path / "log"
    log.write_text("before\n")
    run_here(python("import sys; print('out'); print('err', file=sys.stderr)", env={"X": "1"}), str(log))
    lines = log.read_text().splitlines()
    assert lines[0] == "before" and lines[1].startswith("$ ") and set(lines[2:]) == {"out", "err"}


def test_a_missing_program_is_said_so(tmp_path: Path) -> None:
    """Nothing is started and nothing written."""
    with pytest.raises(Unavailable, match="trtllm-build is not installed here"):
        run_here(Command(("trtllm-build",), {"PATH": str(tmp_path)}), str(tmp_path / "log"))
    assert not (tmp_path / "log").exists()


def test_secrets_do_not_reach_the_log(tmp_path: Path) -> None:
    """What a tool prints of a secret variable is masked, over any division of its output; other values are not."""
    code = (
        "import os, sys; [(sys.stdout.write(c), sys.stdout.flush()) for c in os.environ['HF_TOKEN'] + os.environ['TP']]"
    )
    log = tmp_path / "log"
    run_here(python(code, env={"HF_TOKEN": "hf_abcdefgh", "TP": " and 2"}), str(log))
    assert "hf_abcdefgh" not in log.read_text() and "*** and 2" in log.read_text()


def test_a_command_runs_on_its_cores(tmp_path: Path) -> None:
    """The processors that are named, and no other."""
    core = min(os.sched_getaffinity(0))
    log = tmp_path / "log"
    run_here(python("import os; print(sorted(os.sched_getaffinity(0)))", cores=(core,)), str(log))
    assert tail(str(log)) == f"[{core}]"


REASONS = {
    "CUDA out of memory. Tried to allocate 2.00 GiB": (Unavailable, "too little free memory"),
    "OSError: [Errno 28] No space left on device": (Unavailable, "no space is left"),
    "OSError: [Errno 27] File too large": (Unavailable, "limit for one file"),
    "OSError: GPU is required for inference.": (Unavailable, "no GPU can be used"),
    "AssertionError: Unsupported model architecture: GptOss": (Corrupt, "architecture is not supported"),
    "safetensors_rust.SafetensorError: Error while deserializing header": (Corrupt, "damaged or truncated"),
    "trtllm-build: error: unrecognized arguments: --x": (Unavailable, "does not know one of the flags"),
    "ModuleNotFoundError: No module named 'tensorrt_llm'": (Unavailable, "not installed"),
    "something else": (Unavailable, "its last lines"),
}


@pytest.mark.parametrize("said", REASONS)
def test_a_known_reason_becomes_a_plain_sentence(said: str) -> None:
    """With the tool's name and its own last words."""
    kind, words = REASONS[said]
    found = failure(("/usr/bin/python3", "/x/quantize.py", "--dtype"), 1, f"Traceback\n{said}")
    assert (
        type(found) is kind
        and words in str(found)
        and str(found).startswith("quantize.py failed")
        and said in str(found)
    )


def test_a_killed_command_is_named_as_such(tmp_path: Path) -> None:
    """Most often the kernel did it, for want of memory."""
    with pytest.raises(Unavailable, match="was killed"):
        run_here(python("import os; os.kill(os.getpid(), 9)"), str(tmp_path / "log"))


def test_what_a_command_leaves_running_is_ended(tmp_path: Path) -> None:
    """A child that outlives its parent and holds its output does not outlive the step."""
    code = "import subprocess; subprocess.Popen(['sleep', '77'])"
    run_here(python(code, env={"MARK": str(tmp_path)}), str(tmp_path / "log"))
    until(lambda: not marked(str(tmp_path)))
    assert marked(str(tmp_path)) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_command_dies_with_its_builder(tmp_path: Path, number: int) -> None:
    """The whole group, grandchildren too, whatever ends the builder."""
    log = tmp_path / "log"
    code = (
        "from engines.steps import run_here; from rollout.command import Command; import sys\n"
        f"run_here(Command((sys.executable, '-c', {CHILD!r}), {{'MARK': {str(tmp_path)!r}}}), {str(log)!r})"
    )
    builder = subprocess.Popen((sys.executable, "-c", code), stderr=subprocess.DEVNULL)
    until(lambda: log.exists() and "\nup" in log.read_text() and len(marked(str(tmp_path))) >= 3)
    builder.send_signal(number)
    builder.wait(PATIENCE_S)
    until(lambda: not marked(str(tmp_path)))
    assert builder.returncode != 0


def test_out_is_replaced_everywhere() -> None:
    """In arguments, environment and mounts; the rest stays."""
    box = Container("image", mounts=(Mount("{out}", "{out}", read_only=False), Mount("/m", "/m")))
    found = placed(Command(("tool", "--to={out}/engine"), {"CACHE": "{out}/work"}, box), "/e")
    assert found.argv == ("tool", "--to=/e/engine") and found.env == {"CACHE": "/e/work"}
    assert found.container is not None
    assert [(m.host, m.inside, m.read_only) for m in found.container.mounts] == [
        ("/e", "/e", False),
        ("/m", "/m", True),
    ]


def test_a_build_writes_files_runs_steps_and_says_how_long(tmp_path: Path) -> None:
    """Files first, then each step with its share done; seconds by step, and one log."""
    told: list[tuple[str, float]] = []
    clock = iter(range(100))
    steps = (python("print(open('{out}/conf/a.yaml').read())"), python("open('{out}/made', 'w')"))
    doing = plan(*steps, files={"conf/a.yaml": "key: 1"})
    build_in(doing, tmp_path, lambda *t: told.append(t), None, lambda: next(clock))
    assert told == [("step 0", 0.0), ("step 1", 0.5)]
    assert json.loads((tmp_path / "build.json").read_text()) == {"seconds": {"step 0": 1, "step 1": 1}}
    assert "key: 1" in (tmp_path / "build.log").read_text() and (tmp_path / "made").exists()


def test_a_container_step_goes_to_who_runs_containers(tmp_path: Path) -> None:
    """With the same log; where nobody can, the build says so."""
    seen: list[tuple[Command, str]] = []
    boxed = Command(("trtllm-build", "{out}"), container=Container("nvcr.io/x"))
    build_in(plan(boxed), tmp_path, lambda *_: None, lambda command, log: seen.append((command, log)))
    assert [(c.argv[1], log) for c, log in seen] == [(str(tmp_path), str(tmp_path / "build.log"))]
    with pytest.raises(Unavailable, match=r"needs the container nvcr\.io/x"):
        build_in(plan(boxed), tmp_path, lambda *_: None, None)


def test_the_log_of_a_failed_build_is_kept(tmp_path: Path) -> None:
    """Beside the engines, since the directory of a failed build is removed."""
    building = tmp_path / "tensorrt_llm-12.building"
    building.mkdir()
    with pytest.raises(Unavailable, match=r"\.logs/tensorrt_llm-12\.log") as failed:
        build_in(plan(python("print('because'); raise SystemExit(3)")), building, lambda *_: None, None)
    assert "exit 3" in str(failed.value) and "because" in str(failed.value)
    assert "because" in (tmp_path / ".logs" / "tensorrt_llm-12.log").read_text()
