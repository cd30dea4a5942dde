"""Turns tokenizer.json (byte-level BPE) into the vocabulary metadata of a GGUF file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, SpecialVocab, TokenType

from rollout.errors import Refused

# How llama.cpp names a pre-tokenizer, by what is unmistakable in its definition (src/llama-vocab.cpp).
_LLAMA3_DIGITS = r"\p{N}{1,3}"
_CASELESS_SUFFIXES = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"


def pre_tokenizer(definition: dict[str, Any]) -> str:
    """llama.cpp's name of the pre-tokenizer of this tokenizer.json. Raises Refused for one that is not known."""
    parts = definition.get("pre_tokenizer") or {}
    steps = parts.get("pretokenizers", [parts])
    kinds = [step.get("type") for step in steps]
    pattern = " ".join(str((step.get("pattern") or {}).get("Regex", "")) for step in steps)
    if "ByteLevel" not in kinds:
        raise Refused(
            "tokenizer.json",
            "/".join(map(str, kinds)),
            "only byte-level BPE can be converted",
            "give a GGUF file of the model",
        )
    if _CASELESS_SUFFIXES in pattern:
        return "llama-bpe" if _LLAMA3_DIGITS in pattern else "qwen2"
    if "Digits" in kinds:
        return "smollm"
    if kinds == ["ByteLevel"]:
        return "gpt-2"
    raise Refused(
        "tokenizer.json",
        pattern or "/".join(map(str, kinds)),
        "this pre-tokenizer is not known",
        "give a GGUF file of the model",
    )


def read_tokenizer(folder: Path) -> dict[str, Any]:
    """tokenizer.json, checked to be BPE of a known kind. Raises Refused."""
    try:
        definition = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as bad:
        raise Refused("tokenizer.json", str(bad), "it cannot be read", "fetch the model again") from bad
    kind = (definition.get("model") or {}).get("type")
    if kind != "BPE":
        raise Refused("tokenizer.json", kind, "only byte-level BPE can be converted", "give a GGUF file of the model")
    pre_tokenizer(definition)
    return definition


def vocabulary(definition: dict[str, Any], size: int) -> tuple[list[str], list[TokenType]]:
    """Tokens by id, padded to ``size``, and what each is. Raises Refused for an id beyond the embedding table."""
    added = {token["id"]: token for token in definition.get("added_tokens", ())}
    by_id = {number: text for text, number in definition["model"]["vocab"].items()}
    by_id.update({number: token["content"] for number, token in added.items()})
    if max(by_id) >= size:
        raise Refused(
            "tokenizer.json",
            max(by_id),
            f"config.json has a vocabulary of {size}, so ids end at {size - 1}",
            "take config.json and tokenizer.json from the same revision",
        )
    kinds = []
    for number in range(size):
        if number not in by_id:
            kinds.append(TokenType.UNUSED)
        elif number in added:
            kinds.append(TokenType.CONTROL if added[number].get("special") else TokenType.USER_DEFINED)
        else:
            kinds.append(TokenType.NORMAL)
    return [by_id.get(number, f"[PAD{number}]") for number in range(size)], kinds


def add_tokenizer(writer: GGUFWriter, folder: Path, size: int) -> None:
    """Vocabulary, merges, special tokens and chat template into the metadata. Raises Refused."""
    definition = read_tokenizer(folder)
    tokens, kinds = vocabulary(definition, size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer(definition))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    SpecialVocab(folder, load_merges=True, n_vocab=size).add_to_gguf(writer, quiet=True)
