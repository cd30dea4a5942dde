"""A model's shape, read from its ``config.json`` alone: every number that sizing and the parallel rules need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from engines.sizing.families import BY_ARCHITECTURE, BY_MODEL_TYPE, FAMILIES, Family
from engines.sizing.keys import LARGEST, Keys
from engines.sizing.parameters import Counts, Decoder, Experts, Latent, count
from engines.sizing.stored import stored_format
from engines.sizing.vision import Tower
from rollout.errors import Refused

MOST_LAYERS = 10_000
_SCALED_ALREADY = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling")  # their rope_type
_DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True)
class ModelShape:
    """What a Hugging Face configuration says of a model. Counts are exact and in parameters, not bytes.

    ``parameters`` is the sum of the parts: ``embedding_parameters``, ``head_parameters`` (0 where the output matrix is
    the input one), ``vision_parameters``, ``vector_parameters`` and the matrices of the layers. Of these matrices,
    ``expert_parameters`` are routed experts, ``kv_parameters`` the key and value projections (copied when there are
    more ranks than KV heads) and ``replicated_parameters`` those that each rank of a tensor parallel group has whole.
    """

    architecture: str  # class name of transformers, "LlamaForCausalLM"
    family: str  # "llama", "qwen2", "qwen3_moe" ...
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int  # of the dense layers; 0: there are none
    vocabulary: int
    tied: bool
    max_positions: int  # tokens that a request may have
    dtype: str  # of the checkpoint's weights: "bfloat16", "float16", "float32"
    parameters: int
    embedding_parameters: int
    head_parameters: int
    active_parameters: int  # that one token passes through: all but the experts that it is not sent to
    experts: int = 0  # 0: dense
    experts_per_token: int = 0
    moe_intermediate: int = 0
    shared_intermediate: int = 0  # of all shared experts together
    moe_layers: int = 0
    expert_parameters: int = 0
    kv_parameters: int = 0
    replicated_parameters: int = 0
    vector_parameters: int = 0  # norms, biases, routers: never quantised, small, whole on each rank
    vision_parameters: int = 0  # of an image tower and its projector
    vision_heads: int = 0
    attention_width: int = 0  # inputs of attention's output matrix: heads times the width of a value
    window: int = 0  # tokens that a sliding-window layer keeps; 0: none
    windowed_layers: int = 0
    latent: int = 0  # numbers kept per token and layer by MLA (kv_lora_rank + qk_rope_head_dim); 0: no MLA
    quantization: str = ""  # key of weight_formats.WEIGHTS that the checkpoint is stored in; "": not quantised
    group_size: int = 0  # weights that share a scale, of a quantised checkpoint; 0: per channel or tensor
    kv_quantization: str = ""  # dtype of keys and values that the checkpoint asks for: "fp8", "nvfp4"; "": none


def read_shape(config: Mapping[str, Any], quantization: Mapping[str, Any] | None = None) -> ModelShape:
    """The shape of the model that a ``config.json`` describes; what it omits has the default of transformers.

    ``quantization`` is the content of ``hf_quant_config.json`` where the model has one (written by ModelOpt).
    Raises Refused naming the architecture or the key, its value, the rule and what to do.
    """
    if not isinstance(config, Mapping):
        raise Refused("config.json", type(config).__name__, "an object is needed", "take the model's own config.json")
    architecture, family = _family(config)
    outer = Keys(config, family.defaults)
    text = outer
    if family.vision:
        nested = outer.mapping("text_config")
        if not nested:
            raise outer.refuse("text_config", f"{architecture} describes its language model there")
        text = Keys(nested, family.defaults | _tied_outside(config), "text_config.")
    decoder = _decoder(text, family)
    tower = family.vision(outer, decoder.hidden) if family.vision else Tower(0, 0)
    shape = _shape(architecture, family.name, decoder, count(decoder, tower.parameters))
    stored, (window, windowed) = stored_format(config, quantization), _window(text, family)
    return replace(
        shape,
        max_positions=_positions(text, family),
        dtype=_dtype(outer, text),
        vision_heads=tower.heads,
        window=window,
        windowed_layers=windowed,
        quantization=stored.weights,
        group_size=stored.group,
        kv_quantization=stored.kv,
    )


def _family(config: Mapping[str, Any]) -> tuple[str, Family]:
    """By the first architecture; a configuration without any is known by its model_type."""
    names = Keys(config).items("architectures", str) or []
    model_type = config.get("model_type")
    if names and names[0] in BY_ARCHITECTURE:
        return names[0], BY_ARCHITECTURE[names[0]]
    if not names and isinstance(model_type, str) and model_type in BY_MODEL_TYPE:
        family = BY_MODEL_TYPE[model_type]
        return family.architectures[0], family
    known = ", ".join(family.architectures[0] for family in FAMILIES)
    raise Refused("architectures", names or model_type, "we cannot size this architecture", f"use one of: {known}")


def _tied_outside(config: Mapping[str, Any]) -> dict[str, Any]:
    name = "tie_word_embeddings"
    return {name: config[name]} if isinstance(config.get(name), bool) else {}


def _says(keys: Keys, told: bool | str) -> bool:
    return keys.flag(told) if isinstance(told, str) else told


def _decoder(keys: Keys, family: Family) -> Decoder:
    hidden, heads = keys.count("hidden_size"), keys.count("num_attention_heads")
    layers = keys.count("num_hidden_layers", most=MOST_LAYERS)
    latent = _latent(keys) if family.latent else None
    kv_heads = heads if latent else keys.count_or("num_key_value_heads", heads)
    if heads % kv_heads:
        raise keys.refuse("num_key_value_heads", f"it must divide num_attention_heads, which is {heads}")
    experts = _experts(keys, family, layers)
    return Decoder(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=latent.nope + latent.rope if latent else _head_dim(keys, hidden, heads),
        intermediate=0 if experts and experts.layers == layers else keys.count("intermediate_size"),
        vocabulary=keys.count("vocab_size"),
        tied=keys.flag("tie_word_embeddings"),
        gated=family.gated,
        qkv_bias=_says(keys, family.qkv_bias),
        output_bias=_says(keys, family.output_bias),
        mlp_bias=_says(keys, family.mlp_bias),
        head_bias=_says(keys, family.head_bias),
        norms=family.norms,
        norm_bias=family.norm_bias,
        qk_norm=_says(keys, family.qk_norm),
        sinks=family.sinks,
        latent=latent,
        experts=experts,
    )


def _head_dim(keys: Keys, hidden: int, heads: int) -> int:
    if keys.raw("head_dim") is not None:
        return keys.count("head_dim")
    if hidden % heads:
        raise keys.refuse("num_attention_heads", f"without head_dim it must divide hidden_size, which is {hidden}")
    return hidden // heads


def _latent(keys: Keys) -> Latent:
    return Latent(
        query_rank=keys.count_or("q_lora_rank", 0),
        rank=keys.count("kv_lora_rank"),
        rope=keys.count("qk_rope_head_dim"),
        nope=keys.count("qk_nope_head_dim"),
        value=keys.count("v_head_dim"),
    )


def _experts(keys: Keys, family: Family, layers: int) -> Experts | None:
    e = family.experts
    if e is None:
        return None
    renamed = e.count not in keys.config and "num_local_experts" in keys.config  # transformers 5 writes one name
    total = keys.count_or("num_local_experts" if renamed else e.count, 0, least=0)
    moe_layers = _expert_layers(keys, family, layers) if total else 0
    if not moe_layers:
        return None
    per_token = keys.count("num_experts_per_tok")
    if per_token > total:
        raise keys.refuse("num_experts_per_tok", f"there are {total} experts")
    width = keys.count(e.intermediate)
    shared = keys.count_or(e.shared_intermediate, 0, least=0) if e.shared_intermediate else 0
    shared += width * keys.count_or(e.shared_count, 0, least=0) if e.shared_count else 0
    return Experts(
        count=total,
        per_token=per_token,
        intermediate=width,
        layers=moe_layers,
        shared_intermediate=shared,
        shared_gate=e.shared_gate,
        router_bias=e.bias,
        bias=e.bias,
        correction=e.correction,
    )


def _expert_layers(keys: Keys, family: Family, layers: int) -> int:
    """How many layers have experts. Source: DecoderLayer of each family in transformers."""
    e = family.experts
    assert e is not None
    first = keys.count_or(e.dense_first, 0, least=0) if e.dense_first else 0
    step = keys.count_or(e.sparse_step, 1) if e.sparse_step else 1
    dense = set(keys.items(e.dense_layers, int) or []) if e.dense_layers else set()
    return sum(i >= first and (i + e.sparse_from) % step == 0 and i not in dense for i in range(layers))


def _window(keys: Keys, family: Family) -> tuple[int, int]:
    """Tokens that a layer with a sliding window keeps, and the number of such layers."""
    window = keys.count_or("sliding_window", 0, least=0) if family.window else 0
    layers, told = keys.count("num_hidden_layers"), keys.items("layer_types", str)
    if not window or (family.window.startswith("from") and not keys.flag("use_sliding_window")):
        return 0, 0
    if told is not None:
        sliding = told.count("sliding_attention")
    elif family.window == "all":
        sliding = layers
    elif family.window.startswith("from"):
        sliding = max(0, layers - keys.count("max_window_layers", least=0))
    else:
        name = next((n for n in ("sliding_window_pattern", "_sliding_window_pattern") if n in keys.config), "")
        sliding = layers - layers // (keys.count_or(name, family.window_step) if name else family.window_step)
    return (window, min(sliding, layers)) if sliding else (0, 0)


def _positions(keys: Keys, family: Family) -> int:
    """Tokens that positions are defined for. Source: vLLM 0.32, ``config/model.py: _get_and_verify_max_len``."""
    told = keys.count_or("max_position_embeddings", 2048)
    name = "rope_scaling" if keys.raw("rope_scaling") else "rope_parameters"
    rope = Keys(keys.mapping(name), prefix=f"{keys.prefix}{name}.")
    factor, kind = rope.raw("factor"), rope.raw("rope_type") or rope.raw("type")
    if factor is not None and kind not in _SCALED_ALREADY and family.name != "gemma3":
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 1 <= factor <= LARGEST:
            raise rope.refuse("factor", f"a number from 1 to {LARGEST} is needed")
        told = int(told * factor)
    return max(told, keys.count_or("model_max_length", 1))


def _dtype(outer: Keys, text: Keys) -> str:
    """transformers wrote ``torch_dtype``, and writes ``dtype`` since 4.56. Where neither is, two bytes are usual."""
    for keys in (outer, text):
        for name in ("dtype", "torch_dtype"):
            value = keys.raw(name)
            if value is None:
                continue
            if not isinstance(value, str) or value.removeprefix("torch.") not in _DTYPES:
                raise keys.refuse(name, f"use one of: {', '.join(_DTYPES)}")
            return value.removeprefix("torch.")
    return "bfloat16"


def _shape(architecture: str, family: str, d: Decoder, counts: Counts) -> ModelShape:
    e = d.experts
    return ModelShape(
        architecture=architecture,
        family=family,
        layers=d.layers,
        hidden=d.hidden,
        heads=d.heads,
        kv_heads=d.kv_heads,
        head_dim=d.head_dim,
        intermediate=d.intermediate,
        vocabulary=d.vocabulary,
        tied=d.tied,
        max_positions=0,
        dtype="",
        parameters=counts.total,
        embedding_parameters=counts.embedding,
        head_parameters=counts.head,
        active_parameters=counts.total - counts.idle,
        experts=e.count if e else 0,
        experts_per_token=e.per_token if e else 0,
        moe_intermediate=e.intermediate if e else 0,
        shared_intermediate=e.shared_intermediate if e else 0,
        moe_layers=e.layers if e else 0,
        expert_parameters=counts.experts,
        kv_parameters=counts.kv,
        replicated_parameters=counts.replicated,
        vector_parameters=counts.vectors,
        vision_parameters=counts.vision,
        attention_width=d.heads * (d.latent.value if d.latent else d.head_dim),
        latent=d.latent.rank + d.latent.rope if d.latent else 0,
    )
