"""``configs/engines``: what a user may write, and what becomes of it."""

from dataclasses import asdict, fields

import pytest

from configs.engine_file import EngineFile
from configs.load import check
from engines.port import ContainerSpec, EngineSpec, Speculative, spec_of
from rollout.command import Command, revealed
from rollout.errors import NotFound, Refused


def test_every_setting_of_an_engine_can_be_written() -> None:
    """The file and the spec have the same fields, and the same defaults."""
    assert {f.name for f in fields(EngineSpec)} == set(EngineFile.model_fields) - {"engine"}
    assert EngineFile().spec() == EngineSpec()


def test_a_whole_file_reaches_the_spec() -> None:
    """Nested settings, TensorRT-LLM's names of batch and length, and the way through the store and back."""
    file = check(
        EngineFile,
        {
            "engine": "tensorrt_llm",
            "max_batch_size": 64,
            "max_seq_len": 8192,
            "max_num_tokens": 4096,
            "speculative": {"method": "draft", "draft_model": "models:/small/1"},
            "options": {"kv_cache_config": {"enable_partial_reuse": False}},
            "container": {"shm_gib": 8},
            "environment": {"HF_TOKEN": "$HF_TOKEN", "NCCL_DEBUG": "WARN"},
        },
        "x.yaml",
    )
    spec = file.spec()
    assert (spec.slots, spec.context, spec.max_tokens, spec.quantization) == (64, 8192, 4096, "none")
    assert spec.speculative == Speculative("draft", "models:/small/1", 4)
    assert spec.container == ContainerSpec(shm_gib=8)
    assert spec_of(asdict(spec)) == spec


def test_an_older_record_has_todays_defaults() -> None:
    """What an older store does not know is as if it had not been written."""
    assert spec_of({"kind": "llama_cpp", "quantization": "F16", "slots": 3}) == EngineSpec(quantization="F16", slots=3)


@pytest.mark.parametrize("name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "API_KEY"])
def test_a_secret_is_refused_and_not_repeated(name: str) -> None:
    """A literal secret is refused; the error says how to refer to one, and does not hold it."""
    with pytest.raises(Refused, match=rf"write `{name}: \${name}`") as refusal:
        check(EngineFile, {"environment": {name: "hunter2hunter2"}}, "x.yaml")
    assert "hunter2" not in str(refusal.value)


def test_a_reference_is_looked_up_when_it_starts() -> None:
    """The command holds the name; the value comes from where it is started, or its absence is an error."""
    command = Command(("x",), {"HF_TOKEN": "$MY_TOKEN", "A": "$1 and more"})
    assert revealed(command.env, {"MY_TOKEN": "t"}) == {"HF_TOKEN": "t", "A": "$1 and more"}
    with pytest.raises(NotFound, match="MY_TOKEN"):
        revealed(command.env, {})
