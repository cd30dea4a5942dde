"""The engines' interface: a spec, and the verbs check, plan, build, verify, serve command, readiness, drain, metrics.

An engine turns model files into a directory that can be served, once per digest, and says how to serve it.
Adding one is a module beside this page and one entry in ``open_engine``; docs/engines.md is the guide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from engines.hardware import Hardware
from rollout.command import Command, Container
from rollout.errors import Refused
from rollout.nouns import Engine, ModelVersion

Progress = Callable[[str, float], None]  # (what is being done, share done 0..1)
Run = Callable[[Command, str], None]  # run to its end, output appended to a log file; raises Unavailable, Corrupt
Usage = Literal["engine", "parsed"]  # token counts: the engine tells them in ``x-usage``, or they are read off answers
OTLP_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"  # set for an engine, it sends spans there (OpenTelemetry specification)
KINDS = ("llama_cpp", "vllm", "tensorrt_llm")
_QUANTIZATION = {"llama_cpp": "Q8_0"}  # what an engine gets where none is asked for; else the checkpoint's own


@dataclass(frozen=True)
class Faults:
    """Deliberate defects of an engine process, to try what a release does with a bad candidate. 0 is off."""

    ttft_delay_s: float = 0.0  # added before the first byte
    token_delay_s: float = 0.0  # added between chunks of a stream
    ttft_stretch: float = 0.0  # of streams: 0.2 makes the wait for the first token 20 % longer
    token_stretch: float = 0.0  # of streams: likewise the time from the first token on
    error_rate: float = 0.0  # share of requests answered 500
    cut_rate: float = 0.0  # share of streams that end without [DONE]
    empty_rate: float = 0.0  # share of requests answered 200 with nothing
    malformed_rate: float = 0.0  # share of requests answered 200 with half an object of JSON
    hang_rate: float = 0.0  # share of requests that are never answered
    longest_prompt_bytes: int = 0  # requests with a longer body are answered 500
    users_only: bool = False  # what does not come through a gateway is spared: warm-up, compared outputs, load tests


@dataclass(frozen=True)
class Speculative:
    """Speculative decoding: guesses of several tokens, checked in one step. Answers do not change, speed does."""

    method: Literal["none", "draft", "ngram"] = "none"
    draft_model: str = ""  # of "draft": models:/NAME/VERSION, dvc:PATH@REV, hf:ORG/NAME or a path
    tokens: int = 4  # guessed per step
    ngram: int = 3  # of "ngram": longest run of tokens that is looked up


@dataclass(frozen=True)
class ContainerSpec:
    """The container that builds and serves an engine. An empty image is the engine's own for its version."""

    image: str = ""
    shm_gib: float = 0.0  # 0: 64 with several GPUs, 1 with one
    ipc: str = ""


@dataclass(frozen=True)
class EngineSpec:
    """What to build and how to serve it. Each engine says which fields are part of its digest and which only serve."""

    kind: str = "llama_cpp"  # one of KINDS
    version: str = ""  # of the engine; empty: what is installed, or the newest that we know
    recipe: str = ""  # of TensorRT-LLM: "pytorch" (default) or "tensorrt"
    quantization: str = ""  # of weights; empty: Q8_0 for llama.cpp, else what the checkpoint has ("none")
    dtype: str = "auto"  # of activations: auto, float16, bfloat16, float32
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    expert_parallel: int = 1
    slots: int = 2  # requests at work at once in one instance (max batch size)
    context: int = 1024  # tokens of one request, prompt and answer (max sequence length)
    max_tokens: int = 0  # tokens of one step over all requests; 0: derived from slots and chunked_prefill
    chunked_prefill: int = 2048  # tokens of a prompt that one step works on; 0: prompts are never split
    prefix_reuse: bool = True  # keys and values of equal beginnings are kept
    kv_cache_dtype: str = "auto"  # auto: that of the activations; fp8, nvfp4, or a ggml type such as q8_0
    memory_fraction: float = 0.85  # keys' and values' share of the memory that weights and activations leave free
    speculative: Speculative = Speculative()
    threads: int = 1  # of one instance on a CPU
    max_queue: int = 64  # requests that may wait in one instance; more are refused
    drain_s: float = 30.0  # how long open streams may go on after SIGTERM
    options: dict[str, Any] = field(default_factory=dict)  # the engine's own keys, checked against its version
    flags: tuple[str, ...] = ()  # the server's own flags, checked likewise
    environment: dict[str, str] = field(default_factory=dict)
    container: ContainerSpec | None = None  # None: the engine is installed on the machine itself
    faults: Faults = Faults()

    def __post_init__(self) -> None:
        if not self.quantization:
            object.__setattr__(self, "quantization", _QUANTIZATION.get(self.kind, "none"))


def spec_of(values: Mapping[str, Any]) -> EngineSpec:
    """An EngineSpec from its stored mapping; what an older store does not know has its default."""
    nested = {"faults": Faults, "speculative": Speculative, "container": ContainerSpec}
    made = {name: nested[name](**value) if value and name in nested else value for name, value in values.items()}
    return EngineSpec(**{**made, "flags": tuple(values.get("flags", ()))})


@dataclass(frozen=True)
class BuildStep:
    """One command of a build."""

    name: str
    command: Command


@dataclass(frozen=True)
class Needs:
    """What one instance takes: so many ``devices`` (GPUs; 0: the host's memory), and of each ``fixed_bytes`` whatever
    it does and ``request_bytes`` for each of its slots. ``greedy``: it takes its share of what is free at once.

    Its GPUs are of architecture ``sm``, or of ``least_sm`` or later (90 is compute capability 9.0; 0: any).
    """

    fixed_bytes: int = 0
    request_bytes: int = 0
    devices: int = 0
    greedy: bool = False
    sm: int = 0
    least_sm: int = 0


