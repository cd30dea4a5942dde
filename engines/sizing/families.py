"""The families of models that we can size: what each one's layers have, and what transformers fills in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from engines.sizing import vision
from engines.sizing.keys import Keys


@dataclass(frozen=True)
class ExpertKeys:
    """Under which keys a family writes its experts down; empty: it has none of that."""

    count: str
    intermediate: str
    shared_intermediate: str = ""  # width of the shared expert
    shared_count: str = ""  # number of shared experts, each as wide as a routed one
    dense_first: str = ""  # number of dense layers before the first with experts
    sparse_step: str = ""  # each nth layer has experts
    sparse_from: int = 0  # counting layers from this number
    dense_layers: str = ""  # list of layers that are dense
    shared_gate: bool = False
    bias: bool = False  # of experts and router
    correction: bool = False


@dataclass(frozen=True)
class Family:
    """One family. A bias is True, False or the key that says so; ``defaults`` are those of its transformers class."""

    name: str
    architectures: tuple[str, ...]  # the first is that of ``model_type``
    model_types: tuple[str, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    gated: bool = True
    qkv_bias: bool | str = False
    output_bias: bool | str = False
    mlp_bias: bool | str = False
    head_bias: bool | str = False
    norms: int = 2
    norm_bias: bool = False
    qk_norm: bool | str = False
    sinks: bool = False
    latent: bool = False
    experts: ExpertKeys | None = None
    window: str = ""  # which layers slide: "all", "from max_window_layers", "all but each nth", "none"
    window_step: int = 1  # of "all but each nth": n, where the configuration does not say
    vision: Callable[[Keys, int], vision.Tower] | None = None


_FULL_GEMMA3 = {  # a nested text_config omits what equals the default
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
}
_MISTRAL = {"num_key_value_heads": 8, "sliding_window": 4096, "max_position_embeddings": 131072}
_QWEN = {"num_key_value_heads": 32, "max_window_layers": 28, "max_position_embeddings": 32768}
_DEEPSEEK = {
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
}
_DEEPSEEK_EXPERTS = ExpertKeys(
    "n_routed_experts",
    "moe_intermediate_size",
    shared_count="n_shared_experts",
    dense_first="first_k_dense_replace",
    sparse_step="moe_layer_freq",
)

FAMILIES = (
    Family(
        "llama",
        ("LlamaForCausalLM",),
        ("llama",),
        {"max_position_embeddings": 2048},
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        mlp_bias="mlp_bias",
    ),
    Family("mistral", ("MistralForCausalLM",), ("mistral",), _MISTRAL, window="all"),
    Family(
        "mistral3",
        ("Mistral3ForConditionalGeneration",),
        ("mistral3",),
        _MISTRAL | {"spatial_merge_size": 2},
        window="all",
        vision=vision.pixtral,
    ),
    Family(
        "mixtral",
        ("MixtralForCausalLM",),
        ("mixtral",),
        {
            "num_key_value_heads": 8,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "max_position_embeddings": 131072,
        },
        experts=ExpertKeys("num_local_experts", "intermediate_size"),
        window="all",
    ),
    Family("qwen2", ("Qwen2ForCausalLM",), ("qwen2",), _QWEN, qkv_bias=True, window="from max_window_layers"),
    Family(
        "qwen3",
        ("Qwen3ForCausalLM",),
        ("qwen3",),
        _QWEN | {"head_dim": 128},
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        qk_norm=True,
        window="from max_window_layers",
    ),
    Family(
        "qwen2_moe",
        ("Qwen2MoeForCausalLM",),
        ("qwen2_moe",),
        {
            "num_key_value_heads": 16,
            "max_window_layers": 28,
            "max_position_embeddings": 32768,
            "qkv_bias": True,
            "num_experts": 60,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
        },
        qkv_bias="qkv_bias",
        experts=ExpertKeys(
            "num_experts",
            "moe_intermediate_size",
            shared_intermediate="shared_expert_intermediate_size",
            sparse_step="decoder_sparse_step",
            sparse_from=1,
            dense_layers="mlp_only_layers",
            shared_gate=True,
        ),
        window="from max_window_layers",
    ),
    Family(
        "qwen3_moe",
        ("Qwen3MoeForCausalLM",),
        ("qwen3_moe",),
        {
            "num_key_value_heads": 4,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
            "max_window_layers": 28,
            "max_position_embeddings": 32768,
        },
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        qk_norm=True,
        experts=ExpertKeys(
            "num_experts",
            "moe_intermediate_size",
            sparse_step="decoder_sparse_step",
            sparse_from=1,
            dense_layers="mlp_only_layers",
        ),
        window="from max_window_layers",
    ),
    Family(
        "gemma",
        ("GemmaForCausalLM",),
        ("gemma",),
        {"num_key_value_heads": 16, "head_dim": 256, "max_position_embeddings": 8192, "tie_word_embeddings": True},
        qkv_bias="attention_bias",
        output_bias="attention_bias",
    ),
    Family(
        "gemma2",
        ("Gemma2ForCausalLM",),
        ("gemma2",),
        {
            "num_key_value_heads": 4,
            "head_dim": 256,
            "sliding_window": 4096,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": True,
        },
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        norms=4,
        window="all but each nth",
        window_step=2,
    ),
    Family(
        "gemma3",
        ("Gemma3ForCausalLM",),
        ("gemma3_text",),
        _FULL_GEMMA3,
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        norms=4,
        qk_norm=True,
        window="all but each nth",
        window_step=6,
    ),
    Family(
        "gemma3",
        ("Gemma3ForConditionalGeneration",),
        ("gemma3",),
        _FULL_GEMMA3,
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        norms=4,
        qk_norm=True,
        window="all but each nth",
        window_step=6,
        vision=vision.siglip,
    ),
    Family(
        "phi",
        ("PhiForCausalLM",),
        ("phi",),
        {"max_position_embeddings": 2048},
        gated=False,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        head_bias=True,
        norms=1,
        norm_bias=True,
        qk_norm="qk_layernorm",
    ),
    Family("phi3", ("Phi3ForCausalLM",), ("phi3",), {"max_position_embeddings": 4096}, window="all"),
    Family(
        "phimoe",
        ("PhimoeForCausalLM", "PhiMoEForCausalLM"),
        ("phimoe",),
        {
            "num_key_value_heads": 8,
            "num_local_experts": 16,
            "num_experts_per_tok": 2,
            "max_position_embeddings": 131072,
        },
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        head_bias="lm_head_bias",
        norm_bias=True,
        experts=ExpertKeys("num_local_experts", "intermediate_size"),
        window="all",
    ),
    Family(
        "deepseek_v2",
        ("DeepseekV2ForCausalLM",),
        ("deepseek_v2",),
        _DEEPSEEK | {"max_position_embeddings": 2048},
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        latent=True,
        experts=_DEEPSEEK_EXPERTS,
    ),
    Family(
        "deepseek_v3",
        ("DeepseekV3ForCausalLM",),
        ("deepseek_v3",),
        _DEEPSEEK | {"first_k_dense_replace": 3, "n_shared_experts": 1, "max_position_embeddings": 4096},
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        latent=True,
        experts=ExpertKeys(**{**vars(_DEEPSEEK_EXPERTS), "correction": True}),
    ),
    Family(
        "gpt_oss",
        ("GptOssForCausalLM",),
        ("gpt_oss",),
        {
            "num_key_value_heads": 8,
            "head_dim": 64,
            "attention_bias": True,
            "sliding_window": 128,
            "num_local_experts": 128,
            "num_experts_per_tok": 4,
            "max_position_embeddings": 131072,
        },
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        sinks=True,
        experts=ExpertKeys("num_local_experts", "intermediate_size", bias=True),
        window="all but each nth",
        window_step=2,
    ),
)

BY_ARCHITECTURE = {name: family for family in FAMILIES for name in family.architectures}
BY_MODEL_TYPE = {name: family for family in FAMILIES for name in family.model_types}
