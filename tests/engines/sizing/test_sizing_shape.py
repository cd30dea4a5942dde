"""Parameter counts and shapes from config.json alone, against public models and transformers' own modules."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from public_models import MODELS, QUANTISED, VARIANTS

from engines.sizing.families import FAMILIES
from engines.sizing.shape import ModelShape, read_shape
from rollout.errors import Refused

LLAMA = MODELS["meta-llama/Llama-3.1-8B"]["config"]
QWEN_MOE = MODELS["Qwen/Qwen1.5-MoE-A2.7B"]["config"]


def test_table_is_large_enough() -> None:
    """The table has at least 40 public models, and each family that we claim."""
    assert len(MODELS) >= 40
    claimed = {family.name for family in FAMILIES}
    assert {read_shape(entry["config"]).family for entry in MODELS.values()} == claimed


@pytest.mark.parametrize("name", [*MODELS, *QUANTISED])
def test_count_of_public_model(name: str) -> None:
    """The count from config.json alone is the published one, to the last parameter."""
    entry = {**MODELS, **QUANTISED}[name]
    assert read_shape(entry["config"]).parameters == entry["parameters"]


@pytest.mark.parametrize("name", VARIANTS)
def test_count_of_variant(name: str) -> None:
    """Each option and default of a family counts as transformers counts it."""
    assert read_shape(VARIANTS[name]["config"]).parameters == VARIANTS[name]["parameters"]


@pytest.mark.parametrize("name", MODELS)
def test_parts_are_parts(name: str) -> None:
    """What is said of parts is consistent: none exceeds the whole, and a dense model is active in all of it."""
    s = read_shape(MODELS[name]["config"])
    named = s.embedding_parameters + s.head_parameters + s.expert_parameters + s.vector_parameters + s.vision_parameters
    assert named + s.kv_parameters + s.replicated_parameters < s.parameters
    assert (s.head_parameters == 0) == s.tied
    assert (s.active_parameters == s.parameters) == (s.experts == 0)
    assert s.active_parameters > s.embedding_parameters


@pytest.mark.parametrize(
    ("name", "active"),
    [
        ("mistralai/Mixtral-8x7B-v0.1", 12_879_925_248),  # 46.7B with 12.9B active: Mixtral's paper
        ("Qwen/Qwen3-30B-A3B", 3_353_032_704),  # 3.3B: all but 120 of 128 experts in 48 layers
        ("openai/gpt-oss-20b", 4_187_440_704),  # 3.61B without the input matrix of 579,133,440
        ("deepseek-ai/DeepSeek-V3", 37_552_297_472),  # 37B
    ],
)
def test_active_parameters(name: str, active: int) -> None:
    """A token passes through all but the experts that it is not sent to."""
    assert read_shape(MODELS[name]["config"]).active_parameters == active


def test_shape_of_small_model() -> None:
    """SmolLM2-135M: 9 heads, 3 of keys and values, 64 wide, output matrix tied."""
    s = read_shape(MODELS["HuggingFaceTB/SmolLM2-135M"]["config"])
    assert (s.layers, s.heads, s.kv_heads, s.head_dim, s.tied) == (30, 9, 3, 64, True)
    assert (s.embedding_parameters, s.head_parameters, s.attention_width) == (49152 * 576, 0, 576)
    assert (s.kv_parameters, s.vector_parameters) == (30 * 2 * 576 * 192, 61 * 576)


def test_shape_of_latent_attention() -> None:
    """DeepSeek-V3 keeps 512 + 64 numbers per token and layer, and each rank has the down projections whole."""
    s = read_shape(MODELS["deepseek-ai/DeepSeek-V3"]["config"])
    assert (s.latent, s.head_dim, s.attention_width, s.moe_layers) == (576, 192, 128 * 128, 58)
    assert s.replicated_parameters == 61 * 7168 * (1536 + 576)


@pytest.mark.parametrize(
    ("name", "window"),
    [
        ("mistralai/Mistral-7B-v0.1", (4096, 32)),
        ("mistralai/Mistral-7B-v0.3", (0, 0)),
        ("Qwen/Qwen2-7B", (0, 0)),
        ("google/gemma-2-9b", (4096, 21)),
        ("google/gemma-3-27b-it", (1024, 52)),
        ("google/gemma-3-1b-pt", (512, 22)),
        ("openai/gpt-oss-20b", (128, 12)),
        ("microsoft/Phi-3-mini-4k-instruct", (2047, 32)),
        ("meta-llama/Llama-3.1-8B", (0, 0)),
    ],
)
def test_sliding_windows(name: str, window: tuple[int, int]) -> None:
    """Which layers keep only a window of tokens is read as transformers reads it."""
    s = read_shape(MODELS[name]["config"])
    assert (s.window, s.windowed_layers) == window


def test_layer_types_are_believed() -> None:
    """A list of layer types says which layers slide, whatever the family's pattern."""
    types = ["sliding_attention"] * 5 + ["full_attention"] * 37
    s = read_shape(MODELS["google/gemma-2-9b"]["config"] | {"layer_types": types})
    assert (s.window, s.windowed_layers) == (4096, 5)


