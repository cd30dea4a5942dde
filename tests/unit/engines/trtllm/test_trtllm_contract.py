"""What a version takes: versions and their lines, flags and keys that came, were renamed or went, types and choices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from trtllm_specs import SPEC, VERSIONS

from engines.port import EngineSpec, Faults, LocalSettings, Speculative
from engines.trtllm.contract import contract_of, elsewhere, lines
from engines.trtllm.engine import TensorRtLlm
from engines.trtllm.yaml_config import served
from rollout.errors import Refused

KIND = TensorRtLlm(LocalSettings("unused"))
NGRAM = {"decoding_type": "NGram", "max_draft_len": 4, "max_matching_ngram_size": 3}
EAGLE = {"decoding_type": "Eagle3", "max_draft_len": 4, "speculative_model_dir": "/models/eagle"}
LOOKAHEAD = {"decoding_type": "Lookahead", "max_window_size": 4, "max_ngram_size": 3, "max_verification_set_size": 4}


def refusal(**changes: Any) -> Refused:
    """What the spec with changes is refused with."""
    with pytest.raises(Refused) as found:
        KIND.check(replace(SPEC, **changes))
    return found.value


@pytest.mark.parametrize(
    ("version", "line", "precedence", "tensorrt"),
    [
        ("1.1.0", "1.1", "yaml", True),
        ("1.2.1", "1.2", "yaml", True),
        ("1.2.0rc6.post3", "1.2", "yaml", True),
        ("1.3.0rc15", "1.3", "yaml", True),
        ("1.3.0rc22", "1.3", "flags", False),
        ("1.3.0rc29", "1.3", "flags", False),
    ],
)
def test_a_version_has_the_facts_of_its_line(version: str, line: str, precedence: str, tensorrt: bool) -> None:
    """Line, who wins between YAML and flags, whether TensorRT engines exist, the image's tag."""
    contract = contract_of(version)
    assert (contract.line, contract.precedence, "tensorrt" in contract.backends) == (line, precedence, tensorrt)
    assert contract.image == f"nvcr.io/nvidia/tensorrt-llm/release:{version}"


@pytest.mark.parametrize("version", ["1.4.0rc1", "0.9", "2.0", "newest", "1.0.0"])
def test_an_unknown_version_is_refused(version: str) -> None:
    """The refusal says which versions are known."""
    found = refusal(version=version)
    assert found.field == "version" and "1.2.1" in str(found)


def test_no_version_named_is_the_newest_release() -> None:
    """In a container; not a release candidate."""
    assert KIND.metrics(replace(SPEC, version="")) == KIND.metrics(replace(SPEC, version="1.2.1"))


@pytest.mark.parametrize(
    ("version", "flag", "fix"),
    [
        ("1.1.0", "--config=x", "version 1.2.0rc5 or later"),
        ("1.1.0", "--tensor_parallel_size=2", "--tp_size is its older name"),
        ("1.1.0", "--tool_parser=x", "version 1.2 or later"),
        ("1.2.1", "--served_model_name=x", "version 1.3.0rc7 or later"),
        ("1.2.1", "--grpc", "version 1.3.0rc3 or later"),
        ("1.2.1", "--kv_cache_dtype=fp8", "set kv_cache_dtype of the engine file"),
        ("1.3.0rc3", "--no-telemetry", "version 1.3.0rc11 or later"),
        ("1.3.0rc15", "--num_serve_frontends=2", "version 1.3.0rc22 or later"),
        ("1.2.1", "--model=x", "positional"),
        ("1.2.1", "--api-key=x", "the gateway"),
        ("1.2.1", "--reasoning_parse=x", "did you mean --reasoning_parser"),
        ("1.2.1", "--port=1", "remove it"),
        ("1.2.1", "--backend=pytorch", "remove it"),
        ("1.2.1", "--cluster_size=2", "options.moe_cluster_parallel_size"),
        ("1.2.1", "--log_level=debu", "did you mean debug"),
        ("1.2.1", "--gpus_per_node=four", "correct it"),
        ("1.2.1", "--trust_remote_code=yes", "alone"),
        ("1.2.1", "debug", "--name value"),
        ("1.2.1", "--log_level", "--log_level VALUE"),
        ("1.2.1", "--tp_size=2", "set tensor_parallel of the engine file"),
        ("1.3.0rc22", "--kv_cache_dtype=fp8", "set kv_cache_dtype of the engine file"),
    ],
)
def test_a_flag_that_the_version_has_not_is_refused(version: str, flag: str, fix: str) -> None:
    """Unknown, younger, renamed, ours, of the wrong type, without a value, or said by the YAML already."""
    found = refusal(version=version, flags=(flag,))
    assert found.field.startswith("flags") and fix in found.fix


