"""A Hugging Face folder is checked from its headers alone, before anything is built."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import HEADS, HIDDEN, write_tiny

from engines.hf_convert import permutation
from engines.hf_tokenizer import pre_tokenizer, read_tokenizer
from engines.sources import open_source
from rollout.errors import Refused


def _edit(name: str, **changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, **changes}))

    return edit


def _truncate(folder: Path) -> None:
    file = folder / "model-00001-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _cut_header(folder: Path) -> None:
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"\xff\xff\0\0\0\0\0\0{}")


REFUSALS = [
    (_edit("config.json", architectures=["BertModel"]), "BertModel.*LlamaForCausalLM"),
    (_edit("config.json", quantization_config={"quant_method": "awq"}), "awq.*already quantised"),
    (_edit("config.json", rope_scaling={"rope_type": "longrope"}), "longrope"),
    (_edit("config.json", num_key_value_heads=4), "k_proj.*shape"),
    (_edit("config.json", num_hidden_layers=3), "9 of the tensors"),
    (_edit("config.json", vocab_size=5), "shape"),
    (_edit("tokenizer.json", model={"type": "Unigram"}), "Unigram.*BPE"),
    (_edit("tokenizer.json", pre_tokenizer={"type": "Metaspace"}), "Metaspace.*byte-level"),
    (lambda folder: (folder / "config.json").write_text("{"), "config.json.*cannot be read"),
    (lambda folder: (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}'), "hidden_size"),
    (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer"),
    (lambda folder: (folder / "model-00002-of-00002.safetensors").unlink(), "1 of the 2 files.*missing"),
    (lambda folder: (folder / "model.safetensors.index.json").unlink(), "2 safetensors files and no"),
    (lambda folder: (folder / "model.safetensors.index.json").write_text("[]"), "index.json.*cannot be read"),
    (_edit("model.safetensors.index.json", weight_map={"a": "../other.safetensors"}), "outside the folder"),
    (lambda folder: (folder / "config.json").write_text("[1]"), "config.json.*cannot be read"),
    (_truncate, r"truncated: its tensors need \d+ bytes and the file has \d+"),
    (_cut_header, "truncated: its header needs 65535 bytes and the file has 10"),
]


@pytest.mark.parametrize(("damage", "rule"), REFUSALS)
def test_a_folder_that_cannot_work_is_refused(tmp_path: Path, damage: Callable[[Path], None], rule: str) -> None:
    """Each way in which a folder can be wrong has a refusal that names it."""
    model = write_tiny(tmp_path / "hf", shards=2)
    version = model.version
    damage(model.folder)
    with pytest.raises(Refused, match=rule):
        open_source(version)


def test_facts_of_a_folder(tmp_path: Path) -> None:
    """Parameters are those of the weights; a tied output matrix counts once."""
    tied, free = write_tiny(tmp_path / "a"), write_tiny(tmp_path / "b", tied=False)
    facts = open_source(tied.version).facts
    assert facts.parameters == sum(w.size for w in tied.weights.values())
    assert (facts.architecture, facts.layers, facts.kv_heads, facts.head_dim) == ("llama", 2, 2, 64)
    assert open_source(free.version).facts.parameters - facts.parameters == facts.vocabulary * HIDDEN


def test_rows_of_a_head_become_pairs() -> None:
    """The first and the second half of each head are interleaved, heads stay in place."""
    order = permutation(HIDDEN, HEADS)
    head = HIDDEN // HEADS
    assert list(order[:4]) == [0, head // 2, 1, head // 2 + 1]
    assert np.array_equal(np.sort(order), np.arange(HIDDEN))
    assert all(set(order[h * head : (h + 1) * head]) == set(range(h * head, (h + 1) * head)) for h in range(HEADS))


def test_the_pre_tokenizer_is_recognised(tmp_path: Path) -> None:
    """Qwen2's and SmolLM's splits get llama.cpp's names for them."""
    qwen = write_tiny(tmp_path / "q", "Qwen2ForCausalLM").folder
    assert pre_tokenizer(read_tokenizer(qwen)) == "qwen2"
    assert pre_tokenizer(read_tokenizer(write_tiny(tmp_path / "l").folder)) == "smollm"
    assert pre_tokenizer({"pre_tokenizer": {"type": "ByteLevel"}}) == "gpt-2"