def test_window_of_qwen_begins_at_a_layer() -> None:
    """Qwen2 slides only where it is told to, from max_window_layers on."""
    changed = {"use_sliding_window": True, "max_window_layers": 20, "sliding_window": 1024}
    s = read_shape(MODELS["Qwen/Qwen2-7B"]["config"] | changed)
    assert (s.window, s.windowed_layers) == (1024, 8)


@pytest.mark.parametrize(
    ("change", "positions"),
    [
        ({}, 2048),
        ({"max_position_embeddings": 8192}, 8192),
        ({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 131072),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4.0}}, 16384),
        ({"max_position_embeddings": 4096, "model_max_length": 65536}, 65536),
        ({"max_position_embeddings": 32768, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, 32768),
    ],
)
def test_longest_request(change: dict[str, Any], positions: int) -> None:
    """Linear and dynamic scaling of positions lengthen requests; other kinds are in the number already."""
    assert read_shape(LLAMA | change).max_positions == positions


def test_architecture_from_model_type() -> None:
    """A configuration without architectures is known by its model_type."""
    config = {k: v for k, v in LLAMA.items() if k != "architectures"} | {"model_type": "llama"}
    assert read_shape(config) == read_shape(LLAMA)


@pytest.mark.parametrize(
    ("settings_", "expected"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, ("int4_awq", 64, "")),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, ("int8_gptq", 0, "")),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, ("fp8_block", 128, "")),
        ({"quant_method": "fp8", "activation_scheme": "static"}, ("fp8", 0, "")),
        ({"quant_method": "mxfp4"}, ("mxfp4", 32, "")),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}, ("nvfp4", 16, "")),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "group_0": {
                        "weights": {"type": "float", "num_bits": 8, "strategy": "channel"},
                        "input_activations": {"type": "float", "num_bits": 8},
                    }
                },
                "kv_cache_scheme": {"type": "float", "num_bits": 8},
            },
            ("fp8", 0, "fp8"),
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"type": "int", "num_bits": 4, "group_size": 128}}},
            },
            ("int4_awq", 128, ""),
        ),
    ],
)
def test_stored_format(settings_: dict[str, Any], expected: tuple[str, int, str]) -> None:
    """The format, group and KV dtype of a quantised checkpoint are read from quantization_config."""
    s = read_shape(LLAMA | {"quantization_config": settings_})
    assert (s.quantization, s.group_size, s.kv_quantization) == expected


def test_stored_format_of_modelopt_file() -> None:
    """hf_quant_config.json, which ModelOpt writes beside config.json, says the same."""
    beside = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}
    s = read_shape(LLAMA, beside)
    assert (s.quantization, s.kv_quantization) == ("fp8", "fp8")


