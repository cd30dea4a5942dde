"""What llama.cpp makes of a spec: no field is silently ignored, and every number is within what it can do."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_models import TinyModel, write_tiny

from engines.hardware import Hardware
from engines.llama_cpp import LlamaCpp
from engines.llama_params import OWNED, PASSED, apply, params_of
from engines.llama_rules import check_heads, check_llama, instance_bytes, kv_bytes, needs_of
from engines.port import ContainerSpec, EngineSpec, LocalSettings, Placement, Speculative
from engines.sources import Facts
from engines.vocabulary import Vocabulary, check_draft
from rollout.errors import Refused
from rollout.nouns import Engine

SPEC = EngineSpec(context=128)
HARDWARE = Hardware(4, 64 << 30, 64 << 30)
FACTS = Facts("llama", 1000, 30, 3, 64, 8192, 49152, "BF16")
ENGINE = Engine("llama_cpp", "d" * 64, "/engines/e", "tiny", 1, 0.0, True)


@pytest.mark.parametrize(
    ("changes", "field", "rule"),
    [
        ({"tensor_parallel": 2}, "tensor_parallel", "GPUs only"),
        ({"pipeline_parallel": 2}, "pipeline_parallel", "GPUs only"),
        ({"expert_parallel": 2}, "expert_parallel", "GPUs only"),
        ({"recipe": "pytorch"}, "recipe", "tensorrt_llm"),
        ({"container": ContainerSpec()}, "container", "this installation"),
        ({"flags": ("--x",)}, "flags", "no flags.*options"),
        ({"dtype": "float16"}, "dtype", "kv_cache_dtype"),
        ({"memory_fraction": 0.5}, "memory_fraction", "slots x context"),
        ({"version": "0.1"}, "version", "is installed"),
        ({"slots": 300}, "slots", "256"),
        ({"kv_cache_dtype": "fp8"}, "kv_cache_dtype", "q8_0"),
        ({"kv_cache_dtype": "q6_k"}, "kv_cache_dtype", "q8_0"),
        ({"max_tokens": 64, "chunked_prefill": 0}, "max_tokens", "at least 128"),
        ({"max_tokens": 1}, "max_tokens", "at least 2"),
        ({"chunked_prefill": 9, "speculative": Speculative("ngram")}, "chunked_prefill", "at least 10"),
        ({"speculative": Speculative("draft")}, "speculative.draft_model", "needs a model"),
        ({"speculative": Speculative("ngram", "x")}, "speculative.draft_model", "no draft model"),
        ({"speculative": Speculative("ngram", tokens=0)}, "speculative.tokens", "between 1 and 64"),
        ({"environment": {"A-B": "1"}}, "environment", "no name"),
        ({"environment": {"A": "\0"}}, "environment.A", "hidden"),
        ({"options": {"n_ubatch": 4096}}, "options.n_ubatch", "2048"),
        ({"options": {"n_ubatch": "64"}}, "options.n_ubatch", "int, not str"),
        ({"options": {"n_ubatch": True}}, "options.n_ubatch", "int, not bool"),
        ({"options": {"nubatch": 64}}, "options.nubatch", "did you mean n_ubatch"),
        ({"options": {"numa": "sideways"}}, "options.numa", "distribute"),
        ({"options": {"n_ctx": 64}}, "options.n_ctx", "set context instead"),
        ({"options": {"model.path": "/etc/passwd"}}, "options.model.path", "not for an engine to set"),
        ({"options": {"hostnames": ["0.0.0.0"]}}, "options.hostnames", "not for an engine to set"),
        ({"options": {"port": 1}}, "options.port", "not for an engine to set"),
        ({"options": {"api_keys": ["k"]}}, "options.api_keys", "not for an engine to set"),
        ({"options": {"slot_save_path": "/x"}}, "options.slot_save_path", "not for an engine to set"),
        ({"options": {"__class__": 1}}, "options.__class__", "no field"),
        ({"options": {"n_cache_reuse": 64}, "prefix_reuse": False}, "options.n_cache_reuse", "prefix_reuse is off"),
        (
            {"options": {"flash_attn_type": "disabled"}, "kv_cache_dtype": "q8_0"},
            "options.flash_attn_type",
            "flash attention",
        ),
    ],
)
def test_what_it_cannot_do_is_refused(changes: dict[str, Any], field: str, rule: str) -> None:
    """With the field, and with what to do instead."""
    with pytest.raises(Refused, match=rule) as refusal:
        check_llama(replace(SPEC, **changes))
    assert refusal.value.field == field and refusal.value.fix


def test_every_option_is_a_field_of_the_real_object() -> None:
    """What may be passed exists, and nothing that the spec decides may be passed."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    for name in PASSED | OWNED.keys():
        target = params
        for part in name.split("."):
            target = getattr(target, part)
    assert not PASSED & OWNED.keys()


