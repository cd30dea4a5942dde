"""``configs/engines/<name>.yaml``: what to build and how to serve it, checked field by field."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AliasChoices, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from configs.load import SECRET, Config
from engines.port import ContainerSpec, EngineSpec, Faults, Speculative
from rollout.command import has_password, is_secret, referred, secret_in

Seconds = Annotated[float, Field(ge=0, le=60)]
Share = Annotated[float, Field(ge=0, le=1)]
Stretch = Annotated[float, Field(ge=0, le=100)]
Parallel = Annotated[int, Field(ge=1, le=1024)]
T = TypeVar("T")


class FaultsFile(Config):
    """Deliberate defects, to try what a release does with a bad candidate: `engines.port.Faults`."""

    ttft_delay_s: Seconds = 0.0
    token_delay_s: Seconds = 0.0
    ttft_stretch: Stretch = 0.0
    token_stretch: Stretch = 0.0
    error_rate: Share = 0.0
    cut_rate: Share = 0.0
    empty_rate: Share = 0.0
    malformed_rate: Share = 0.0
    hang_rate: Share = 0.0
    longest_prompt_bytes: Annotated[int, Field(ge=0, le=1 << 30)] = 0
    users_only: bool = False


class SpeculativeFile(Config):
    """Speculative decoding: a small draft model, or the prompt's own runs of tokens, guess several tokens a step."""

    method: Literal["none", "draft", "ngram"] = "none"
    draft_model: str = ""
    tokens: Annotated[int, Field(ge=1, le=64)] = 4
    ngram: Annotated[int, Field(ge=1, le=64)] = 3


class ContainerFile(Config):
    """The container that builds and serves the engine; an empty image is the engine's own for its version."""

    image: str = ""
    shm_gib: Annotated[float, Field(ge=0, le=4096)] = 0.0
    ipc: Literal["", "host", "private", "shareable"] = ""


class EngineFile(Config):
    """One engine. The names of batch and length that TensorRT-LLM uses are taken as well."""

    model_config = ConfigDict(populate_by_name=True)

    kind: Literal["engine"] = "engine"
    engine: Literal["llama_cpp", "vllm", "tensorrt_llm"] = "llama_cpp"
    version: str = ""
    recipe: Literal["", "pytorch", "tensorrt"] = ""
    quantization: str = ""
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = "auto"
    tensor_parallel: Parallel = 1
    pipeline_parallel: Parallel = 1
    expert_parallel: Parallel = 1
    slots: Annotated[int, Field(ge=1, le=4096, validation_alias=AliasChoices("slots", "max_batch_size"))] = 2
    context: Annotated[int, Field(ge=64, le=1 << 21, validation_alias=AliasChoices("context", "max_seq_len"))] = 1024
    max_tokens: Annotated[
        int, Field(ge=0, le=1 << 20, validation_alias=AliasChoices("max_tokens", "max_num_tokens"))
    ] = 0
    chunked_prefill: Annotated[int, Field(ge=0, le=1 << 20)] = 2048
    prefix_reuse: bool = True
    kv_cache_dtype: str = "auto"
    memory_fraction: Annotated[float, Field(gt=0, le=0.99)] = 0.85
    speculative: SpeculativeFile = SpeculativeFile()
    threads: Annotated[int, Field(ge=1, le=512)] = 1
    max_queue: Annotated[int, Field(ge=0, le=100_000)] = 64
    drain_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    options: dict[str, Any] = Field(default_factory=dict)
    flags: tuple[str, ...] = ()
    environment: dict[str, str] = Field(default_factory=dict)
    container: ContainerFile | None = None
    faults: FaultsFile = FaultsFile()

    @field_validator("environment")
    @classmethod
    def _no_secrets(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if (is_secret(name) or has_password(text)) and not referred(text):
                raise _refusal(f"{name} looks like a secret, and files are kept: write `{name}: ${name}` and export it")
        return value

    @field_validator("options", "flags")
    @classmethod
    def _no_secrets_on_the_command_line(cls, value: T) -> T:
        found = secret_in(value)
        if found:
            raise _refusal(
                f"{found} looks like a secret, and files and command lines can be read by others: "
                "set the engine's own variable for it, under `environment`, as `NAME: $NAME`, and export it"
            )
        return value

    def spec(self) -> EngineSpec:
        """As the engines know it; ``engines.port.EngineKind.check`` says whether it can be."""
        values = self.model_dump(exclude={"kind", "engine", "faults", "speculative", "container"})
        return EngineSpec(
            kind=self.engine,
            faults=Faults(**self.faults.model_dump()),
            speculative=Speculative(**self.speculative.model_dump()),
            container=ContainerSpec(**self.container.model_dump()) if self.container else None,
            **values,
        )


def _refusal(why: str) -> PydanticCustomError:
    """Of this type ``configs.load`` does not repeat the value."""
    return PydanticCustomError(SECRET, "{why}", {"why": why})
