"""Bytes of one engine on the fullest of its GPUs: weights, keys and values, activations, and what the runtime takes.

Where a number is no arithmetic it is an allowance, and its comment says what it was checked against. Sources, by their
short names: [vllm PR 10511], [vllm 13061], [vllm PR 11349] are start-up logs in github.com/vllm-project/vllm under
these numbers; [reference 6] is the formula that TensorRT-LLM's ``_cal_max_memory`` and vLLM share.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from engines.sizing.shape import ModelShape
from engines.sizing.weight_formats import KV_BYTES, kv_dtype_of, weights_of

GIB = 1024**3
MIB = 1024**2
VLLM_BLOCK, VLLM_CPU_BLOCK, TRTLLM_BLOCK = 16, 128, 32  # tokens of one page: the engines' defaults
_PAD = 64  # the vocabulary is padded to a multiple of this: vLLM's VocabParallelEmbedding

# Allowances.
CUDA_CONTEXT = (
    512 * MIB
)  # driver, kernels of PyTorch and the engine; nvidia-smi shows 0.4 to 0.6 GiB on an idle process
WORKSPACE = 512 * MIB  # cuBLAS, attention's own buffers; [vllm PR 12126] counts 0.16 GiB outside of PyTorch, FlashInfer
# takes 0.25 to 0.39 GiB inside
NCCL = 512 * MIB  # of each rank when there are several; logs of 2 to 16 ranks name 0.2 to 0.4 GiB over one rank's
GRAPH = 400 * 1024  # CUDA graph of one layer at one batch size; [vllm PR 11349]: 0.21 GiB, 16 layers, 35 sizes
LARGEST_GRAPH = 512  # batch sizes beyond it are not captured
SLACK = 1.25  # of a layer: PyTorch's allocator over what it was asked for; [vllm 13061]: 0.19 GiB where we say 0.20
SAMPLER = 11  # copies of the logits in float32 while sampling; 10.3 and 9.8 are in use in [vllm PR 10511] (1.26 GiB at
# 256 x 128,256) and [vllm 13061] (1.42 GiB at 256 x 152,064)
CPU_PROCESS = 1 * GIB  # of each rank on a CPU: Python, PyTorch, vLLM


@dataclass(frozen=True)
class WeightBytes:
    """Of the fullest GPU. Embeddings and the output matrix are told apart, since few formats quantise them."""

    layers: int
    embeddings: int
    vision: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.layers + self.embeddings + self.vision


def dtype_bytes(dtype: str = "auto") -> int:
    """Bytes of a number that is not quantised. ``auto`` loads a float32 checkpoint in 16 bits, as both engines do."""
    return 4 if dtype == "float32" else 2


def weight_bytes(
    shape: ModelShape, weights: str = "none", tensor: int = 1, pipeline: int = 1, expert: int = 1, dtype: str = "auto"
) -> WeightBytes:
    """Weights of the fullest GPU in bytes, after [reference 6].

    Matrices of the layers are divided by ``tensor``, except those that each rank has whole, and keys' and values'
    projections, of which a rank has at least one head. Experts are cut by ``tensor``; with ``expert`` they are dealt
    out over so many of these ranks instead, the first of which may have one more. The first pipeline stages have one
    layer more than the last; embeddings are on the first, the output matrix on the last. An image tower is taken as
    whole on each rank of the first stage, in 16 bits. Raises Refused for an unknown format.
    """
    plain, dense, routed = _widths(shape, weights, dtype)
    whole = shape.vector_parameters * plain + shape.replicated_parameters * dense
    matrices = _split(shape) / tensor + shape.kv_parameters * ceil(shape.kv_heads / tensor) / shape.kv_heads
    dealt = ceil(shape.experts / expert) / shape.experts * expert / tensor if shape.experts else 0
    layers = whole + matrices * dense + shape.expert_parameters * dealt * routed
    ends = (shape.embedding_parameters, shape.head_parameters)
    padded = ceil(shape.vocabulary / _PAD) * _PAD / shape.vocabulary
    embeddings = (sum(ends) if pipeline == 1 else max(ends)) * padded * plain / tensor
    share = ceil(shape.layers / pipeline) / shape.layers
    return WeightBytes(ceil(share * layers), ceil(embeddings), shape.vision_parameters * 2)


def _split(shape: ModelShape) -> int:
    """Parameters of dense matrices that tensor parallelism divides."""
    ends = shape.embedding_parameters + shape.head_parameters + shape.vision_parameters
    apart = shape.vector_parameters + shape.replicated_parameters + shape.kv_parameters + shape.expert_parameters
    return max(0, shape.parameters - ends - apart)


def _widths(shape: ModelShape, weights: str, dtype: str) -> tuple[float, float, float]:
    """Bytes of a weight that is not quantised, of one in a dense matrix, of one in a routed expert."""
    plain, chosen = float(dtype_bytes(dtype)), weights_of(shape, weights)
    if weights == "none" and not shape.quantization:
        return plain, plain, plain
    return plain, plain if chosen.experts_only else chosen.bytes_per_weight, chosen.bytes_per_weight


def kv_width(shape: ModelShape, kv_dtype: str = "auto", dtype: str = "auto") -> float:
    """Bytes of one number of the cache. Raises Refused for an unknown dtype."""
    if kv_dtype == "auto" and not shape.kv_quantization:
        return float(dtype_bytes(dtype))
    return KV_BYTES[kv_dtype_of(shape, kv_dtype)]


def kv_layer_bytes(shape: ModelShape, kv_dtype: str = "auto", tensor: int = 1, dtype: str = "auto") -> float:
    """Keys and values of one token in one layer, of one GPU: at least one KV head each; MLA's latent is not divided."""
    width = kv_width(shape, kv_dtype, dtype)
    return width * (shape.latent or 2 * ceil(shape.kv_heads / tensor) * shape.head_dim)


