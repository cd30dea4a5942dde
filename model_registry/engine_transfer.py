"""One transfer between an engine directory and a DVC remote: ``python -m model_registry.engine_transfer``.

Reads what is asked as JSON from standard input, writes the answer as JSON to standard output; an error is a line on
standard error and the error's exit status. The remote holds DVC's own layout (``files/md5/..``), and below
``roundhouse/`` a ``.dvc`` file for each engine: https://dvc.org/doc/user-guide/project-structure/dvc-files
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rollout.errors import Corrupt, NotFound, RoundhouseError

if TYPE_CHECKING:
    from dvc.repo import Repo

OUT = "engine"
POINTER = f"{OUT}.dvc"
REMOTE = "engines"


def main() -> int:
    """Do one transfer; the exit status."""
    asked = json.load(sys.stdin)
    answered, sys.stdout = sys.stdout, sys.stderr  # DVC talks
    try:
        told = transfer(**asked)
    except Exception as error:  # each storage's library has its own
        print(" ".join(f"{type(error).__name__}: {error}".split()), file=sys.stderr)
        return error.exit_code if isinstance(error, RoundhouseError) else 1
    print(json.dumps(told), file=answered)
    return 0


def transfer(verb: str, url: str, name: str, work: str, directory: str) -> dict[str, Any]:
    """``put`` a directory, ``look`` what is there, or ``get`` it; ``work`` is a folder for DVC's repository.

    Raises NotFound, Corrupt, and whatever DVC and the storage's own library raise.
    """
    repository = _repository(Path(work) / "repository", url)
    match verb:
        case "put":
            return {"pointer": _put(repository, name, directory)}
        case "look":
            return {"size": _outs(_pointer(repository, name), name)["size"]}
        case "get":
            return {"directory": _get(repository, name)}
    raise ValueError(verb)


def _repository(root: Path, url: str) -> Repo:
    """A repository without SCM whose cache is thrown away with it, so files are linked and not copied out of it."""
    from dvc.repo import Repo

    root.mkdir(exist_ok=True)
    Repo.init(str(root), no_scm=True, force=True).close()
    os.chdir(root)
    repository = Repo(str(root))
    with repository.config.edit("repo") as config:
        config["remote"][REMOTE] = {"url": url, "verify": True}
        config["core"]["remote"] = REMOTE
        config["cache"]["type"] = ["hardlink", "copy"]
    return Repo(str(root))


def _put(repository: Repo, name: str, directory: str) -> str:
    repository.add([directory], out=OUT, to_remote=True)
    fs, path = _named(repository, name)
    fs.makedirs(fs.parent(path), exist_ok=True)
    fs.put_file(str(Path(POINTER).absolute()), path)
    return Path(POINTER).read_text(encoding="utf-8")


def _get(repository: Repo, name: str) -> str:
    text = _pointer(repository, name)
    _outs(text, name)
    Path(POINTER).write_text(text, encoding="utf-8")
    try:
        repository.pull()
    except Exception:
        _mend(repository, name)
        raise
    for path in Path(OUT).rglob("*"):  # DVC protects what it links
        path.chmod(0o755 if path.is_dir() else 0o644)
    return str(Path(OUT).absolute())


def _mend(repository: Repo, name: str) -> None:
    """Take damaged content out of the remote, and the engine's name with it. Raises Corrupt if there was any."""
    from dvc_data.hashfile.db import HashFileDB
    from dvc_data.hashfile.tree import Tree
    from dvc_objects.errors import ObjectFormatError

    (out,) = repository.index.outs
    storage, bad = repository.cloud.get_remote_odb(), []
    asked = [out.hash_info.value]
    with suppress(FileNotFoundError, ObjectFormatError):
        asked += [content.value for _, _, content in Tree.load(storage, out.hash_info)]
    for content in asked:
        try:
            HashFileDB.check(storage, content)  # the base's: a folder's own trusts what is read-only
        except (FileNotFoundError, ObjectFormatError):
            bad.append(content)
    if bad:
        fs, path = _named(repository, name)
        fs.remove(path)
        raise Corrupt(f"{name}: {len(bad)} of its files were damaged or missing there, the first {bad[0]}")


def _pointer(repository: Repo, name: str) -> str:
    fs, path = _named(repository, name)
    try:
        with fs.open(path, "r", encoding="utf-8") as file:
            return str(file.read())
    except FileNotFoundError:
        raise NotFound(f"it has no {name}") from None


def _outs(text: str, name: str) -> dict[str, Any]:
    """The one thing that a ``.dvc`` file of ours names. Raises Corrupt."""
    try:
        (out,) = yaml.safe_load(text)["outs"]
        if out["path"] != OUT:
            raise ValueError(f"it names {out['path']}")
        return {"size": int(out["size"]), "md5": str(out["md5"])}
    except (yaml.YAMLError, ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{name}: its .dvc file cannot be used: {error}") from error


def _named(repository: Repo, name: str) -> tuple[Any, str]:
    """The remote's file system, and where in it the engine's ``.dvc`` file is."""
    remote = repository.cloud.get_remote()
    return remote.fs, remote.fs.join(remote.path, "roundhouse", f"{name}.dvc")


if __name__ == "__main__":
    sys.exit(main())
