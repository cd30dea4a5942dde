"""``python from_gguf.py FILE.gguf FOLDER DTYPE``: a GGUF file as the Hugging Face folder that vLLM serves.

Run by vLLM's interpreter, whose transformers reads the weights; it imports nothing of ours. Two things transformers
leaves out are put right here: how text is split before it is encoded, and the token that begins a text.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

DTYPES = ("float16", "bfloat16", "float32")
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_DIGITS = {"type": "Digits", "individual_digits": True}
_WORDS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}%s| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
_SPACES = "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"


def _split(digits: str) -> dict[str, Any]:
    pattern = {"Regex": _WORDS % digits + _SPACES}
    step = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [step, {**_BYTES, "use_regex": False}]}


# tokenizer.ggml.pre -> pre_tokenizer of tokenizer.json; llama.cpp: src/llama-vocab.cpp, the models' own tokenizer.json
PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "gpt-2": _BYTES,
    "smollm": {"type": "Sequence", "pretokenizers": [_DIGITS, _BYTES]},
    "llama-bpe": _split("{1,3}"),
    "qwen2": _split(""),
}
_BEGINS = ("llama-bpe",)  # llama.cpp begins a text with BOS for these, where the file does not say


def convert(file: Path, out: Path, dtype: str) -> None:
    """Write config, weights, tokenizer and chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    plain = GgufConfig(gguf_file=file.name, dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(**place, quantization_config=plain, dtype=torch.float32)
    model.to(getattr(torch, dtype)).save_pretrained(out)
    AutoTokenizer.from_pretrained(**place).save_pretrained(out)
    put_right(out / "tokenizer.json", *told(file))


def told(file: Path) -> tuple[str, int | None]:
    """The pre-tokenizer's name in a GGUF file, and the token that begins a text, None where there is none."""
    from gguf import GGUFReader

    fields = GGUFReader(file).fields

    def of(key: str) -> Any:
        field = fields.get(f"tokenizer.ggml.{key}")
        return field.contents() if field else None

    pre, begins = str(of("pre") or "gpt-2"), of("add_bos_token")
    return pre, of("bos_token_id") if (pre in _BEGINS if begins is None else begins) else None


def put_right(tokenizer: Path, pre: str, begin: int | None) -> None:
    """Set the pre-tokenizer, and have each text begin with a token."""
    definition = json.loads(tokenizer.read_text(encoding="utf-8"))
    definition["pre_tokenizer"] = PRE_TOKENIZERS[pre]
    if begin is not None:
        text = next(t["content"] for t in definition["added_tokens"] if t["id"] == begin)
        definition["post_processor"] = _beginning(text, begin)
    tokenizer.write_text(json.dumps(definition, ensure_ascii=False), encoding="utf-8")


def _beginning(text: str, number: int) -> dict[str, Any]:
    first, a, b = ({"SpecialToken": {"id": text, "type_id": 0}}, _part("A", 0), _part("B", 1))
    special = {text: {"id": text, "ids": [number], "tokens": [text]}}
    return {"type": "TemplateProcessing", "single": [first, a], "pair": [first, a, first, b], "special_tokens": special}


def _part(name: str, kind: int) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": kind}}


def main() -> int:
    """What cannot be read is said on a line that begins with "refused:"."""
    file, out, dtype = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    try:
        convert(file, out, dtype)
    except (ValueError, KeyError, NotImplementedError) as bad:
        print(f"refused: {file.name} cannot be read by transformers: {bad}", flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
