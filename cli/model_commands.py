"""``roundhouse model``: models in the registry."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from cli.screen import out, progress, show_json, show_table
from configs.evaluation import load_evaluation
from configs.stack import load_stack
from model_registry.port import EVALUATION, Registered, open_registry

app = typer.Typer(
    help="Models in the registry: register, list, move an alias, name their evaluation set.", no_args_is_help=True
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]


@app.command()
def register(
    name: Annotated[str, typer.Argument(help="The registered model's name, for example smollm2.")],
    source: Annotated[str, typer.Argument(help="A folder or file, dvc:PATH@REV, hf:ORG/NAME, or `sample`.")],
    alias: Annotated[str, typer.Option(help="Set this alias on the new version (may start a release).")] = "",
    as_json: Json = False,
) -> None:
    """Put a model version into the registry with the digest of each file.

    Example: `roundhouse model register smollm2 sample`
    """
    from model_registry.sources import local_files

    stack = load_stack()
    registry = open_registry(stack.registry())
    with progress(as_json) as report:
        folder = local_files(source, stack.cache, report, str(stack.project)).folder
        registered = registry.register(name, str(folder), source, report)
        if alias:
            registry.set_alias(name, alias, registered.version)
    if as_json:
        show_json(asdict(registered))
    else:
        out.print(
            f"{registered.uri}: {registered.architecture} ({registered.format}), {registered.parameters:,} parameters"
        )


@app.command("list")
def list_versions(name: Annotated[str, typer.Argument(help="The registered model.")], as_json: Json = False) -> None:
    """All versions of a model, newest first.

    Example: `roundhouse model list smollm2`
    """
    found = open_registry(load_stack().registry()).versions(name)
    if as_json:
        show_json([asdict(version) for version in found])
    else:
        show_table(name, ("version", "aliases", "architecture", "parameters", "MB", "verdict"), map(_row, found))


@app.command()
def alias(
    name: Annotated[str, typer.Argument(help="The registered model.")],
    which: Annotated[str, typer.Argument(help="The alias, for example candidate.")],
    version: Annotated[str, typer.Argument(help="The version it should name.")],
    as_json: Json = False,
) -> None:
    """Move an alias; one that a service is bound to starts a release.

    Example: `roundhouse model alias smollm2 candidate 3`
    """
    registry = open_registry(load_stack().registry())
    registry.resolve(f"models:/{name}/{version}")
    registry.set_alias(name, which, version)
    if as_json:
        show_json({"model": name, "alias": which, "version": version})
    else:
        out.print(f"models:/{name}@{which} is version {version}")


@app.command()
def evaluation(
    name: Annotated[str, typer.Argument(help="The registered model.")],
    source: Annotated[str, typer.Argument(help="dvc:PATH@REVISION, a .jsonl file of the project, or bundled.")],
    version: Annotated[str, typer.Option(help="For that version alone; empty: for all without one of their own.")] = "",
    as_json: Json = False,
) -> None:
    """Name the evaluation set by which a policy with `evaluation: model` compares answers. It is read first.

    Example: `roundhouse model evaluation smollm2 dvc:evaluation.jsonl@v3 --version 3`
    """
    stack = load_stack()
    prompts = len(load_evaluation(source, stack))
    open_registry(stack.registry()).tag(name, version, {EVALUATION: source})
    if as_json:
        show_json({"model": name, "version": version, "evaluation": source, "prompts": prompts})
    else:
        whose = f"models:/{name}/{version}" if version else f"all versions of {name} without one of their own"
        out.print(f"{source}: {prompts} prompts for {whose}", markup=False)


def _row(version: Registered) -> tuple[object, ...]:
    verdict = dict(version.tags).get("roundhouse.verdict", "")
    aliases = ", ".join(version.aliases)
    return (
        version.version,
        aliases,
        version.architecture,
        f"{version.parameters:,}",
        f"{version.size / 1e6:.1f}",
        verdict,
    )
