"""A preview says what would run, for any engine, and never a secret; its command line works."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from tiny_models import write_tiny
from trtllm_builds import hopper
from trtllm_specs import SPEC, Place, write_place
from typer.testing import CliRunner

from cli.main import app
from engines.hardware import Hardware
from engines.memory import MemoryEngine
from engines.port import (
    BuildPlan,
    EngineSpec,
    LocalSettings,
    MemorySettings,
    Placement,
    ServeCommand,
    open_engine,
)
from engines.preview import docker_line, preview, record_of, text_of
from engines.trtllm.multinode import Nodes, launch, spread
from rollout.command import GIB, Container, Mount
from rollout.errors import Refused


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Models and a folder for engines."""
    return write_place(tmp_path_factory.mktemp("preview"))


def test_llama_cpp_is_shown_as_a_process(tmp_path: Path) -> None:
    """What it does in words, since it builds without commands; its server's command; its reasons."""
    kind = open_engine("llama_cpp", LocalSettings(str(tmp_path / "engines")))
    plan = kind.plan(write_tiny(tmp_path / "tiny").version, EngineSpec(context=128), hopper(0))
    shown = preview(kind, plan, hopper(0), placement=Placement(cores=(0, 1)))
    assert shown.build == () and shown.steps == plan.steps and not shown.docker and not shown.nodes
    assert "engines.llama_server" in shown.serve and shown.reasons == plan.reasons
    assert all(f"# {step}" in text_of(shown) for step in plan.steps)


def test_any_engine_can_be_shown(place: Place) -> None:
    """The in-memory one too; the record is plain JSON."""
    kind = open_engine("llama_cpp", MemorySettings())
    shown = preview(kind, kind.plan(place.model, EngineSpec(), hopper(0)), hopper(0))
    assert json.loads(json.dumps(record_of(shown)))["serve"].startswith("serve-from-memory")


class Foreseeing(MemoryEngine):
    """An engine whose command follows the machine."""

    def serve_planned(
        self, plan: BuildPlan, hardware: Hardware, host: str, port: int, placement: Placement
    ) -> ServeCommand:
        """As many GPUs as there are."""
        return ServeCommand(("serve", "--gpus", str(len(hardware.gpus)), "--model", plan.model.name))


def test_an_engine_may_say_what_it_would_run_on_a_machine(place: Place) -> None:
    """Where the command depends on the built files or the machine, the engine is asked with the plan."""
    kind = Foreseeing()
    assert (
        preview(kind, kind.plan(place.model, EngineSpec(), hopper(3)), hopper(3)).serve == "serve --gpus 3 --model tiny"
    )


def test_secrets_are_masked_everywhere(place: Place) -> None:
    """In the environment of builds and servers, and where their value stands elsewhere; other values are shown."""
    environment = {"HF_TOKEN": "hf_0123456789", "DB_PASSWORD": "pw", "NCCL_DEBUG": "INFO", "MODELOPT_EXAMPLES": "/m"}
    options = {"model_kwargs": {"token": "hf_0123456789"}}
    plan = place.plan(quantization="fp8", environment=environment, options=options)
    shown = preview(place.kind(), plan, hopper(1))
    text = text_of(shown) + json.dumps(record_of(shown))
    assert "hf_0123456789" not in text and "PASSWORD=pw" not in text
    assert "HF_TOKEN=***" in text and "token: ***" in text and "NCCL_DEBUG=INFO" in text


def test_the_line_of_a_container_can_be_typed() -> None:
    """Each wish is one of docker run's own; a shell gives back what was meant."""
    box = Container(
        "image:1",
        ("GPU-1", "GPU-2"),
        2 * GIB,
        (Mount("/a b", "/a"), Mount("/o", "/o", False)),
        {"memlock": -1},
        "",
        "sh",
    )
    words = shlex.split(docker_line(("serve", "--name", "x y"), {"A": "1"}, box, "127.0.0.1", 18100))
    assert words[:3] == ["docker", "run", "--rm"] and words[-4:] == ["image:1", "serve", "--name", "x y"]
    pairs = list(pairwise(words))
    for pair in (
        ("--gpus", '"device=GPU-1,GPU-2"'),
        ("--shm-size", "2g"),
        ("--ulimit", "memlock=-1"),
        ("-v", "/a b:/a:ro"),
        ("-v", "/o:/o"),
        ("-e", "A=1"),
        ("-p", "127.0.0.1:18100:18100"),
        ("--entrypoint", "sh"),
    ):
        assert pair in pairs
    shared = docker_line((), {}, replace(box, gpus=("all",), ipc="host"))
    assert "--gpus all --ipc host" in shared and "--shm-size" not in shared


