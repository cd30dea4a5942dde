"""``python -m engines build | verify | evaluate``: the adapter from a shell, which is how dvc.yaml calls it.

JSON on standard output, progress on standard error, an error as one line and the error's exit status.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engines import artifacts
from engines.evaluate import engine_at, evaluate
from engines.hardware import read_hardware
from engines.local_model import read_local_model
from engines.port import EngineSpec, LocalSettings, open_engine
from rollout.errors import RoundhouseError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m engines", description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    build = verbs.add_parser("build", help="model files to an engine directory below --out")
    build.add_argument("--model", type=Path, required=True, help="a GGUF file, or a folder of model files")
    build.add_argument("--name", default="", help="what the engine is called; the file's or folder's name if left out")
    build.add_argument("--quantization", default=EngineSpec().quantization)
    build.add_argument("--out", type=Path, required=True)
    for verb, text in (("verify", "hash an engine's files again"), ("evaluate", "speed and sanity of its answers")):
        other = verbs.add_parser(verb, help=text)
        other.add_argument("--engine", type=Path, required=True, help="an engine directory, or a folder with one in it")
        if verb == "evaluate":
            other.add_argument("--out", type=Path, required=True, help="where the metrics go, as JSON")
            other.add_argument("--threads", type=int, default=EngineSpec.threads)
    return parser


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Do what was asked; what to print. Raises RoundhouseError."""
    if arguments.verb == "build":
        kind = open_engine("llama_cpp", LocalSettings(str(arguments.out)))
        plan = kind.plan(
            read_local_model(arguments.model, arguments.name),
            EngineSpec(quantization=arguments.quantization),
            read_hardware(str(arguments.out)),
        )
        return asdict(kind.build(plan, _show))
    if arguments.verb == "verify":
        return artifacts.read_manifest(Path(engine_at(arguments.engine).directory))
    figures = evaluate(arguments.engine, EngineSpec(slots=1, threads=arguments.threads))
    aside = arguments.out.with_name(arguments.out.name + ".new")
    aside.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    os.replace(aside, arguments.out)
    return figures


def _show(what: str, share: float) -> None:
    if sys.stderr.isatty():
        print(f"\r{share:6.1%} {what:<60.60}", end="\n" if share >= 1 else "", file=sys.stderr, flush=True)


def main() -> int:
    """Run as a program. The exit status."""
    arguments = _parser().parse_args()
    try:
        print(json.dumps(run(arguments), indent=2))
    except RoundhouseError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
