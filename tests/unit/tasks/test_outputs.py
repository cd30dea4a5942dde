"""Compared outputs as a release keeps them."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from configs.files import ServiceFile
from configs.order import Order
from configs.stack import Stack
from engines.outputs import Asking
from engines.port import EngineSpec
from gateway.calls import Body, CallFiles, CallRecord, as_line, calls_folder
from reports.comparisons_file import FILE as COMPARISONS
from reports.comparisons_file import read_comparisons
from rollout.agreement import Totals, agreement_of, fresh, with_measured
from rollout.agreement_finding import Needs, finding
from rollout.agreement_limits import OutputLimits
from rollout.answers import Question
from rollout.evidence.means import Moments
from rollout.nouns import Outcome
from rollout.policy import Policy
from tasks.outputs import FILE, Compared, compare_until_decided, put_outputs, warned, with_mirrored

NEEDS = Needs()
NOTHING = Compared(fresh(OutputLimits()), finding(fresh(OutputLimits()), NEEDS))


def ordered(root: Path, **service: object) -> Order:
    file = ServiceFile(name="chat", model="tiny", **service)  # type: ignore[arg-type]
    return Order(Stack(project=root, home=root), file, "models:/tiny/1", "e", EngineSpec(), "standard", Policy())


def recorded(kind: str, version: int, number: int, answer: str) -> CallRecord:
    said = json.dumps({"choices": [{"message": {"content": answer}}]})
    bodies = [Body(text, len(text), "application/json") for text in ('{"messages": []}', said)]
    who = {"door": "chat", "service": "chat", "client": "c", "method": "POST", "path": "/v1/chat/completions"}
    return CallRecord(  # type: ignore[arg-type]
        at=float(number),
        request_id=f"r{number}",
        kind=kind,
        version=version,
        instance=None,
        agent="",
        status=200,
        request=bodies[0],
        answer=bodies[1],
        **who,
    )


def test_an_engine_that_does_not_answer_leaves_it_open(free_port: int) -> None:
    """No exception ends the release here: the finding is undecided and says why."""
    base = f"http://127.0.0.1:{free_port}"
    agreement = compare_until_decided(fresh(OutputLimits()), (base, base), [Question("a")], NEEDS, Asking())
    result = finding(agreement, NEEDS)
    assert result.outcome is Outcome.UNDECIDED and f"127.0.0.1:{free_port} does not answer" in result.sentence


def test_the_file_holds_all_that_is_known(tmp_path: Path) -> None:
    """The evidence can be read back and the finding is that of the release."""
    document = json.loads(put_outputs(tmp_path / "r", NOTHING).read_text())
    assert [p.name for p in (tmp_path / "r").iterdir()] == [FILE]
    assert agreement_of(document["agreement"]) == NOTHING.agreement
    assert document["finding"] == json.loads(json.dumps(asdict(NOTHING.finding)))


def test_a_number_that_is_none_is_null(tmp_path: Path) -> None:
    """An engine that calls an answer impossible (log-probability -inf) leaves a file that every parser reads, and so
    does whoever judges it again."""
    totals = Totals(likelihoods=(-1.5, -math.inf))
    agreement = replace(NOTHING.agreement, totals=totals, gains=Moments(3, -math.inf, math.nan))
    text = put_outputs(tmp_path / "r", Compared(agreement, replace(NOTHING.finding, effect=math.inf))).read_text()
    document = json.loads(text, parse_constant=pytest.fail)
    assert document["agreement"]["totals"]["likelihoods"] == [-1.5, None]
    assert document["agreement"]["gains"]["mean"] is None and document["finding"]["effect"] is None
    read = agreement_of(document["agreement"])
    assert read.totals == totals and read.gains.mean == -math.inf


@pytest.mark.parametrize(("prompts", "told"), [(40, 0), (5, 1)])
def test_a_set_that_is_too_small_for_its_limits_is_told(prompts: int, told: int) -> None:
    """Before anything is asked, with both numbers."""
    missing = warned(fresh(OutputLimits()), prompts, NEEDS).missing
    assert len(missing) == told and all("the evaluation set has 5" in text for text in missing)


def test_mirrored_pairs_are_evidence(tmp_path: Path) -> None:
    """Loops in the answers to copies of users' requests are found; they are kept, and no word of a user is."""
    order = ordered(tmp_path, call_records={})
    pairs = [
        (recorded("live", 1, n, "private and short words"), recorded("mirror", 2, n, "no no no no " * 3))
        for n in range(1, 41)
    ]
    files = CallFiles(calls_folder(order.stack.gateway()))
    files.append("chat", [as_line(record) for pair in pairs for record in pair])
    half = with_mirrored(order, NOTHING, (1, 2), (0.0, 20.0), NEEDS)
    put_outputs(tmp_path / "r", half)
    whole = with_mirrored(order, half, (1, 2), (20.0, 99.0), NEEDS)
    assert (half.agreement.totals.prompts, whole.agreement.totals.prompts) == (20, 40)
    assert whole.finding.outcome is Outcome.ROLL_BACK and "defects" in whole.finding.sentence
    put_outputs(tmp_path / "r", whole)
    assert not any("private" in path.read_text() for path in (tmp_path / "r").iterdir())
    kept = read_comparisons(tmp_path / "r" / COMPARISONS)
    assert [(batch.after, batch.until, len(batch.comparisons)) for batch in kept] == [(0, 20, 20), (20, 99, 20)]
    again = with_measured(fresh(OutputLimits()), [seen for batch in kept for seen in batch.comparisons])
    assert (again.tests, again.totals) == (whole.agreement.tests, whole.agreement.totals)


def test_without_call_records_there_are_no_pairs(tmp_path: Path) -> None:
    """It is told, and told once."""
    once = with_mirrored(ordered(tmp_path), NOTHING, (1, 2), (0.0, 1.0), NEEDS)
    again = with_mirrored(ordered(tmp_path), once, (1, 2), (1.0, 2.0), NEEDS)
    assert again.finding.sentence.count("the service keeps no call records") == 1