@pytest.mark.parametrize(
    ("tensor", "pipeline", "per_node", "expected"),
    [
        (8, 1, None, None),
        (8, 2, None, Nodes(2, 8)),
        (4, 1, 2, Nodes(2, 2)),
        (6, 2, None, Nodes(2, 6)),
        (16, 4, 8, Nodes(8, 8)),
    ],
)
def test_ranks_are_spread_evenly(tensor: int, pipeline: int, per_node: int | None, expected: Nodes | None) -> None:
    """As many on each node, and all of them TP x PP; one node where it will do."""
    options = {"gpus_per_node": per_node} if per_node else {}
    spec = replace(SPEC, tensor_parallel=tensor, pipeline_parallel=pipeline, options=options)
    assert spread(spec) == expected


def test_ranks_that_do_not_spread_are_refused() -> None:
    """Eleven ranks over nodes of eight."""
    with pytest.raises(Refused, match="11 ranks"):
        spread(replace(SPEC, tensor_parallel=11))


def test_the_launch_over_nodes_counts_ranks() -> None:
    """Under mpirun and Slurm alike: TP x PP ranks, the launcher of NVIDIA, then the server as on one node."""
    for launcher in ("mpirun", "srun"):
        words = launch(("trtllm-serve", "/m"), Nodes(2, 8), launcher)
        assert words[:3] == (launcher, "-n", "16")
        assert words[-5:] == ("trtllm-llmapi-launch", "trtllm-serve", "/m", "--gpus_per_node", "8")
    assert "--gpus_per_node" not in launch(("trtllm-serve",), Nodes(2, 8), stated=True)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one engine file, and a model folder."""
    (tmp_path / "configs" / "engines").mkdir(parents=True)
    (tmp_path / "configs" / "engines" / "tp4.yaml").write_text(
        "kind: engine\nengine: tensorrt_llm\nversion: 1.2.1\ntensor_parallel: 4\nslots: 8\ncontext: 256\n"
        "container: {}\noptions: {gpus_per_node: 2}\n"
    )
    (tmp_path / "configs" / "stack.yaml").write_text("kind: stack\n")
    write_tiny(tmp_path / "tiny")
    monkeypatch.setenv("ROUNDHOUSE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ROUNDHOUSE_PROJECT", str(tmp_path))
    return tmp_path


def test_the_command_shows_a_plan_for_gpus_that_are_not_here(project: Path) -> None:
    """Commands, YAML, container, launch over nodes, reasons; nothing is built."""
    asked = ["engine", "preview", "tp4", "--model", str(project / "tiny"), "--gpus", "4xH100"]
    shown = CliRunner().invoke(app, asked)
    assert shown.exit_code == 0, shown.output
    for part in ("# link files", "tensor_parallel_size: 4", "docker run", "device=H100-0", "mpirun -n 4", "== why"):
        assert part in shown.output
    record = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert record["engine"] == "tensorrt_llm 1.2.1" and "max_batch_size: 8" in next(iter(record["files"].values()))
    assert not (project / "home" / "engines").exists()


def test_the_command_refuses_what_cannot_be(project: Path) -> None:
    """Too few GPUs, no model named, a config.json alone: with what to do."""
    asked, alone = ["engine", "preview", "tp4", "--gpus", "2xH100"], ["--model", str(project / "tiny" / "config.json")]
    for more, words in (
        (["--model", str(project / "tiny")], "4 GPUs and there are 2"),
        ([], "name one: --model"),
        (alone, "`engine plan`"),
    ):
        refused = CliRunner().invoke(app, [*asked, *more])
        assert isinstance(refused.exception, Refused) and words in str(refused.exception)
