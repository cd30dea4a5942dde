"""The arguments and the environment of vLLM's server. Flags and variables: vLLM 0.32, ``flags.yaml``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil

from engines.hardware import Hardware
from engines.port import ContainerSpec, EngineSpec, Placement
from engines.sizing.fit import demand_of, tokens_per_step, vllm_utilization
from engines.sizing.measure import Demand, fit_on
from engines.sizing.memory import VLLM_CPU_BLOCK
from engines.sizing.shape import ModelShape
from engines.vllm import flags
from engines.vllm.interpreter import Device
from engines.vllm.rules import weights_asked, world
from rollout.command import GIB, Container, Mount

MODULE = ("-m", "vllm.entrypoints.openai.api_server")  # "vllm serve" asks for a distribution "vllm": not in vllm-cpu
_UNSET = ("env", "-u", "VLLM_CPU_KVCACHE_SPACE")  # would go over --kv-cache-memory-bytes; vLLM cannot read it empty
INSIDE = "/engine"  # where a container finds the engine
EVERYWHERE = "0.0.0.0"  # inside a container, whose port is published on the instance's own address
_ALL_GPUS = ("all",)  # what Docker's NVIDIA runtime takes for every GPU
MODEL, DRAFT = "model", "draft"  # folders of an engine directory
GRACE_S = 20.0  # measured: after the last request the server takes up to 13 s to end its processes
_IMAGE = "vllm/vllm-openai:v"
_ULIMITS = {"memlock": -1, "stack": 67_108_864}  # NVIDIA's advice for NCCL in containers


@dataclass(frozen=True)
class Server:
    """What is served, and as what."""

    python: str
    folder: str  # of the engine, as the server sees it
    name: str
    host: str
    port: int
    device: Device


def arguments(server: Server, spec: EngineSpec, memory: Sequence[str]) -> tuple[str, ...]:
    """The whole command. ``memory`` says how many bytes keys and values get. Raises Refused."""
    passed = flags.words(spec)
    own = "--kv-cache-memory-bytes" in passed
    return (
        *(_UNSET if server.device == "cpu" else ()),
        server.python,
        *MODULE,
        *("--model", f"{server.folder}/{MODEL}"),
        *("--served-model-name", server.name),
        *("--host", server.host, "--port", str(server.port)),
        *("--tensor-parallel-size", str(spec.tensor_parallel)),
        *("--pipeline-parallel-size", str(spec.pipeline_parallel)),
        *(("--enable-expert-parallel",) if spec.expert_parallel > 1 else ()),
        *("--dtype", spec.dtype),
        *(("--quantization", spec.quantization) if spec.quantization != "none" else ()),
        *batching(spec),
        *("--kv-cache-dtype", spec.kv_cache_dtype),
        *(() if own else memory),
        *speculation(spec, f"{server.folder}/{DRAFT}"),
        *("--max-num-queued-reqs", str(spec.max_queue + spec.slots)),
        *("--shutdown-timeout", str(ceil(spec.drain_s))),
        *(("--enforce-eager",) if server.device == "cpu" and "--no-enforce-eager" not in passed else ()),
        "--enable-prompt-tokens-details",
        *("--disable-access-log-for-endpoints", "/health,/metrics"),
        *passed,
    )


def batching(spec: EngineSpec) -> tuple[str, ...]:
    """Slots, lengths, tokens of a step, and how much of it one prompt may have."""
    tokens, chunk = tokens_per_step(spec), spec.chunked_prefill
    return (
        *("--max-num-seqs", str(spec.slots), "--max-model-len", str(spec.context)),
        *("--max-num-batched-tokens", str(tokens)),
        "--enable-chunked-prefill" if chunk else "--no-enable-chunked-prefill",
        *(("--long-prefill-token-threshold", str(chunk)) if 0 < chunk < min(tokens, spec.context) else ()),
        "--enable-prefix-caching" if spec.prefix_reuse else "--no-enable-prefix-caching",
    )


def speculation(spec: EngineSpec, draft: str) -> tuple[str, ...]:
    """Guesses by a draft model, which is split as the model is, or by the prompt's own runs of tokens."""
    guess = spec.speculative
    match guess.method:
        case "ngram":
            method = {"method": "ngram", "prompt_lookup_max": guess.ngram, "prompt_lookup_min": min(2, guess.ngram)}
        case "draft":
            method = {"method": "draft_model", "model": draft}
        case _:
            return ()
    return "--speculative-config", json.dumps({**method, "num_speculative_tokens": guess.tokens})


