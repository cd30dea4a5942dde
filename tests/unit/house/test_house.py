"""The house keeps its shape: imports go one way, names do not clash, functions stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
OWNERS = ["rollout", "model_registry", "engines", "platforms", "gateway", "loadtest", "store", "reports", "configs"]
ROOMS = [*OWNERS, "agent", "tasks", "flows", "cli"]
FILES = [p for room in ROOMS for p in sorted((ROOT / room).rglob("*.py"))]


def functions(path):
    tree = ast.parse(path.read_text())
    return [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_import_contracts_are_kept():
    """`.importlinter` says who may know whom."""
    lint = Path(sys.executable).with_name("lint-imports")
    found = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("room", ["flows", "loadtest"])
def test_no_file_hides_a_package(room):
    """Prefect and Locust put a file's folder first on the path: a name there must belong to nobody else."""
    taken = set(ROOMS) | set(sys.stdlib_module_names) | set(packages_distributions())
    taken -= {"release", "build"}  # names of nothing that is ever imported beside a flow
    names = {p.stem for p in (ROOT / room).glob("*.py")} - {"__init__", "__main__"}
    assert not names & taken


def test_functions_and_modules_stay_small():
    """No function over 60 lines, no module over 400; the median function is about ten."""
    lengths = {f"{p.relative_to(ROOT)}:{f.name}": f.end_lineno - f.lineno + 1 for p in FILES for f in functions(p)}
    assert {name: n for name, n in lengths.items() if n > 60} == {}
    assert {str(p): n for p in FILES if (n := len(p.read_text().splitlines())) > 400} == {}
    assert sorted(lengths.values())[len(lengths) // 2] <= 12


def test_every_module_and_public_function_says_what_it_is():
    """A docstring on each module, public class and public function (a port's verbs and overloads included)."""
    silent = []
    for path in FILES:
        tree = ast.parse(path.read_text())
        if not ast.get_docstring(tree) and path.name != "__init__.py":
            silent.append(str(path.relative_to(ROOT)))
        for node in tree.body:
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if public and not ast.get_docstring(node):
                silent.append(f"{path.relative_to(ROOT)}:{node.name}")
    assert silent == []


def test_every_test_says_what_it_shows():
    """A test's docstring is the behaviour it holds us to."""
    tests = [p for p in (ROOT / "tests").rglob("test_*.py")]
    silent = [
        f"{p.name}:{f.name}"
        for p in tests
        for f in functions(p)
        if f.name.startswith("test_") and not ast.get_docstring(f)
    ]
    assert silent == []


def test_locks_pin_everything_and_name_no_address():
    """Every requirement has a hash; no index or download address is written anywhere."""
    for lock in ("test.txt", "sample-model.txt"):
        text = (ROOT / "requirements" / lock).read_text()
        blocks = [b for b in text.replace("\\\n", " ").splitlines() if b and not b.lstrip().startswith("#")]
        assert blocks and all("==" in b and "--hash=sha256:" in b for b in blocks)
        assert "://" not in text