def test_each_setting_reaches_the_real_object() -> None:
    """Slots, context, steps, types, reuse, guesses and options, read back from CommonParams."""
    import xllamacpp

    spec = EngineSpec(
        slots=3,
        context=512,
        threads=2,
        max_tokens=96,
        kv_cache_dtype="q8_0",
        prefix_reuse=False,
        speculative=Speculative("draft", "x", tokens=7),
        options={"sampling.temp": 1, "n_ubatch": 32},
    )
    params = xllamacpp.CommonParams()
    apply(params_of(spec, "m.gguf", "d.gguf"), params)
    assert (params.n_parallel, params.n_ctx, params.kv_unified) == (3, 1536, False)
    assert (params.n_batch, params.n_ubatch, params.cpuparams.n_threads) == (96, 32, 2)
    assert params.cache_type_k == params.cache_type_v == xllamacpp.ggml_type.GGML_TYPE_Q8_0
    assert params.flash_attn_type == xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    assert (params.cache_prompt, params.cache_ram_mib, params.sampling.temp) == (False, 0, 1.0)
    assert (params.speculative.draft.mparams.path, params.speculative.draft.n_max) == ("d.gguf", 7)
    assert params.speculative.types[0].name.endswith("DRAFT_SIMPLE")


def test_steps_follow_chunks_and_bounds() -> None:
    """The smaller of both counts; without chunks a whole prompt fits into a step."""
    for changes, wanted in (
        ({}, 2048),
        ({"max_tokens": 512}, 512),
        ({"max_tokens": 4096}, 2048),
        ({"chunked_prefill": 0, "context": 3000}, 3000),
        ({"chunked_prefill": 0, "max_tokens": 5000}, 5000),
    ):
        assert params_of(replace(SPEC, **changes), "m")["n_batch"] == wanted


def test_memory_follows_type_draft_and_kept_prompts() -> None:
    """Keys and values by ggml's block sizes; a draft model has its own; prompts that are kept count."""
    spec = replace(SPEC, context=1024)
    assert kv_bytes(FACTS, spec) == 2 * 30 * 3 * 64 * 1024 * 2 * 2
    assert kv_bytes(FACTS, replace(spec, kv_cache_dtype="q8_0")) == kv_bytes(FACTS, spec) * 34 // 64
    base = instance_bytes(FACTS, 100, spec)
    assert base - instance_bytes(FACTS, 100, replace(spec, prefix_reuse=False)) == 256 << 20
    assert instance_bytes(FACTS, 100, spec, (FACTS, 7)) - base == 7 + kv_bytes(FACTS, spec) + 4 * 512 * 49152
    needs = needs_of(FACTS, 100, spec, (FACTS, 7))
    assert needs.fixed_bytes + spec.slots * needs.request_bytes == instance_bytes(FACTS, 100, spec, (FACTS, 7))


def test_instances_keep_to_their_processors(tmp_path: Path) -> None:
    """The cores of a placement are told to the process with the model; more threads than cores are refused."""
    kind = LlamaCpp(LocalSettings(str(tmp_path)))
    command = kind.serve_command(ENGINE, replace(SPEC, threads=2), "127.0.0.1", 18123, Placement(cores=(1, 3)))
    assert command.argv[command.argv.index("--cores") + 1] == "1,3"
    assert "--cores" not in kind.serve_command(ENGINE, SPEC, "127.0.0.1", 18123).argv
    with pytest.raises(Refused, match="gives 1 cores"):
        kind.serve_command(ENGINE, replace(SPEC, threads=2), "127.0.0.1", 18123, Placement(cores=(1,)))


def test_the_environment_is_passed_on(tmp_path: Path) -> None:
    """What the spec says wins over what this process knows."""
    spec = replace(SPEC, environment={"GGML_NUMA": "1", "PYTHONUNBUFFERED": "0"})
    command = LlamaCpp(LocalSettings(str(tmp_path))).serve_command(ENGINE, spec, "127.0.0.1", 18123)
    assert command.env["GGML_NUMA"] == "1" and command.env["PYTHONUNBUFFERED"] == "0"


