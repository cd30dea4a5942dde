"""Checks and copies that are steps of a build: ``python -m engines.trtllm files|link|tokenizer|checkpoint ...``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from engines.model_folder import check_folder, copy_tokenizer, link_files
from engines.trtllm.verify import verify_checkpoint
from rollout.errors import RoundhouseError


def main(words: list[str]) -> int:
    """Exits 0, or with the error's own code after ``refused: <why>``."""
    verb, path = words[0], Path(words[1])
    try:
        match verb:
            case "files":
                check_folder(path)
            case "link":
                link_files(path, Path(words[2]))
            case "tokenizer":
                copy_tokenizer(path, Path(words[2]))
            case "checkpoint":
                verify_checkpoint(path, json.loads(words[2]))
    except RoundhouseError as bad:
        print(f"refused: {bad}")
        return bad.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
