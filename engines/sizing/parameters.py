"""Counting a decoder's parameters exactly, from what its layers are made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention of DeepSeek: keys and values are kept as one compressed vector per token.

    Source: transformers, ``models/deepseek_v3/modeling_deepseek_v3.py``; arXiv 2405.04434, section 2.1.
    """

    query_rank: int  # 0: queries are not compressed
    rank: int
    rope: int
    nope: int
    value: int


@dataclass(frozen=True)
class Experts:
    """The feed-forward part of a mixture-of-experts layer."""

    count: int
    per_token: int
    intermediate: int
    layers: int  # how many layers have it; the others are dense
    shared_intermediate: int = 0
    shared_gate: bool = False
    router_bias: bool = False
    bias: bool = False
    correction: bool = False  # one number per expert that balances the load (e_score_correction_bias)


@dataclass(frozen=True)
class Decoder:
    """What a decoder is made of. Widths in elements."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool
    gated: bool = True  # three matrices (gate, up, down) and not two
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    norms: int = 2  # per layer
    norm_bias: bool = False
    qk_norm: bool = False  # queries and keys are normed per head
    sinks: bool = False  # a learnt number per head that attention may go to
    latent: Latent | None = None
    experts: Experts | None = None


@dataclass(frozen=True)
class Counts:
    """Parameters by part. ``total`` sums the first six; ``kv`` and ``replicated`` are within ``matrices``."""

    embedding: int
    head: int
    matrices: int  # of attention, dense layers and shared experts
    experts: int  # matrices of routed experts
    vectors: int  # norms, biases, routers
    vision: int
    kv: int
    replicated: int
    idle: int  # of the experts that a token is not sent to

    @property
    def total(self) -> int:
        """All parameters of the model."""
        return self.embedding + self.head + self.matrices + self.experts + self.vectors + self.vision


def count(decoder: Decoder, vision: int = 0) -> Counts:
    """The parameters of a decoder and ``vision`` more. Source: the modelling code of transformers for each family."""
    d, e = decoder, decoder.experts
    attention, attention_vectors, replicated = _latent_attention(d) if d.latent else _attention(d)
    mlp, mlp_vectors = _mlp(d, d.intermediate, d.mlp_bias)
    moe_layers = e.layers if e else 0
    dense_layers = d.layers - moe_layers
    norm = d.hidden * (1 + d.norm_bias)
    matrices = d.layers * attention + dense_layers * mlp
    vectors = d.layers * (attention_vectors + d.norms * norm) + dense_layers * mlp_vectors + norm
    expert = expert_bias = 0
    if e:
        expert, expert_bias = _mlp(d, e.intermediate, e.bias)
        matrices += moe_layers * 3 * d.hidden * e.shared_intermediate
        router = d.hidden * e.count + e.count * (e.router_bias + e.correction)
        vectors += moe_layers * (router + d.hidden * e.shared_gate + e.count * expert_bias)
    return Counts(
        embedding=d.vocabulary * d.hidden,
        head=0 if d.tied else d.vocabulary * d.hidden,
        matrices=matrices,
        experts=moe_layers * expert * e.count if e else 0,
        vectors=vectors + d.vocabulary * d.head_bias,
        vision=vision,
        kv=0 if d.latent else d.layers * 2 * d.hidden * d.kv_heads * d.head_dim,
        replicated=d.layers * replicated,
        idle=moe_layers * (e.count - e.per_token) * (expert + expert_bias) if e else 0,
    )


def _attention(d: Decoder) -> tuple[int, int, int]:
    queries, keys = d.heads * d.head_dim, d.kv_heads * d.head_dim
    vectors = d.qkv_bias * (queries + 2 * keys) + d.output_bias * d.hidden + d.sinks * d.heads
    vectors += d.qk_norm * 2 * d.head_dim * (1 + d.norm_bias)
    return d.hidden * (2 * queries + 2 * keys), vectors, 0


def _latent_attention(d: Decoder) -> tuple[int, int, int]:
    a = d.latent
    assert a is not None
    query_width = d.heads * (a.nope + a.rope)
    down = d.hidden * (a.query_rank + a.rank + a.rope)  # whole on each rank; without query_rank only the keys' part
    up = (a.query_rank or d.hidden) * query_width + a.rank * d.heads * (a.nope + a.value)
    vectors = a.query_rank + a.rank + d.qkv_bias * (a.query_rank + a.rank + a.rope) + d.output_bias * d.hidden
    return down + up + d.heads * a.value * d.hidden, vectors, down


def _mlp(d: Decoder, width: int, bias: bool) -> tuple[int, int]:
    inputs = 2 if d.gated else 1
    return (inputs + 1) * d.hidden * width, bias * (inputs * width + d.hidden)