def test_a_flag_given_twice_is_refused() -> None:
    """Under whichever of its names."""
    assert "before" in str(refusal(flags=("--revision", "a", "--revision", "b")))


@pytest.mark.parametrize(
    ("options", "field", "fix"),
    [
        ({"max_batch": 1}, "options.max_batch", "did you mean max_batch_size"),
        ({"kv_cache_dtype": "fp8"}, "options.kv_cache_dtype", "kv_cache_dtype of the engine file"),
        ({"quant_config": {}}, "options.quant_config", "quantization of the engine file"),
        ({"max_batch_size": 4}, "options.max_batch_size", "set slots"),
        ({"kv_cache_config": {"dtype": "fp8"}}, "options.kv_cache_config.dtype", "set kv_cache_dtype"),
        ({"kv_cache_config": None}, "options.kv_cache_config", "correct it"),
        ({"kv_cache_config": {"max_tokes": 4}}, "options.kv_cache_config.max_tokes", "did you mean max_tokens"),
        ({"kv_cache_config": {"max_tokens": "4"}}, "options.kv_cache_config.max_tokens", "correct it"),
        ({"kv_cache_config": {"use_kv_cache_manager_v2": True}}, "options.kv_cache_config.use", "1.3.0rc3 or later"),
        ({"stream_interval": 0}, "options.stream_interval", "choose"),
        ({"stream_interval": True}, "options.stream_interval", "correct it"),
        ({"attn_backend": "FLASHINFR"}, "options.attn_backend", "did you mean FLASHINFER"),
        ({"fast_build": True}, "options.fast_build", "use recipe tensorrt"),
        ({"model": "x"}, "options.model", "remove it"),
        ({"cuda_graph_config": {"batch_sizes": [1], "max_batch_size": 2}}, "options.cuda_graph_config", "one of them"),
        ({"scheduler_config": {"dynamic_batch_config": {}}}, "options.scheduler_config.dynamic", "add enable_batch"),
        ({"context_parallel_size": 2}, "options.context_parallel_size", "use 1"),
        ({"moe_tensor_parallel_size": 3}, "options.moe_*", "expert_parallel"),
        ({"pp_partition": [4, 4]}, "options.pp_partition", "give 1 numbers"),
        ({"speculative_config": {"decoding_type": "Draft_Target"}}, "options.speculative_config.d", "DraftTarget"),
        ({"speculative_config": {**NGRAM, "max_matching_ngram_size": 0}}, "options.speculative_config.max_m", "choose"),
        ({"speculative_config": {"decoding_type": "NGram", "max_draft_len": 4}}, "options.speculative_config.", "add"),
        ({"speculative_config": {**NGRAM, "relaxed_topk": 1}}, "options.speculative_config.relaxed_topk", "remove"),
        ({"speculative_config": LOOKAHEAD}, "options.speculative_config.decoding_type", "use one of"),
        (
            {"speculative_config": NGRAM, "disable_overlap_scheduler": False},
            "options.disable_overlap",
            "set it to true",
        ),
        ({"speculative_config": {**EAGLE, "speculative_model": "/x"}}, "options.speculative_config", "alone"),
        ({"speculative_config": {**EAGLE, "speculative_model_dir": "x"}}, "options.speculative_config.sp", "absolute"),
        ({"build": {"no_such": 1}}, "options.build", "use"),
    ],
)
def test_a_key_that_cannot_be_is_refused(options: dict[str, Any], field: str, fix: str) -> None:
    """Unknown at any depth, decided by a field, of the wrong type, out of its bounds, or against another key."""
    found = refusal(options=options)
    assert found.field.startswith(field) and fix in found.fix


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"recipe": "tensorrt", "version": "1.3.0rc22"}, "recipe"),
        ({"recipe": "tensorrt", "options": {"stream_interval": 2}}, "options.stream_interval"),
        ({"recipe": "tensorrt", "options": {"speculative_config": NGRAM}}, "options.speculative_config"),
        ({"kv_cache_dtype": "int8"}, "kv_cache_dtype"),
        ({"recipe": "tensorrt", "kv_cache_dtype": "nvfp4"}, "kv_cache_dtype"),
        ({"dtype": "fp8"}, "dtype"),
        ({"quantization": "Q8_0"}, "quantization"),
        ({"faults": Faults(error_rate=0.5)}, "faults"),
        ({"chunked_prefill": 0, "max_tokens": 64}, "max_tokens"),
        ({"speculative": Speculative("ngram"), "options": {"speculative_config": EAGLE}}, "options.speculative_config"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(changes: dict[str, Any], field: str) -> None:
    """What recipe, backend and fields exclude."""
    assert refusal(**changes).field.startswith(field)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "options",
    [
        {"kv_cache_config": {"max_tokens": 4096, "host_cache_size": 1 << 30}},
        {"cuda_graph_config": None},
        {"cuda_graph_config": {"batch_sizes": [1, 2, 4]}},
        {"scheduler_config": {"capacity_scheduler_policy": "MAX_UTILIZATION"}},
        {"speculative_config": EAGLE},
        {"speculative_config": {"decoding_type": "MTP", "num_nextn_predict_layers": 1}},
        {"max_beam_width": 2, "stream_interval": 4, "guided_decoding_backend": "xgrammar"},
        {"load_format": "dummy"},
    ],
)
def test_options_that_every_version_has_are_taken(version: str, options: dict[str, Any]) -> None:
    """They are in the YAML as they were given."""
    values = served(replace(SPEC, version=version, options=options), contract_of(version)).values
    for name, value in options.items():
        assert values[name] == value if not isinstance(value, dict) else value.items() <= values[name].items()