def vllm_demand(spec: EngineSpec, device: Device, shape: ModelShape) -> Demand:
    """What the spec asks of the hardware, in the words of sizing."""
    return replace(demand_of(spec, device), weights=weights_asked(spec, shape))


def memory_arguments(
    spec: EngineSpec, device: Device, shape: ModelShape, hardware: Hardware, draft: ModelShape | None
) -> tuple[str, ...]:
    """How many bytes keys and values get: on a CPU as a number, since vLLM's share is of the whole machine; on a GPU
    as vLLM's share, which is of the whole GPU and not of what is free. One block more than all slots need on a CPU:
    vLLM keeps the first for itself (vllm/v1/core/block_pool.py: null_block)."""
    demand = vllm_demand(spec, device, shape)
    found = fit_on(shape, demand, hardware, draft)
    if device == "cpu":
        return "--kv-cache-memory-bytes", str(found.kv_bytes + VLLM_CPU_BLOCK * found.kv_token_bytes)
    return "--gpu-memory-utilization", f"{vllm_utilization(found, found.gpu_bytes):g}"


def given(hardware: Hardware, placement: Placement) -> Hardware:
    """The machine, as far as the instance may use it."""
    return replace(hardware, gpus=tuple(g for g in hardware.gpus if not placement.gpus or g.uuid in placement.gpus))


def environment(spec: EngineSpec, device: Device, placement: Placement, cache: str) -> dict[str, str]:
    """Nothing is fetched or reported; threads stay on the instance's own processors. ``cache``: where vLLM keeps what
    it compiles."""
    ours = {
        "PYTHONUNBUFFERED": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        **({"VLLM_CACHE_ROOT": cache, "VLLM_CONFIG_ROOT": cache} if cache else {}),
    }
    if device == "cpu":
        bound = threads_bind(placement.cores, world(spec))
        ours |= {
            "VLLM_CPU_OMP_THREADS_BIND": bound,
            "OMP_NUM_THREADS": str(spec.threads),
        }
    elif placement.gpus and spec.container is None:
        ours["CUDA_VISIBLE_DEVICES"] = ",".join(placement.gpus)
    return {**ours, **spec.environment}


def threads_bind(cores: Sequence[int], ranks: int) -> str:
    """Each rank's processors, "0,1|2,3"; "nobind" where there are too few for one each: the kernel shares them out.

    >>> threads_bind((0, 1, 2, 3, 4), 2)
    '0,1|2,3,4'
    """
    if len(cores) < ranks or not cores:
        return "nobind"
    edges = [len(cores) * rank // ranks for rank in range(ranks + 1)]
    return "|".join(",".join(map(str, cores[first:end])) for first, end in pairwise(edges))


def container(asked: ContainerSpec, version: str, spec: EngineSpec, gpus: tuple[str, ...], engine: str) -> Container:
    """vLLM's own image, with shared memory for NCCL between several GPUs (64 GiB, 1 with one)."""
    gib = asked.shm_gib or (64.0 if world(spec) > 1 else 1.0)
    return Container(
        image=asked.image or f"{_IMAGE}{version}",
        gpus=gpus or _ALL_GPUS,
        shm_bytes=int(gib * GIB),
        mounts=(Mount(engine, INSIDE),),
        ulimits=dict(_ULIMITS),
        ipc=asked.ipc,
        entrypoint="python3",
    )


METRICS: Mapping[str, str] = {
    "requests_running": "vllm:num_requests_running",
    "requests_waiting": "vllm:num_requests_waiting",
    "requests_refused_total": "vllm:admission_rejections_total",
    "requests_preempted_total": "vllm:num_preemptions_total",
    "requests_total": "vllm:request_success_total",
    "tokens_in_total": "vllm:prompt_tokens_total",
    "tokens_cached_total": "vllm:prompt_tokens_cached_total",
    "tokens_out_total": "vllm:generation_tokens_total",
    "ttft_s": "vllm:time_to_first_token_seconds",
    "tpot_s": "vllm:request_time_per_output_token_seconds",
    "itl_s": "vllm:inter_token_latency_seconds",
    "e2e_s": "vllm:e2e_request_latency_seconds",
    "queue_s": "vllm:request_queue_time_seconds",
    "kv_cache_used": "vllm:kv_cache_usage_perc",
    "kv_cache_hits_total": "vllm:prefix_cache_hits_total",
    "kv_cache_queries_total": "vllm:prefix_cache_queries_total",
    "spec_drafted_total": "vllm:spec_decode_num_draft_tokens_total",
    "spec_accepted_total": "vllm:spec_decode_num_accepted_tokens_total",
}
