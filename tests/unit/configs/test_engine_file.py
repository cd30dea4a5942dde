"""``configs/engines``: what a user may write, and what becomes of it."""

from dataclasses import asdict, fields

import pytest

from configs.engine_file import EngineFile
from configs.load import check
from engines.port import ContainerSpec, EngineSpec, Speculative, spec_of
from rollout.command import Command, is_secret, revealed
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


@pytest.mark.parametrize(
    ("written", "named"),
    [
        ({"environment": {"OPENAI_APIKEY": "hunter2hunter2"}}, "OPENAI_APIKEY"),
        ({"environment": {"HF_AUTH": "hunter2hunter2"}}, "HF_AUTH"),
        ({"environment": {"DATABASE_URL": "postgres://u:hunter2@h/d"}}, "DATABASE_URL"),
        ({"flags": ["--api-key", "hunter2hunter2"]}, "api-key"),
        ({"flags": ["--port=1", "--hf-token=hunter2hunter2"]}, "hf-token"),
        ({"flags": ["--store", "redis://:hunter2@h"]}, "store"),
        ({"options": {"hf_token": "hunter2hunter2"}}, "hf_token"),
        ({"options": {"a": [{"clientSecret": "hunter2hunter2"}]}}, "clientSecret"),
        ({"options": {"a": {"b": ["x", "https://u:hunter2@h"]}}}, "b"),
    ],
)
def test_a_secret_is_found_wherever_it_stands(written: dict[str, object], named: str) -> None:
    """In variables, options at any depth and flags, by name or as a password in a URL; it is never repeated."""
    with pytest.raises(Refused, match=f"{named} looks like a secret") as refusal:
        check(EngineFile, written, "x.yaml")
    assert "hunter2" not in str(refusal.value)


def test_ordinary_names_are_no_secrets() -> None:
    """Names of engines' own settings that only sound like one are taken, as variables, as options and as flags."""
    names = [
        "max_num_tokens",
        "tokenizer",
        "tokenizer_mode",
        "tokenizer_revision",
        "skip_tokenizer_init",
        "kv_cache",
        "kv_cache_dtype",
        "key_value",
        "key_value_cache",
        "kv_cache_config",
        "tokens_per_block",
        "eos_token_id",
        "eos_token",
        "pad_token",
        "bos_token_id",
        "stop_token_ids",
        "token_delay_s",
        "max_tokens_per_sequence",
        "num_speculative_tokens",
        "speculative_token_tree",
        "image_token_index",
        "monkey",
        "keyboard",
        "keep_alive",
        "author",
        "authors",
        "num_key_value_heads",
        "cache_key_prefix_len",
        "TOKENIZERS_PARALLELISM",
        "MODELOPT_EXAMPLES",
        "NCCL_DEBUG",
        "NCCL_SOCKET_IFNAME",
        "accredited",
        "ssl_keyfile",
        "ssl-keyfile",
        "api_key_file",
        "HF_TOKEN_PATH",
        "trust_remote_code",
        "max-num-batched-tokens",
        "tool-call-parser",
    ]
    for name in names:
        EngineFile(environment={name: "some-value"}, options={name: "some-value"}, flags=(f"--{name}", "some-value"))
    EngineFile(flags=("--long-prefill-token-threshold", "256", "--otlp", "http://127.0.0.1:4317"))
    assert not any(is_secret(name) for name in names)


def test_a_reference_is_looked_up_when_it_starts() -> None:
    """The command holds the name; the value comes from where it is started, or its absence is an error."""
    command = Command(("x",), {"HF_TOKEN": "$MY_TOKEN", "A": "$1 and more"})
    assert revealed(command.env, {"MY_TOKEN": "t"}) == {"HF_TOKEN": "t", "A": "$1 and more"}
    with pytest.raises(NotFound, match="MY_TOKEN"):
        revealed(command.env, {})