def kv_token_bytes(
    shape: ModelShape, kv_dtype: str = "auto", tensor: int = 1, pipeline: int = 1, dtype: str = "auto"
) -> int:
    """Keys and values of one token in all layers of the fullest GPU, in bytes [reference 6]."""
    return ceil(ceil(shape.layers / pipeline) * kv_layer_bytes(shape, kv_dtype, tensor, dtype))


def kv_tokens_for(
    shape: ModelShape, kv_bytes: int, kv_dtype: str = "auto", tensor: int = 1, pipeline: int = 1, block: int = 1
) -> int:
    """Tokens that so many bytes on each GPU hold, in whole blocks, where each layer keeps every token.

    vLLM on a CPU, SmolLM2-135M in bfloat16, 1 GiB: 46,592 tokens in blocks of 128 (measured).
    """
    return int(max(0, kv_bytes) // (kv_token_bytes(shape, kv_dtype, tensor, pipeline) * block)) * block


def sequence_bytes(
    shape: ModelShape,
    context: int,
    kv_dtype: str = "auto",
    tensor: int = 1,
    pipeline: int = 1,
    block: int = 1,
    window_tokens: int = 0,
    dtype: str = "auto",
) -> int:
    """Keys and values of one request of ``context`` tokens on the fullest GPU, in whole blocks.

    ``window_tokens`` is what a sliding-window layer holds at most (0: every layer keeps every token). Layers of the two
    kinds share pages in groups of equal size, so one kind is padded.
    """
    page = kv_layer_bytes(shape, kv_dtype, tensor, dtype) * block
    pages = ceil(context / block)
    windowed = shape.windowed_layers if window_tokens else 0
    full = shape.layers - windowed
    if not windowed:
        return ceil(ceil(shape.layers / pipeline) * pages * page)
    group = _group(full, windowed)
    full_layers, window_layers = (ceil(ceil(n / group) * group / pipeline) for n in (full, windowed))
    held = min(pages, ceil(window_tokens / block) + 1)
    return ceil((full_layers * pages + window_layers * held) * page)


def _group(full: int, windowed: int) -> int:
    """Layers of one group: as many as the smaller kind has, or the larger where it is hardly so (vLLM: kv_cache_utils,
    ``_get_kv_cache_groups_uniform_page_size``)."""
    small, large = sorted((full or windowed, windowed))
    return large if large < 1.25 * small else small


def activation_bytes(shape: ModelShape, slots: int, max_tokens: int, tensor: int = 1, dtype: str = "auto") -> int:
    """Most bytes of activations at once: the widest layer over one step's tokens, or sampling over all slots.

    Layer: residual, its norm, the layer's output and one more; beside them queries, keys and values, or the gated
    matrices (gate, up, product). An expert layer works on each token ``experts_per_token`` times. The two moments do
    not meet, so the larger counts.
    """
    plain = dtype_bytes(dtype)
    attention = (2 * shape.heads / tensor + 2 * ceil(shape.kv_heads / tensor)) * shape.head_dim
    dense = 3 * shape.intermediate / tensor
    expert = shape.experts_per_token * (3 * shape.moe_intermediate / tensor + 2 * shape.hidden)
    expert += 3 * shape.shared_intermediate / tensor if shape.experts else 0
    layer = max_tokens * plain * (4 * shape.hidden + max(attention, dense, expert))
    sampling = SAMPLER * 4 * slots * shape.vocabulary
    return ceil(max(SLACK * layer, sampling))


def graph_sizes(slots: int) -> int:
    """Batch sizes that are captured as CUDA graphs: 1, 2, 4, then each multiple of 8, up to twice the slots."""
    return 3 + ceil(min(2 * slots, LARGEST_GRAPH) / 8)


def overhead_bytes(shape: ModelShape, slots: int, tensor: int = 1, pipeline: int = 1, device: str = "gpu") -> int:
    """What the runtime takes of each device beside weights and activations; allowances, named at the top."""
    if device == "cpu":
        return CPU_PROCESS
    graphs = graph_sizes(slots) * ceil(shape.layers / pipeline) * GRAPH
    return CUDA_CONTEXT + WORKSPACE + (NCCL if tensor * pipeline > 1 else 0) + graphs
