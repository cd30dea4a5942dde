"""``roundhouse engine compare``: whether two engines say the same, asked directly and decoded greedily."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from cli.screen import out, progress, show_json, show_table
from configs.evaluation import load_evaluation
from configs.files import load_engine
from configs.stack import load_stack
from engines.evaluate import engine_at, serving
from engines.outputs import Asking, ask_both
from rollout.agreement import Agreement, Example, fresh, plain, with_comparisons, without
from rollout.agreement_finding import Needs, finding, perplexity, ratio
from rollout.agreement_limits import OutputLimits
from rollout.answers import Question
from rollout.errors import Refused
from rollout.json_text import json_text
from rollout.nouns import Finding, Outcome

_EXIT = {Outcome.PROMOTE: 0, Outcome.ROLL_BACK: 10, Outcome.UNDECIDED: 11}


def compare(
    stable: Annotated[str, typer.Argument(help="A running server, http://HOST:PORT, or a built engine's folder.")],
    candidate: Annotated[str, typer.Argument(help="The same, of the one that is compared with it.")],
    prompts: Annotated[
        list[str] | None, typer.Option(help="bundled, a .jsonl file, or dvc:PATH@REVISION; may be given again.")
    ] = None,
    engine: Annotated[str, typer.Option(help="A file of configs/engines: how folders are served.")] = "q8_0",
    within_s: Annotated[float, typer.Option(help="Seconds for all questions.", min=1)] = 300.0,
    to: Annotated[
        Path | None, typer.Option("--out", help="Put the figures there as JSON; then the exit code does not judge.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Ask two engines the same and say whether one may take the other's place. Exit code 10: they differ.
    11: these prompts do not tell.

    Example: `roundhouse engine compare http://127.0.0.1:18100 http://127.0.0.1:18101`
    """
    if to is not None and not to.absolute().parent.is_dir():
        raise Refused("--out", str(to), "its folder does not exist", f"run: mkdir -p {to.parent}")
    questions = load_evaluation(prompts or ["bundled"], load_stack())
    with ExitStack() as running:
        bases = [running.enter_context(_base(place, engine)) for place in (stable, candidate)]
        agreement = _compared(bases, questions, within_s, as_json)
    found = finding(agreement, Needs())
    if as_json:
        show_json({"finding": asdict(found), "agreement": plain(agreement)})
    else:
        _show(agreement, found)
    if to is None:
        raise typer.Exit(_EXIT[found.outcome])
    aside = to.with_name(to.name + ".new")
    aside.write_text(json_text(figures(agreement, found), indent=2) + "\n", encoding="utf-8")
    aside.replace(to)


def figures(agreement: Agreement, found: Finding) -> dict[str, float | str | None]:
    """What `dvc metrics` shows and compares; None: not available."""
    t, (stable, candidate) = agreement.totals, perplexity(agreement)
    values = {
        "perplexity_ratio": ratio(agreement)[0],
        "perplexity_stable": stable,
        "perplexity_candidate": candidate,
        "equal_tokens": t.same_share / t.compared if t.compared else None,
    }
    rounded = {name: None if value is None else round(value, 4) for name, value in values.items()}
    spoilt = dict(zip(("spoilt_stable", "spoilt_candidate"), t.spoilt, strict=True))
    return {"outcome": str(found.outcome), "prompts": t.prompts, **rounded, "equal_answers": t.identical, **spoilt}


@contextmanager
def _base(place: str, engine: str) -> Iterator[str]:
    """The address of a server: the one that was named, or one that is started for the time."""
    if place.startswith(("http://", "https://")):
        yield place
    elif Path(place).is_dir():
        with serving(engine_at(Path(place)), load_engine(engine).spec()) as base:
            yield base
    else:
        raise Refused("engine", place, "it is no address and no folder", "give http://HOST:PORT or a built engine")


def _compared(bases: list[str], questions: tuple[Question, ...], within_s: float, quiet: bool) -> Agreement:
    agreement, asked, silent = fresh(OutputLimits()), 0, list[str]()
    with progress(quiet) as report:
        for question, stable, candidate in ask_both(*bases, questions, replace(Asking(), within_s=within_s)):
            asked += 1
            report("comparing answers", asked / len(questions))
            if stable.error:  # there is nothing to compare with
                silent.append(stable.error)
            else:
                agreement = with_comparisons(agreement, [(question, stable, candidate, True)])
    if silent:
        agreement = without(agreement, f"{len(silent)} of {asked} prompts: stable did not answer ({silent[0]})")
    left = len(questions) - asked
    return without(agreement, f"{left} of {len(questions)} prompts were not asked in time") if left else agreement


def _show(agreement: Agreement, found: Finding) -> None:
    t, (stable, candidate) = agreement.totals, perplexity(agreement)
    rows = [("perplexity of right answers", _number(stable), _number(candidate), f"{t.scored} answers")]
    rows += [(x.name, str(x.stable), str(x.candidate), f"{x.of} answers") for x in agreement.tallies]
    show_table("", ("", "stable", "candidate", "of"), rows)
    for example in agreement.examples:
        out.print(_told(example), markup=False, highlight=False)
    word = {Outcome.PROMOTE: "alike", Outcome.ROLL_BACK: "different"}.get(found.outcome, found.outcome.value)
    out.print(f"\n{word}. {found.sentence}", markup=False, highlight=False)


def _number(value: float | None) -> str:
    return "not available" if value is None else f"{value:.2f}"


def _told(example: Example) -> str:
    where = "" if example.diverged_at is None else f" (first difference at token {example.diverged_at})"
    return f"\n{example.prompt}{where}\n  stable:    {example.stable!r}\n  candidate: {example.candidate!r}"