def test_guesses_without_overlap_switch_it_off() -> None:
    """DraftTarget, NGram and two-model Eagle3 exclude the overlap scheduler; one-model Eagle3 does not."""

    def off(spec: EngineSpec) -> bool:
        return served(spec, contract_of("1.2.1"), "/draft").values.get("disable_overlap_scheduler", False)

    two = {"speculative_config": {**EAGLE, "eagle3_one_model": False}}
    assert off(replace(SPEC, speculative=Speculative("ngram")))
    assert off(replace(SPEC, speculative=Speculative("draft", "models:/small/1")))
    assert off(replace(SPEC, options=two))
    assert not off(replace(SPEC, options={"speculative_config": EAGLE}))


def test_what_versions_think_of_differently_is_stated() -> None:
    """A key whose default is not the same in all versions is in the YAML of every version, with the same value."""
    contracts = [contract_of(version) for version in VERSIONS]
    shared = set.intersection(*({*contract.keys} for contract in contracts))
    differing = {name for name in shared if len({repr(c.keys[name].default) for c in contracts}) > 1}
    stated = [served(replace(SPEC, version=c.version), c).values for c in contracts]
    assert differing == {"max_beam_width", "fail_fast_on_attention_window_too_large"}
    assert len({str({name: values[name] for name in sorted(differing)}) for values in stated}) == 1
    assert all(contract.telemetry == {"TRTLLM_NO_USAGE_STATS": "1"} for contract in contracts)


def test_what_is_not_established_is_said() -> None:
    """A flag or key that is only known from a younger version is sent, and named."""
    asked = replace(SPEC, flags=("--chat_template", "x.jinja"), options={"enable_sleep": True})
    assert served(asked, contract_of("1.2.1")).unsure == ("options.enable_sleep", "flags --chat_template")
    assert served(SPEC, contract_of("1.2.1")).unsure == ()


def test_the_pages_of_metrics_follow_the_version() -> None:
    """To 1.3.0rc5 the cache's use is in the JSON alone; from then on on Prometheus' page, and read from there only."""
    names = {v: [set(page.names) for page in KIND.metrics(replace(SPEC, version=v))] for v in VERSIONS}
    assert "kv_cache_used" in names["1.2.1"][1] - names["1.2.1"][0]
    assert "kv_cache_used" in names["1.3.0rc15"][0] - names["1.3.0rc15"][1]
    assert "requests_waiting" in names["1.3.0rc15"][1] and "requests_waiting" in names["1.3.0rc22"][0]
    assert all({"ttft_s", "tpot_s", "e2e_s"} <= pages[0] for pages in names.values())


def test_every_entry_of_a_later_line_is_found() -> None:
    """A flag's first version is known whatever its name."""
    assert lines() == ("1.1", "1.2", "1.3")
    assert elsewhere("flags", "--config") == ("1.2.0rc5", "--extra_llm_api_options")
    assert elsewhere("keys", "kv_cache_config.max_util_for_resume") == ("1.3.0rc3", "max_util_for_resume")
    assert elsewhere("flags", "--nothing") == ("", "")