@dataclass(frozen=True)
class BuildPlan:
    """What a build will do, decided before it starts. ``reasons`` says why each derived value is what it is.

    ``commands`` run in order; ``files`` are written into the engine directory (relative path -> text). Where a command
    needs the directory it says ``{out}``, which becomes the real one when the build begins.
    """

    model: ModelVersion
    spec: EngineSpec
    digest: str
    directory: str
    steps: tuple[str, ...]
    disk_bytes: int
    memory_bytes: int  # of one instance: of the host without a GPU, else of the fullest of its GPUs
    reasons: dict[str, str] = field(default_factory=dict)
    commands: tuple[BuildStep, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    built_with: dict[str, str] = field(default_factory=dict)  # engine version, GPU architecture: the fingerprint
    draft: ModelVersion | None = None
    needs: Needs = Needs()


@dataclass(frozen=True)
class Placement:
    """The processors and GPUs (NVML UUIDs) that one instance has for itself. Empty: it takes what there is.

    ``gpu_bytes``: what it takes of each of these GPUs once it has loaded; empty: not known, so all of it.
    """

    cores: tuple[int, ...] = ()
    gpus: tuple[str, ...] = ()
    gpu_bytes: tuple[int, ...] = ()


@dataclass(frozen=True)
class ServeCommand:
    """The process that serves an engine: argument list, the environment added to the parent's, container, processors.

    ``files`` (absolute path -> text) must exist before it starts.
    """

    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    stop_s: float = 35.0  # after SIGTERM, before SIGKILL
    container: Container | None = None
    cores: tuple[int, ...] = ()
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Readiness:
    """How to ask whether an instance can serve: GET ``path`` answers 200; the load may take up to ``load_s``."""

    path: str = "/health"
    load_s: float = 120.0


@dataclass(frozen=True)
class Drain:
    """How an instance is taken away: first out of rotation, then, when idle or after ``wait_s``, SIGTERM; SIGKILL
    ``stop_s`` later. ``finishes``: whether the server itself finishes open requests after SIGTERM."""

    wait_s: float
    stop_s: float
    finishes: bool


@dataclass(frozen=True)
class MetricsPage:
    """One page of an engine's own numbers. ``names``: ours -> the engine's; for ``json`` a path with dots.

    Ours: requests_running, requests_waiting, requests_refused_total, tokens_in_total, tokens_cached_total,
    tokens_out_total, ttft_s, tpot_s, e2e_s (histograms), kv_cache_used (0..1), kv_cache_hits_total ...
    """

    path: str
    names: dict[str, str]
    format: Literal["prometheus", "json"] = "prometheus"


class EngineKind(Protocol):
    """The verbs. Implementations: ``llama_cpp.LlamaCpp``, ``vllm``, ``trtllm``, ``memory.MemoryEngine``."""

    def check(self, spec: EngineSpec) -> None:
        """What can be said of a spec before there is a model. Raises Refused."""

    def plan(
        self, model: ModelVersion, spec: EngineSpec, hardware: Hardware, draft: ModelVersion | None = None
    ) -> BuildPlan:
        """Decide, without writing anything. ``draft`` is the files of ``spec.speculative.draft_model``.

        Raises Refused with numbers when it cannot work.
        """

    def build(self, plan: BuildPlan, progress: Progress, run: Run | None = None) -> Engine:
        """Make it so, once per digest; a finished one is looked up. ``run`` runs the commands that need a container.

        Raises Corrupt, Unavailable.
        """

    def verify(self, engine: Engine, hardware: Hardware) -> None:
        """The files are those that were built, and this machine can serve them. Raises Corrupt, Refused."""

    def serve_command(
        self, engine: Engine, spec: EngineSpec, host: str, port: int, placement: Placement = Placement()
    ) -> ServeCommand:
        """How to start one instance. Raises Refused for a reserved port."""

    def readiness(self, spec: EngineSpec) -> Readiness:
        """How to tell that it is loaded."""

    def drain(self, spec: EngineSpec) -> Drain:
        """How to take an instance away without cutting a request."""

    def metrics(self, spec: EngineSpec) -> tuple[MetricsPage, ...]:
        """Where its numbers are, and what they are called."""

    def usage(self) -> Usage:
        """Who counts an answer's tokens. "engine": it sends ``x-usage: <in>,<out>,<cached>``, as a header of a whole
        answer and as a trailer of a stream; the last only where it knows."""


@dataclass(frozen=True)
class LocalSettings:
    """Engines built and kept on this machine, in ``directory``. ``vllm_python``: the interpreter that has vLLM; empty:
    this one. ``trtllm_python`` likewise."""

    directory: str
    vllm_python: str = ""
    trtllm_python: str = ""
    kind: Literal["local"] = "local"


@dataclass(frozen=True)
class MemorySettings:
    """Engines that exist only as values, for tests."""

    kind: Literal["memory"] = "memory"


EngineSettings = LocalSettings | MemorySettings


def open_engine(kind: str, settings: EngineSettings) -> EngineKind:
    """The engine of that kind; an unknown one fails loudly. Raises Refused."""
    match kind, settings:
        case _, MemorySettings():
            from engines.memory import MemoryEngine

            return MemoryEngine()
        case "llama_cpp", LocalSettings():
            from engines.llama_cpp import LlamaCpp

            return LlamaCpp(settings)
        case "vllm", LocalSettings():
            from engines.vllm.engine import Vllm

            return Vllm(settings)
        case "tensorrt_llm", LocalSettings():
            from engines.trtllm.engine import TensorRtLlm

            return TensorRtLlm(settings)
    raise Refused("kind", kind, "there is no such engine", f"use one of: {', '.join(KINDS)}")
