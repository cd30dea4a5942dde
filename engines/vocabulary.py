"""The tokens of a model as its files say them: whether a draft model fits, and words to write prompts from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import SpecialVocab

from engines.gguf_file import GgufFile
from engines.hf_tokenizer import read_tokenizer, vocabulary
from rollout.errors import Refused

# common/speculative.cpp of llama.cpp: what two vocabularies may differ in. Where they differ more it drops the draft
# model with one line in its log and serves on without, so the same rule has to refuse before.
_LARGEST_DIFFERENCE = 128
_COMPARED_FROM = 5
_SPACES = ("Ġ", "▁")  # how byte-level BPE and SentencePiece write the space before a word


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id. ``family`` is GGUF's tokenizer.ggml.model; -1 is a token that is never added."""

    family: str
    tokens: tuple[str, ...]
    bos: int = -1
    eos: int = -1


def of_gguf(file: GgufFile) -> Vocabulary:
    """From a GGUF file that was read with arrays."""

    def added(name: str) -> int:
        wanted = file.metadata.get(f"tokenizer.ggml.add_{name}_token")
        number = file.metadata.get(f"tokenizer.ggml.{name}_token_id")
        return int(number.value) if wanted and wanted.value and number else -1

    tokens = file.metadata["tokenizer.ggml.tokens"].value
    return Vocabulary(
        file.text("tokenizer.ggml.model"),
        tuple(token.decode("utf-8", "replace") for token in tokens),
        added("bos"),
        added("eos"),
    )


def of_folder(folder: Path, size: int) -> Vocabulary:
    """From a Hugging Face folder, as ``hf_tokenizer`` will write it. Raises Refused."""
    tokens, _ = vocabulary(read_tokenizer(folder), size)
    special = SpecialVocab(folder, n_vocab=size)
    bos, eos = (
        special.special_token_ids.get(name, -1) if special.add_special_token.get(name) else -1
        for name in ("bos", "eos")
    )
    return Vocabulary("gpt2", tuple(tokens), bos, eos)


def check_draft(target: Vocabulary, draft: Vocabulary) -> None:
    """That llama.cpp takes the draft model for this one: its own rule. Raises Refused."""
    field, fix = "speculative.draft_model", "take a small model of the same family, with the same tokenizer"
    if target.family != draft.family:
        rule = f"its tokenizer is {draft.family} and the model's is {target.family}"
        raise Refused(field, draft.family, rule, fix)
    for name, wanted, found in (("bos", target.bos, draft.bos), ("eos", target.eos, draft.eos)):
        if wanted != found:
            raise Refused(field, found, f"its added {name} token is {found} and the model's is {wanted}", fix)
    sizes = len(target.tokens), len(draft.tokens)
    if abs(sizes[0] - sizes[1]) > _LARGEST_DIFFERENCE:
        rule = f"its vocabulary has {sizes[1]} tokens and the model's {sizes[0]}; they may differ by 128"
        raise Refused(field, sizes[1], rule, fix)
    for number in range(_COMPARED_FROM, min(sizes)):
        if target.tokens[number] != draft.tokens[number]:
            rule = f"its token {number} is {draft.tokens[number]!r} and the model's is {target.tokens[number]!r}"
            raise Refused(field, number, rule, fix)


def words_of(tokens: Sequence[str]) -> tuple[str, ...]:
    """Whole words that are one token each when a space is before them; the plain ASCII ones where there are some."""
    words = [token[1:] for token in tokens if token[:1] in _SPACES and token[1:].isalpha()]
    plain = [word for word in words if word.isascii() and word.islower() and len(word) > 2]
    return tuple(sorted(set(plain or words)))


def tokens_of_folder(folder: Path) -> tuple[str, ...]:
    """The tokens in a folder's tokenizer.json, of any kind; none where there is no such file or it is not JSON."""
    try:
        definition: Any = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        entries = definition["model"]["vocab"]
    except (OSError, ValueError, KeyError, TypeError):
        return ()
    # BPE and WordPiece have {token: id}, Unigram [[token, score], ...] (huggingface/tokenizers)
    return tuple(entries) if isinstance(entries, dict) else tuple(str(entry[0]) for entry in entries)