REFUSED = [
    ({"architectures": ["FalconForCausalLM"]}, "architectures", "LlamaForCausalLM"),
    ({"architectures": "LlamaForCausalLM"}, "architectures", "list"),
    ({"hidden_size": None}, "hidden_size", "missing"),
    ({"hidden_size": "4096"}, "hidden_size", "whole number"),
    ({"hidden_size": 4096.0}, "hidden_size", "whole number"),
    ({"num_attention_heads": 0}, "num_attention_heads", "from 1"),
    ({"num_attention_heads": 6, "num_key_value_heads": 2}, "num_attention_heads", "4096"),
    ({"num_key_value_heads": -8}, "num_key_value_heads", "from 1"),
    ({"num_key_value_heads": 5}, "num_key_value_heads", "32"),
    ({"num_hidden_layers": 10**6}, "num_hidden_layers", "10000"),
    ({"vocab_size": True}, "vocab_size", "whole number"),
    ({"tie_word_embeddings": "yes"}, "tie_word_embeddings", "true or false"),
    ({"torch_dtype": "int3"}, "torch_dtype", "bfloat16"),
    ({"quantization_config": {"quant_method": "magic"}}, "quantization_config.quant_method", "size"),
    ({"quantization_config": {"quant_method": "awq", "bits": 3}}, "quantization_config.bits", "4"),
    ({"quantization_config": 4}, "quantization_config", "object"),
    ({"rope_scaling": {"type": "linear", "factor": -2}}, "rope_scaling.factor", "number"),
]


@pytest.mark.parametrize(("change", "field", "said"), REFUSED)
def test_impossible_value_is_refused_by_name(change: dict[str, Any], field: str, said: str) -> None:
    """A missing or impossible value is refused with its key, the rule and a fix."""
    with pytest.raises(Refused) as refused:
        read_shape(LLAMA | change)
    assert refused.value.field == field
    assert said in refused.value.rule + refused.value.fix
    assert refused.value.fix


def test_more_experts_per_token_than_experts_is_refused() -> None:
    """A token cannot go to more experts than there are."""
    with pytest.raises(Refused, match="num_experts_per_tok: 61 is refused: there are 60 experts"):
        read_shape(QWEN_MOE | {"num_experts_per_tok": 61})


def test_missing_text_config_is_refused() -> None:
    """A model with an image tower must describe its language model."""
    config = {k: v for k, v in MODELS["google/gemma-3-4b-it"]["config"].items() if k != "text_config"}
    with pytest.raises(Refused, match="text_config"):
        read_shape(config)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
CONFIGS = [entry["config"] for entry in (*MODELS.values(), *QUANTISED.values(), *VARIANTS.values())]


def _only_refuses(config: Any, quantization: Any = None) -> None:
    try:
        shape = read_shape(config, quantization)
    except Refused as refused:
        assert refused.field and refused.rule and refused.fix
    else:
        assert isinstance(shape, ModelShape) and 0 < shape.active_parameters <= shape.parameters


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_garbled_configuration_never_crashes(data: st.DataObject) -> None:
    """Whatever stands in whichever keys, at any depth, the answer is a shape or a refusal that names the key."""
    config = copy.deepcopy(data.draw(st.sampled_from(CONFIGS)))
    for _ in range(data.draw(st.integers(1, 3))):
        inside = [config] + [value for value in config.values() if isinstance(value, dict)]
        target = data.draw(st.sampled_from(inside))
        extra = [
            "rope_scaling",
            "torch_dtype",
            "sliding_window",
            "layer_types",
            "head_dim",
            "quantization_config",
            "mlp_only_layers",
        ]
        key = data.draw(st.sampled_from([*target, *extra]))
        if data.draw(st.booleans()):
            target.pop(key, None)
        else:
            target[key] = data.draw(JUNK | st.integers(-2, 2**20))
    _only_refuses(config)


@settings(max_examples=150, deadline=None)
@given(JUNK, JUNK)
def test_garbled_quantization_never_crashes(inner: Any, beside: Any) -> None:
    """Quantisation settings of any kind are read or refused."""
    for method in ("awq", "gptq", "fp8", "modelopt", "compressed-tensors", inner):
        garbled = {"quant_method": method, "bits": inner, "weight_block_size": inner, "quant_algo": inner}
        _only_refuses(LLAMA | {"quantization_config": garbled | {"config_groups": {"a": {"weights": inner}}}})
        _only_refuses(LLAMA | {"quantization_config": garbled | {"config_groups": inner, "kv_cache_scheme": beside}})
    _only_refuses(LLAMA, beside)
    _only_refuses(LLAMA, {"quantization": inner})


@given(JUNK)
def test_anything_at_all_never_crashes(config: Any) -> None:
    """What is no configuration is refused."""
    with pytest.raises(Refused):
        read_shape(config)
