"""What an engine directory, a checkpoint and a model folder must be; each error names file, found, expected, remedy."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import write_tiny
from trtllm_builds import VERSION, built, trt_spec

from engines.model_folder import check_folder, link_files, read_tensors
from engines.trtllm.recipe_spec import facts
from engines.trtllm.verify import engine_limits, verify_checkpoint, verify_directory
from rollout.errors import Corrupt

SPEC = trt_spec("tensorrt", tensor_parallel=2)
LOOKAHEAD = {"decoding_type": "Lookahead", "max_window_size": 2, "max_ngram_size": 2, "max_verification_set_size": 1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine of two ranks."""
    root = tmp_path_factory.mktemp("verify")
    return built(root / "engines", write_tiny(root / "model").version, SPEC)[0]


@pytest.fixture
def engine(whole: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage."""
    return shutil.copytree(whole, tmp_path / "copy")


def change(path: Path, *keys: str, value: Any) -> None:
    """Set one value of a JSON file."""
    config = json.loads(path.read_text())
    inner = config
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(config))


CONFIGS: dict[str, tuple[tuple[str, ...], Any, str]] = {
    "version": (("version",), "1.1.0", "1.1.0 and 1.2.1 is expected"),
    "world": (("pretrained_config", "mapping", "world_size"), 4, "mapping.world_size is 4 and 2 was asked"),
    "pipeline": (("pretrained_config", "mapping", "pp_size"), 2, "mapping.pp_size is 2 and 1 was asked"),
    "weights": (("pretrained_config", "quantization", "quant_algo"), "FP8", "quantised as FP8 and None was asked"),
    "cache": (("pretrained_config", "quantization", "kv_cache_quant_algo"), "INT8", "ask for kv_cache_dtype int8"),
    "batch": (("build_config", "max_batch_size"), 2048, "max_batch_size is 2048 and 2 was asked"),
    "length": (("build_config", "max_seq_len"), 512, "max_seq_len is 512 and 1024 was asked"),
    "keys": (("lora",), {}, "'lora', 'pretrained_config', 'version'"),
    "mapping": (("pretrained_config", "mapping"), None, "lacks mapping or quantization"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_that_says_otherwise_is_refused(name: str, engine: Path) -> None:
    """Found, expected, and that it is built again."""
    keys, value, words = CONFIGS[name]
    change(engine / "engine" / "config.json", *keys, value=value)
    with pytest.raises(Corrupt, match=words) as refused:
        verify_directory(engine, SPEC, VERSION)
    assert "config.json" in str(refused.value)


FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "lost rank": (lambda e: (e / "engine/rank0.engine").unlink(), "rank0.engine is missing or empty; 1 rank files"),
    "extra rank": (lambda e: (e / "engine/rank2.engine").write_bytes(b"x"), "rank2.engine belongs to no rank; 3"),
    "no tokenizer": (lambda e: shutil.rmtree(e / "tokenizer"), "tokenizer has no tokenizer"),
    "half a config": (lambda e: (e / "engine/config.json").write_text('{"ver'), "cannot be read"),
    "a list": (lambda e: (e / "engine/config.json").write_text("[]"), "is list and must be an object"),
    "no config": (lambda e: (e / "engine/config.json").unlink(), "it is missing; build it again"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_not_as_built_are_found(name: str, engine: Path) -> None:
    """Ranks, tokenizer, config."""
    harm, words = FILES[name]
    harm(engine)
    with pytest.raises(Corrupt, match=words):
        verify_directory(engine, SPEC, VERSION)


def test_a_whole_engine_tells_what_it_is(whole: Path) -> None:
    """Architecture, type, mapping and limits; a dtype that was asked for is compared."""
    told = verify_directory(whole, SPEC, VERSION)
    assert told["architecture"] == "LlamaForCausalLM" and told["max_seq_len"] == 1024
    assert told["mapping"] == {"world_size": 2, "tp_size": 2, "pp_size": 1}
    with pytest.raises(Corrupt, match="dtype is bfloat16 and float16 was asked for"):
        verify_directory(whole, trt_spec("tensorrt", tensor_parallel=2, dtype="float16"), VERSION)


def test_equal_versions_written_otherwise_are_equal(whole: Path) -> None:
    """1.2.1 and 1.2.1.0 are one version; 1.2.1rc1 is another."""
    assert verify_directory(whole, SPEC, "1.2.1.0")["version"] == "1.2.1"
    with pytest.raises(Corrupt, match=r"1\.2\.1rc1 is expected"):
        verify_directory(whole, SPEC, "1.2.1rc1")


def test_lookahead_lengthens_what_an_engine_says_of_itself(tmp_path: Path) -> None:
    """As the builder does; such an engine passes its own check."""
    spec = trt_spec("tensorrt", slots=2000, options={"speculative_config": LOOKAHEAD})
    directory, _ = built(tmp_path / "engines", write_tiny(tmp_path / "model").version, spec)
    told = verify_directory(directory, spec, VERSION)
    assert (told["max_draft_len"], told["max_seq_len"], told["max_num_tokens"]) == (2, 1026, 6000)
    assert engine_limits(spec)["max_batch_size"] == 2000


def test_a_checkpoint_is_checked_rank_by_rank(tmp_path: Path) -> None:
    """Both files whole, and the mapping that was asked for."""
    config = {
        "dtype": "bfloat16",
        "mapping": {"world_size": 2, "tp_size": 2, "pp_size": 1},
        "quantization": {"quant_algo": None, "kv_cache_quant_algo": None},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    good = write_tiny(tmp_path / "model").folder / "model.safetensors"
    shutil.copy(good, tmp_path / "rank0.safetensors")
    with pytest.raises(Corrupt, match=r"rank1\.safetensors is missing or empty; 1 rank files found and 2 expected"):
        verify_checkpoint(tmp_path, facts(SPEC))
    shutil.copy(good, tmp_path / "rank1.safetensors")
    verify_checkpoint(tmp_path, facts(SPEC))
    (tmp_path / "rank1.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(Corrupt, match=r"rank1\.safetensors holds no tensors"):
        verify_checkpoint(tmp_path, facts(SPEC))


def tensors(header: Any, data: bytes) -> bytes:
    """A safetensors file of this header and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(first: int, end: int, dtype: str = "F16", shape: tuple[int, ...] = (2,)) -> dict[str, Any]:
    """One tensor of a header."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [first, end]}


BROKEN = {
    "nothing": (b"", "is truncated: it has 0 bytes"),
    "header longer than the file": ((1 << 28).to_bytes(8, "little") + b"{}", "its header alone needs"),
    "no JSON": (tensors(b"{{", b""), "its header is damaged"),
    "cut data": (tensors({"a": entry(0, 4)}, b"abc"), "truncated: 3 bytes of data and 4 expected"),
    "more data": (tensors({"a": entry(0, 4)}, b"abcde"), "longer than its tensors: 5 bytes"),
    "a gap": (tensors({"a": entry(0, 4), "b": entry(6, 10)}, b"0123456789"), "b lies at bytes 6 to 10 and 4 to 8 are"),
    "a shape of another size": (tensors({"a": entry(0, 4, shape=(3,))}, b"abcd"), "0 to 6 are expected"),
    "an unknown type": (tensors({"a": entry(0, 4, "F17")}, b"abcd"), "unknown type F17"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_damaged_weight_files_are_told_apart(name: str, tmp_path: Path) -> None:
    """By bytes found and expected."""
    content, words = BROKEN[name]
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(Corrupt, match=words):
        read_tensors(tmp_path / "a.safetensors")


def test_four_bit_types_take_half_a_byte(tmp_path: Path) -> None:
    """NVFP4 weights: 4 bits each, FP8 scales beside them."""
    content = tensors({"w": entry(0, 8, "F4", (16,)), "s": entry(8, 9, "F8_E4M3", (1,)), "__metadata__": {}}, b"9" * 9)
    (tmp_path / "a.safetensors").write_bytes(content)
    assert {t.name: t.shape for t in read_tensors(tmp_path / "a.safetensors").values()} == {"w": (16,), "s": (1,)}


def test_linking_leaves_hidden_files_behind(tmp_path: Path) -> None:
    """A clone's own folder is no part of the model; folders are kept, links are followed."""
    source = write_tiny(tmp_path / "real").folder
    (source / ".git").mkdir()
    (source / ".git" / "config").write_text("x")
    (source / "extra").mkdir()
    (source / "extra" / "a.json").symlink_to(source / "config.json")
    link_files(source, tmp_path / "made")
    assert not (tmp_path / "made" / ".git").exists()
    assert (tmp_path / "made" / "extra" / "a.json").read_text() == (source / "config.json").read_text()
    assert check_folder(tmp_path / "made")["architectures"] == ["LlamaForCausalLM"]


def tensor(**changed: Any) -> dict[str, Any]:
    """One of four bytes, as a header says it."""
    return {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changed}}


@pytest.mark.parametrize(
    "header",
    [
        tensor(shape=["x"]),
        tensor(shape=[1, -1, -1]),
        tensor(shape=[True]),
        tensor(shape=None),
        tensor(dtype=["F32"]),
        tensor(data_offsets=["0", 4]),
        tensor(data_offsets=[0, 4, 8]),
        tensor(data_offsets=[0, 4.0]),
        {"a": 1},
        [],
    ],
)
def test_a_damaged_header_is_corrupt(header: object, tmp_path: Path) -> None:
    """Whatever stands in it, the file is called damaged; nothing else is raised."""
    path, text = tmp_path / "model.safetensors", json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    with pytest.raises(Corrupt, match=r"model.safetensors: its header is damaged"):
        read_tensors(path)


def test_a_header_of_any_length_is_not_read(tmp_path: Path) -> None:
    """One that says to be longer than the format allows is refused before it is read into memory."""
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 1 << 28))
        file.truncate((1 << 28) + 100)  # takes no room on the disk
    with pytest.raises(Corrupt, match="may have 100000000"):
        read_tensors(path)
