"""``python -m model_registry fetch URI --out DIR``: the files of a model, for ``dvc.yaml`` and shells."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from model_registry.files import check
from model_registry.port import MlflowSettings
from model_registry.sources import fetch_any
from rollout.errors import Corrupt, Refused, RoundhouseError
from rollout.nouns import ModelVersion


def main(argv: list[str]) -> int:
    """Fetch, copy into the folder asked for, print the model version as JSON; the exit code is the error's."""
    asked = _parser().parse_args(argv)
    settings = MlflowSettings(asked.registry, asked.cache)
    try:
        model = fetch_any(asked.uri, settings, _to_stderr, asked.repo)
        place(model, Path(asked.out))
    except RoundhouseError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps({**asdict(model), "directory": asked.out}, indent=2))
    return 0


def place(model: ModelVersion, out: Path) -> None:
    """Copy the model's files to ``out``, aside first. A folder that holds just them stays; another one is refused."""
    if out.exists() and any(out.iterdir()):
        try:
            return check(out, model.files, _silent)
        except Corrupt as other:
            raise Refused("out", str(out), f"it holds something else ({other})", "name a new folder") from other
    aside = out.with_name(out.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    for file in model.files:
        (aside / file.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(model.directory) / file.path, aside / file.path)
    aside.replace(out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model_registry", description=__doc__)
    fetch = parser.add_subparsers(required=True).add_parser("fetch", help="get the verified files of a model")
    fetch.add_argument("uri", help="models:/NAME/3, models:/NAME@ALIAS, dvc:PATH@REV, hf:ORG/NAME, sample, or a path")
    fetch.add_argument("--out", required=True, help="folder to put the files into")
    cache = os.environ.get("ROUNDHOUSE_CACHE", ".roundhouse/cache")
    fetch.add_argument("--cache", default=cache, help="folder in which fetched models are kept (default: %(default)s)")
    registry = os.environ.get("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    fetch.add_argument("--registry", default=registry, help="address of the MLflow server (default: %(default)s)")
    fetch.add_argument("--repo", default=".", help="git repository of dvc: paths (default: %(default)s)")
    return parser


def _to_stderr(what: str, share: float) -> None:
    print(f"{share:6.1%}  {what}", file=sys.stderr)


def _silent(what: str, share: float) -> None:
    """Nobody waits for it."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
