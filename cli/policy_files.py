"""``roundhouse policy ls, show, schema, check``: the rollout files, what they say and whether they make sense."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.screen import out, show_json, show_table
from configs.evaluation import check_evaluation
from configs.fields import path_of
from configs.rollout_file import RolloutFile, read_rollout
from configs.schema import KINDS, schema_text
from configs.stack import load_stack, project_directory
from rollout.errors import RoundhouseError
from rollout.policy import stages
from rollout.policy_told import told

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]


def ls(as_json: Json = False) -> None:
    """List the rollout files of this project. A file that makes no sense is listed with the reason."""
    paths = sorted((project_directory() / "configs" / "rollouts").glob("*.yaml"))
    rows = [{"name": path.stem, "for": _purpose(path), "stages": _stages(path)} for path in paths]
    if as_json:
        show_json(rows)
    else:
        show_table("", ("name", "for", "stages"), [tuple(row.values()) for row in rows])


def show(name: Annotated[str, typer.Argument(help="A file of configs/rollouts.")], as_json: Json = False) -> None:
    """Show all that a rollout file says, defaults included: in sentences, then value by value."""
    path = path_of("rollouts", name)
    file = read_rollout(path)
    sentences = told(file.policy())
    if as_json:
        show_json({"name": name, "values": file.model_dump(mode="json"), "sentences": sentences})
        return
    for sentence in sentences:
        out.print(f"- {sentence}", markup=False)
    show_table("", ("field", "value", "from"), _values(file))


def schema(kind: Annotated[str, typer.Argument(help=f"{', '.join(KINDS)}.")] = "rollout") -> None:
    """Print the JSON Schema of a kind of file, by which editors complete and check it.

    It is kept in configs/schemas; the first line of each file there names it for the YAML language server.
    """
    typer.echo(schema_text(kind), nl=False)


def check(path: Annotated[Path, typer.Argument(help="A rollout file, anywhere.")]) -> None:
    """Check a rollout file: exit code 0, or 2 with field, value, rule and fix."""
    policy = read_rollout(path).policy()
    if policy.outputs is not None:  # a file that compares nothing is checked outside a project too
        check_evaluation(policy, load_stack())
    out.print(f"{path} makes sense: {told(policy)[0]}", markup=False)


def _purpose(path: Path) -> str:
    """The first sentence of the comment that opens a file."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    opening = lines[: next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))]
    text = " ".join(line.lstrip("# ") for line in opening if "yaml-language-server" not in line)
    return text.partition(". ")[0].rstrip(".")


def _stages(path: Path) -> str:
    try:
        policy = read_rollout(path).policy()
    except RoundhouseError as error:
        return str(error)
    return "computed" if policy.auto else ", ".join(stage.name for stage in stages(policy))


def _values(file: RolloutFile) -> list[tuple[str, Any, str]]:
    """Each field, nested ones by their path, its value, and who said it."""
    given = _flat(file.model_dump(mode="json", exclude_unset=True))
    everything = _flat(file.model_dump(mode="json"))
    return [(name, _shown(value), "file" if name in given else "default") for name, value in everything.items()]


def _flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        inner = _flat(value, f"{before}{name}.") if isinstance(value, dict) else {}
        flat.update(inner or {f"{before}{name}": value})
    return flat


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_shown(item) for item in value) or "none"
    if isinstance(value, dict):
        return str(value.get("name", value))
    if value is None or isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)