TARGET = Vocabulary("gpt2", tuple(f"t{n}" for n in range(300)), 1, -1)


@pytest.mark.parametrize(
    ("draft", "rule"),
    [
        (replace(TARGET, family="llama"), "llama and the model's is gpt2"),
        (replace(TARGET, bos=2), "bos token is 2"),
        (replace(TARGET, eos=2), "eos token is 2"),
        (replace(TARGET, tokens=TARGET.tokens[:171]), "171 tokens and the model's 300"),
        (replace(TARGET, tokens=(*TARGET.tokens[:200], "x", *TARGET.tokens[201:])), "token 200 is 'x'"),
    ],
)
def test_a_draft_model_of_another_vocabulary_is_refused(draft: Vocabulary, rule: str) -> None:
    """llama.cpp would drop it with a line in its log, and be slow."""
    with pytest.raises(Refused, match=rule):
        check_draft(TARGET, draft)


def test_small_differences_that_llama_cpp_allows_are_allowed() -> None:
    """128 tokens more or fewer at the end, and the first five."""
    check_draft(TARGET, replace(TARGET, tokens=("a", "b", "c", "d", "e", *TARGET.tokens[5:172])))
    assert check_draft(TARGET, TARGET) is None


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return write_tiny(tmp_path_factory.mktemp("rules") / "hf")


def test_a_draft_model_is_built_beside_the_model(tmp_path: Path, tiny: TinyModel) -> None:
    """Another engine than without; the method alone and the number of guesses are none."""
    kind = LlamaCpp(LocalSettings(str(tmp_path)))
    spec = replace(SPEC, speculative=Speculative("draft", "x"))
    plain, plan = kind.plan(tiny.version, SPEC, HARDWARE), kind.plan(tiny.version, spec, HARDWARE, tiny.version)
    more = kind.plan(tiny.version, replace(spec, speculative=Speculative("draft", "x", 8)), HARDWARE, tiny.version)
    ngram = kind.plan(tiny.version, replace(SPEC, speculative=Speculative("ngram")), HARDWARE)
    assert plan.digest == more.digest != plain.digest == ngram.digest
    assert any(step.startswith("draft model") for step in plan.steps) and plan.disk_bytes > plain.disk_bytes
    engine = kind.build(plan, lambda what, share: None)
    names = sorted(p.name for p in Path(engine.directory).iterdir())
    assert names == ["draft.gguf", "manifest.json", "model.gguf", "warm_up.jsonl"]


def test_a_draft_is_given_exactly_where_it_is_used(tmp_path: Path, tiny: TinyModel) -> None:
    """Missing, superfluous, or of another tokenizer: refused at plan time."""
    kind, drafted = LlamaCpp(LocalSettings(str(tmp_path / "e"))), replace(SPEC, speculative=Speculative("draft", "x"))
    with pytest.raises(Refused, match="resolve speculative"):
        kind.plan(tiny.version, drafted, HARDWARE)
    with pytest.raises(Refused, match="method is none"):
        kind.plan(tiny.version, SPEC, HARDWARE, tiny.version)
    with pytest.raises(Refused, match="GPU"):
        kind.plan(tiny.version, replace(SPEC, options={"n_gpu_layers": 3}), HARDWARE)


def test_a_draft_of_another_vocabulary_is_refused_at_plan_time(tmp_path: Path, tiny: TinyModel) -> None:
    """Read from the files of both."""
    other = write_tiny(tmp_path / "other")
    tokenizer = other.folder / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"the":', '"thf":'))
    spec = replace(SPEC, speculative=Speculative("draft", "x"))
    with pytest.raises(Refused, match="'thf' and the model's is 'the'"):
        LlamaCpp(LocalSettings(str(tmp_path / "e"))).plan(tiny.version, spec, HARDWARE, other.version)


def test_heads_that_do_not_divide_into_blocks_are_refused() -> None:
    """Quantised keys come in blocks of 32 elements of one head."""
    with pytest.raises(Refused, match="blocks of 32 and the model's heads have 80"):
        check_heads(replace(SPEC, kv_cache_dtype="q8_0"), replace(FACTS, head_dim=80))
