"""Whatever spec is accepted, what is sent is in the contract of its version, with each setting in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from trtllm_specs import SPEC

from engines.port import ContainerSpec, EngineSpec, LocalSettings, Speculative
from engines.trtllm.contract import Contract, Entry, contract_of
from engines.trtllm.engine import TensorRtLlm
from rollout.errors import Refused
from rollout.nouns import Engine

KIND = TensorRtLlm(LocalSettings("/engines"))
ENGINE = Engine("tensorrt_llm", "d" * 64, "/engines/tensorrt_llm-dddd", "chat", 0, 0.0, False)
OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "stream_interval": st.integers(0, 8),
    "max_beam_width": st.integers(0, 4),
    "max_batch_size": st.integers(1, 8),
    "cuda_graph_config": st.sampled_from([None, {"batch_sizes": [1, 2]}, {"enable_padding": False}]),
    "kv_cache_config": st.fixed_dictionaries({}, optional={"max_tokens": st.integers(0, 9), "dtype": st.just("fp8")}),
    "iter_perf_stats_interval": st.integers(0, 5),
    "enable_tqdm": st.booleans(),
    "trust_remote_code": st.booleans(),
    "speculative_config": st.fixed_dictionaries(
        {"decoding_type": st.sampled_from(["NGram", "MTP", "Eagle3", "Lookahead"])},
        optional={
            "max_draft_len": st.integers(0, 5),
            "max_matching_ngram_size": st.integers(0, 3),
            "speculative_model_dir": st.just("/m"),
            "eagle3_one_model": st.booleans(),
        },
    ),
}  # fmt: skip
FLAGS = (
    ("--log_level", "debug"), ("--trust_remote_code",), ("--max_beam_width=2",), ("--no-telemetry",), ("--tp_size=2",),
    ("--chat_template", "x"), ("--tensor_parallel_size", "2"), ("--served_model_name", "x"), ("--cluster_size=1",),
)  # fmt: skip
SPECS = st.builds(
    EngineSpec,
    kind=st.just("tensorrt_llm"),
    version=st.sampled_from(["1.1.0", "1.2.0", "1.2.1", "1.3.0rc3", "1.3.0rc15", "1.3.0rc22", "1.4.0rc1"]),
    recipe=st.sampled_from(["", "pytorch", "tensorrt"]),
    quantization=st.sampled_from(["none", "fp8", "nvfp4"]),
    tensor_parallel=st.sampled_from([1, 2, 4, 8]),
    pipeline_parallel=st.integers(1, 3),
    expert_parallel=st.sampled_from([1, 1, 2]),
    slots=st.integers(1, 64),
    context=st.integers(16, 8192),
    max_tokens=st.sampled_from([0, 0, 512]),
    chunked_prefill=st.sampled_from([0, 256, 2048]),
    prefix_reuse=st.booleans(),
    kv_cache_dtype=st.sampled_from(["auto", "auto", "auto", "fp8", "int8"]),
    speculative=st.builds(Speculative, st.sampled_from(["none", "none", "ngram", "draft"])),
    options=st.fixed_dictionaries({}, optional=OPTIONS),  # type: ignore[arg-type]
    flags=st.sampled_from([(), *FLAGS]),
    container=st.sampled_from([ContainerSpec(), None]),
)


@settings(max_examples=400, deadline=None)
@given(SPECS)
def test_what_is_accepted_is_in_the_contract(spec: EngineSpec) -> None:
    """The argument list has known flags, the YAML known keys of the backend, and no setting is in both."""
    if spec.speculative.method == "draft":
        spec = replace(spec, speculative=Speculative("draft", "models:/small/1"))
    try:
        KIND.check(spec)
    except Refused as refusal:
        assert refusal.field and refusal.fix
        return
    command, contract = KIND.serve_command(ENGINE, spec, "127.0.0.1", 18100), contract_of(spec.version)
    (text,) = command.files.values()
    flags = [contract.flags[word.partition("=")[0]] for word in command.argv if word.startswith("--")]
    values = yaml.safe_load(text)
    _walk(contract.keys, values, contract, spec.recipe or "pytorch")
    assert len({flag.name for flag in flags}) == len(flags)
    assert not {flag.key for flag in flags if flag.key and flag.key.split(".")[0] in values}
    assert values["max_batch_size"] == spec.slots or spec.recipe == "tensorrt"


def _walk(known: Mapping[str, Entry], values: Mapping[str, Any], contract: Contract, backend: str) -> None:
    for name, value in values.items():
        entry = known[name]
        assert entry.only in ("", backend)
        if entry.type == "speculative" and value:
            guessing = contract.speculative[value["decoding_type"]]
            assert backend in guessing.backends and set(guessing.needs) <= set(value)
            _walk({**guessing.keys, "decoding_type": Entry("")}, value, contract, backend)
        elif entry.keys is not None and value is not None:
            _walk(entry.keys, value, contract, backend)


@given(st.sampled_from(["1.1.0", "1.2.1", "1.3.0rc15", "1.3.0rc22"]), st.text(max_size=20))
def test_any_word_as_a_key_or_flag_is_known_or_refused(version: str, word: str) -> None:
    """Nothing that the version has not gets through, whatever it is called."""
    contract = contract_of(version)
    for changes, known in (({"options": {word: None}}, contract.keys), ({"flags": (f"--{word}",)}, contract.flags)):
        try:
            KIND.check(replace(SPEC, version=version, **changes))  # type: ignore[arg-type]
        except Refused:
            continue
        assert word in known or f"--{word}" in known
