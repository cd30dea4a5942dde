"""Whether the candidate answers as stable does: before any user sees it, and again on copies of users' requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from configs.evaluation import load_evaluation
from configs.order import Order
from engines.outputs import Asking, ask_both
from gateway.call_pairs import pairs_of
from gateway.calls import calls_folder, last_calls
from reports.comparisons_file import FILE as COMPARISONS
from reports.comparisons_file import keep_comparisons
from reports.files import put
from rollout.agreement import Agreement, fresh, plain, with_comparisons, without
from rollout.agreement_finding import Needs, decided, finding, least_prompts
from rollout.answers import Comparison, Question, compare
from rollout.errors import RoundhouseError
from rollout.json_text import json_text
from rollout.nouns import Finding, Health, Outcome, Version
from rollout.recorded import Batch
from store.port import open_store
from tasks.serving import report_directory
from tasks.ticket import Ticket, tell

FILE = "outputs.json"
_MOST_CALLS = 2000  # call records that are read back at a look


@dataclass(frozen=True)
class Compared:
    """The evidence, which goes on with mirrored pairs, what it says now, and what is new in it and not yet kept."""

    agreement: Agreement
    finding: Finding
    new: Batch | None = None


@task(cache_policy=NO_CACHE)
def compare_outputs(
    order: Order,
    version: Version,
    ticket: Ticket,
    needs: Needs,
    evaluation: str | Sequence[str] = "bundled",
    asking: Asking = Asking(),
) -> Compared | None:
    """Ask stable and candidate the same; None where the policy asks for nothing or there is no stable version.

    Stops as soon as the answer is known: the tests stay valid; at the latest when the policy's ``budget_s`` is used up.
    An engine that does not answer at all leaves it open, and so does what stable does not answer.
    Raises Refused for an evaluation set that cannot be read.
    """
    stable = _address(order, ticket.stable)
    if order.policy.outputs is None or stable is None or not version.ready:
        return None
    tell(open_store(order.stack.store()), ticket, "compare outputs")
    candidate = f"http://{version.ready[0].host}:{version.ready[0].port}"
    questions = load_evaluation(evaluation, order.stack)
    asking = replace(asking, within_s=order.policy.outputs.budget_s)
    agreement, seen = warned(fresh(order.policy.outputs), len(questions), needs), list[Comparison | None]()
    agreement = compare_until_decided(agreement, (stable, candidate), questions, needs, asking, seen.append)
    compared = Compared(agreement, finding(agreement, needs))
    get_run_logger().info("%s", compared.finding.sentence)
    batch = Batch(
        comparisons=tuple(comparison for comparison in seen if comparison is not None),
        sets=(evaluation,) if isinstance(evaluation, str) else tuple(evaluation),
        prompts=len(questions),
        asked=len(seen),
        pairs=order.service.call_records is not None,
    )
    put_outputs(report_directory(order, ticket), replace(compared, new=batch))
    return compared


def warned(agreement: Agreement, prompts: int, needs: Needs) -> Agreement:
    """The evidence, telling where so few prompts cannot prove what the limits ask for."""
    least = least_prompts(agreement.limits, needs)
    if least is not None and least <= prompts:
        return agreement
    told = f"these limits take {least or 'more than 10000'} prompts to prove, the evaluation set has {prompts}"
    return without(agreement, told)


def compare_until_decided(
    agreement: Agreement,
    bases: tuple[str, str],
    questions: Iterable[Question],
    needs: Needs,
    asking: Asking,
    heard: Callable[[Comparison | None], None] = lambda comparison: None,
) -> Agreement:
    """The evidence after as many questions as it takes; what could not be asked or compared is told in it.

    ``heard`` is told of each question that was asked: None where there was nothing to compare with.
    """
    questions, left_out = tuple(questions), list[str]()
    try:
        for question, stable, candidate in ask_both(*bases, questions, asking):
            if stable.error:  # there is nothing to compare with, and that speaks for nobody
                left_out.append(stable.error)
                heard(None)
                continue
            heard(compare(question, stable, candidate))
            agreement = with_comparisons(agreement, [(question, stable, candidate, True)])
            if decided(agreement, needs)[0] is not Outcome.UNDECIDED:
                break
    except RoundhouseError as error:
        return without(agreement, str(error))
    is_open = decided(agreement, needs)[0] is Outcome.UNDECIDED
    for remark in _remarks(agreement, left_out, len(questions) if is_open else 0, asking):
        agreement = without(agreement, remark)
    return agreement


def _remarks(agreement: Agreement, left_out: list[str], wanted: int, asking: Asking) -> Iterable[str]:
    """What could not be done of ``wanted`` prompts, and why."""
    totals = agreement.totals
    asked = totals.prompts + len(left_out)
    if asked < wanted:
        yield f"{asked} of {wanted} prompts were asked within the {asking.within_s:g} s of budget_s"
    if left_out:
        yield f"{len(left_out)} of {asked} prompts are left out, stable did not answer them ({left_out[0]})"
    if totals.compared and not totals.scored:
        yield "perplexity: not available, an engine does not tell the likelihood of a given answer"


def with_mirrored(
    order: Order, compared: Compared, versions: tuple[int, int], between: tuple[float, float], needs: Needs
) -> Compared:
    """The evidence with users' requests (stable's and the candidate's answers) that began in (after, until].

    Where the service keeps no call records there are none, which the evidence tells.
    """
    if order.service.call_records is None:
        remark = "mirrored pairs: not available, the service keeps no call records"
        agreement = without(compared.agreement, remark)
        return Compared(agreement, finding(agreement, needs))
    records = last_calls(calls_folder(order.stack.gateway()), order.service.name, _MOST_CALLS)
    pairs = pairs_of(records, *versions, *between)
    agreement = with_comparisons(compared.agreement, pairs)
    batch = Batch(tuple(compare(*pair) for pair in pairs), *between)
    return Compared(agreement, finding(agreement, needs), batch if pairs else None)


def put_outputs(directory: Path, compared: Compared) -> Path:
    """``outputs.json`` of a release: the evidence, the finding, the answers that differ most; and what is new in it,
    where it can be judged again from. Raises OSError."""
    document: dict[str, Any] = {"finding": asdict(compared.finding), "agreement": plain(compared.agreement)}
    path = put(directory / FILE, json_text(document, indent=2) + "\n")
    if compared.new is not None:
        keep_comparisons(directory / COMPARISONS, compared.new)
    return path


def _address(order: Order, version: int | None) -> str | None:
    """Of one ready instance."""
    instances = open_store(order.stack.store()).instances(order.service.name)
    ready = [i for i in instances if i.version == version and i.health is Health.READY]
    return f"http://{ready[0].host}:{ready[0].port}" if ready else None
