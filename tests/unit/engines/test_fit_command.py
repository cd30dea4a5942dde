"""``roundhouse engine plan``: what it prints, how it ends, and that the docs show just that."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from rollout.errors import Refused

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "engine-plans.md"
SHOWN = re.findall(r"```console\n\$ roundhouse (.*)\n((?:.*\n)*?)```", PAGE.read_text(encoding="utf-8"))
LLAMA = str(ROOT / "docs" / "models" / "llama-3.1-8b.json")


def run(*words: str, **environment: str):
    return CliRunner().invoke(app, ["engine", "plan", *words], env=environment)


@pytest.mark.parametrize(("command", "output"), SHOWN, ids=[command for command, _ in SHOWN])
def test_the_page_shows_what_the_command_prints(command, output):
    """Line by line, without blank lines; a refusal is its last line."""
    words = [str(ROOT / word) if word.startswith("docs/") else word for word in shlex.split(command)]
    done = CliRunner().invoke(app, words)
    lines = [line.rstrip() for line in done.output.splitlines() if line.strip()]
    lines += [f"error {done.exception}"] if isinstance(done.exception, Refused) else []
    assert lines == output.splitlines()


def test_the_page_has_five_models():
    """And one refusal at least."""
    assert len({re.search(r"models/(\S+)\.json", command)[1] for command, _ in SHOWN}) == 5
    assert any("is refused" in output for _, output in SHOWN)


def test_a_script_gets_the_numbers():
    """Bytes of the fullest GPU, and vLLM's own share."""
    done = run(LLAMA, "--gpus", "1xH100", "--json")
    told = json.loads(done.output)
    assert (done.exit_code, told["fits"], told["tensor_parallel"]) == (0, True, 1)
    assert told["parameters"] == 8_030_261_248
    assert told["fit"]["kv_tokens"] * 131_072 <= told["fit"]["kv_bytes"]
    assert 0.8 < told["gpu_memory_utilization"] < 0.95
    assert [a["weights"] for a in told["alternatives"]] == ["bf16", "fp8", "int4_awq", "nvfp4"]


def test_gpus_that_are_left_and_not_linked_are_told():
    """Six L40S hold one instance of 70B over four of them, over PCIe."""
    told = run(str(ROOT / "docs" / "models" / "llama-3.1-70b.json"), "--gpus", "6xL40S", "--slots", "4").output
    assert "2 GPUs idle" in told
    assert "no NVLink" in told


def test_what_does_not_fit_ends_with_two():
    """The same record with the reason, then the refusal."""
    done = run(LLAMA, "--gpus", "1xT4", "--quantization", "fp16", "--json")
    told = json.loads(done.output)
    assert isinstance(done.exception, Refused)
    assert done.exception.exit_code == 2
    assert (told["fits"], told["why"]) == (False, str(done.exception))


@pytest.mark.parametrize(
    ("words", "field"),
    [
        ((LLAMA, "--gpus", "4xH1000"), "gpus"),
        ((LLAMA, "--gpus", "4xH100", "--tensor-parallel", "3"), "tensor_parallel"),
        ((LLAMA, "--gpus", "4xH100", "--context", "1000000"), "context"),
        ((LLAMA, "--gpus", "4xH100", "--quantization", "int3"), "quantization"),
        ((str(ROOT / "docs"), "--gpus", "4xH100"), "model"),
        (("/nowhere", "--gpus", "4xH100"), "model"),
        ((str(PAGE), "--gpus", "4xH100"), "model"),
        ((LLAMA, "--gpus", "4xH100", "--engine-file", "q8_0"), "engine"),
    ],
)
def test_bad_input_is_refused(words, field):
    """With the field at fault."""
    done = run(*words)
    assert isinstance(done.exception, Refused)
    assert done.exception.field == field


def test_a_way_that_a_release_refuses_ends_with_two():
    """One GPU, full of stable: the candidate could start only after nobody answers any more."""
    words = (LLAMA, "--gpus", "1xL4", "--context", "4096", "--slots", "8", "--beside", LLAMA)
    done, plain = run(*words, "--json"), run(*words)
    told = json.loads(done.output)
    assert (told["together"]["way"], told["fits"], told["why"]) == ("stop-start", False, str(done.exception))
    for refusal in (done.exception, plain.exception):
        assert isinstance(refusal, Refused) and (refusal.field, refusal.exit_code) == ("beside", 2)
        assert "a release refuses that" in str(refusal)


def test_an_engine_file_is_judged_as_it_is(tmp_path):
    """Its parallelism is not replaced by a better one."""
    (tmp_path / "configs" / "engines").mkdir(parents=True)
    (tmp_path / "configs" / "engines" / "wide.yaml").write_text("kind: engine\nengine: vllm\ntensor_parallel: 4\n")
    done = run(LLAMA, "--gpus", "4xH100", "--engine-file", "wide", "--json", ROUNDHOUSE_PROJECT=str(tmp_path))
    assert json.loads(done.output)["tensor_parallel"] == 4


def test_what_vllm_quantises_while_loading_is_planned():
    """Under its own names: FP8 by tensor is as large as FP8."""
    plain, named = (
        json.loads(run(LLAMA, "--gpus", "1xL4", "--quantization", name, "--json").output)["fit"]
        for name in ("fp8", "fp8_per_tensor")
    )
    assert plain == named


def test_without_gpus_the_machines_memory_is_planned(tmp_path):
    """A model of 2 million parameters fits any machine that runs these tests."""
    facts = {"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    facts |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 16_000, "max_position_embeddings": 512}
    (tmp_path / "config.json").write_text(json.dumps({**facts, "torch_dtype": "bfloat16"}))
    told = json.loads(run(str(tmp_path), "--gpus", "local", "--slots", "1", "--json").output)
    assert told["fits"]


def test_a_broken_config_is_refused(tmp_path):
    """Half a file, and a file that holds no object."""
    for text in ('{"architectures": [', "[]"):
        (tmp_path / "config.json").write_text(text)
        assert run(str(tmp_path), "--gpus", "1xH100").exception.field == "model"


def test_a_folder_of_gguf_is_for_llama_cpp(tmp_path):
    """The refusal says who serves it."""
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert "llama.cpp" in str(run(str(tmp_path), "--gpus", "1xH100").exception)
