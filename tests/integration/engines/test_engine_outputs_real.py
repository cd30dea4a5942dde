"""Two real engines asked the same: a quantisation that changes answers is told from one that does not."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from itertools import islice
from pathlib import Path

import pytest
import typer
from click.testing import Result
from running_engine import CLIENT, running_engine
from typer.testing import CliRunner

from cli.engine_compare import compare
from engines.hardware import read_hardware
from engines.llama_cpp import LlamaCpp
from engines.local_model import read_local_model
from engines.outputs import BUNDLED, Asked, Asking, ask_both
from engines.port import EngineSpec
from rollout.agreement import Agreement, agreement_of, fresh, with_comparisons
from rollout.agreement_finding import Needs, decided, finding
from rollout.agreement_limits import OutputLimits
from rollout.answers import Question
from rollout.errors import Refused, Unavailable
from rollout.nouns import Engine, Outcome

LINES = [json.loads(line) for line in BUNDLED.read_text().splitlines()]
QUESTIONS = tuple(Question(line["prompt"], line["answer"], line.get("json", False)) for line in LINES)
LONG = Asking(timeout_s=120.0, within_s=300.0)
NEEDS = Needs()

Bases = Callable[[str], str]


@pytest.fixture(scope="module")
def base_of(kind: LlamaCpp, sample_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bases]:
    """The address of the sample model in a quantisation; each engine is built and started when first asked for."""
    logs, model = tmp_path_factory.mktemp("logs"), read_local_model(sample_gguf, "smollm")
    with ExitStack() as stack:

        @cache
        def base(quantization: str) -> str:
            spec = EngineSpec(quantization=quantization, slots=1, context=512)
            engine = kind.build(kind.plan(model, spec, read_hardware("/tmp")), lambda what, share: None)
            running = stack.enter_context(running_engine(kind, engine, spec, logs / quantization))
            running.await_health(200)
            return running.base

        yield base


def compared(stable: str, candidate: str) -> Agreement:
    """The evidence once it suffices, or after the whole bundled set."""
    agreement = fresh(OutputLimits())
    for question, *replies in ask_both(stable, candidate, QUESTIONS, LONG):
        agreement = with_comparisons(agreement, [(question, *replies, True)])
        if decided(agreement, NEEDS)[0] is not Outcome.UNDECIDED:
            break
    return agreement


def test_a_milder_quantisation_passes(base_of: Bases) -> None:
    """Q8_0 beside F16: right answers are as likely, most tokens are the same."""
    agreement = compared(base_of("F16"), base_of("Q8_0"))
    result = finding(agreement, NEEDS)
    assert result.outcome is Outcome.PROMOTE, result.sentence
    assert result.effect == pytest.approx(1.0, abs=0.1)
    assert agreement.totals.same_share > agreement.totals.prompts / 2


def test_scores_are_the_engines_own_probabilities(base_of: Bases) -> None:
    """Each equals what the engine tells when it is asked for all probabilities of that place (teacher forcing)."""
    base, question = base_of("Q8_0"), QUESTIONS[0]
    with Asked(base, LONG) as asked:
        scored = asked.reply(question).scored
    messages = [{"role": "user", "content": question.prompt}]
    text = CLIENT.post(f"{base}/apply-template", json={"messages": messages}).json()["prompt"]
    before = CLIENT.post(f"{base}/tokenize", json={"content": text, "parse_special": True}).json()["tokens"]
    tokens = CLIENT.post(f"{base}/tokenize", json={"content": question.answer}).json()["tokens"]
    assert scored is not None and len(scored) == len(tokens)
    for place in range(3):
        body = {"prompt": before + tokens[:place], "n_predict": 1, "temperature": 0, "n_probs": 50_000}
        told = CLIENT.post(f"{base}/completion", json=body).json()["completion_probabilities"][0]["top_logprobs"]
        exact = next(one["logprob"] for one in told if one["id"] == tokens[place])
        assert math.isclose(scored[place], exact, abs_tol=0.05)


def test_json_mode_is_asked_for(base_of: Bases) -> None:
    """The answer to such a prompt begins as JSON does; tokens and their end are told."""
    question = next(q for q in QUESTIONS if q.json)
    ((_, stable, candidate),) = ask_both(base_of("Q8_0"), base_of("Q8_0"), [question], LONG)
    assert stable.text.lstrip().startswith("{") and stable.finish in ("stop", "length")
    assert stable == candidate and "".join(stable.tokens).startswith("{")


def test_time_bounds_the_whole(base_of: Bases) -> None:
    """What is not asked before the time is over is left out, not failed."""
    ticks = iter([0.0, *[0.0] * 3, *[9e9] * 100])
    replies = list(ask_both(base_of("Q8_0"), base_of("Q8_0"), QUESTIONS, LONG, lambda: next(ticks)))
    assert 1 <= len(replies) <= 3 and not any(stable.error for _, stable, _ in replies)


def test_whoever_has_seen_enough_stops_listening(base_of: Bases) -> None:
    """Replies come one by one, in the questions' order."""
    replies = ask_both(base_of("Q8_0"), base_of("Q8_0"), QUESTIONS, LONG)
    assert [question for question, _, _ in islice(replies, 2)] == list(QUESTIONS[:2])
    replies.close()


def test_a_refused_question_is_counted_and_not_raised(base_of: Bases) -> None:
    """A prompt that is too long for the engine is a reply with the error."""
    ((_, stable, _),) = ask_both(base_of("Q8_0"), base_of("Q8_0"), [Question("word " * 2000)], LONG)
    assert stable.error == "HTTP 400"


def test_an_engine_that_is_not_there_is_unavailable(base_of: Bases, free_port: int) -> None:
    """The address is named."""
    with pytest.raises(Unavailable, match=str(free_port)):
        list(ask_both(base_of("Q8_0"), f"http://127.0.0.1:{free_port}", QUESTIONS, LONG))


def _compare(*words: str) -> Result:
    app = typer.Typer()
    app.command()(compare)
    return CliRunner().invoke(app, list(words))


@pytest.fixture
def some_prompts(tmp_path: Path) -> str:
    """The first 26 of the bundled set: enough to decide."""
    file = tmp_path / "some.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in LINES[:26]))
    return str(file)


@pytest.fixture
def short_prompts(tmp_path: Path) -> str:
    """As many as equal answers take."""
    file = tmp_path / "short.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"Say {number}."}) + "\n" for number in range(18)))
    return str(file)


def test_a_harmful_quantisation_is_found(base_of: Bases, some_prompts: str) -> None:
    """Q2_K beside Q8_0: exit code 10, right answers are far less likely, examples show it, the evidence reads back."""
    shown = _compare(base_of("Q8_0"), base_of("Q2_K"), "--prompts", some_prompts, "--json")
    assert shown.exit_code == 10, shown.output
    told = json.loads(shown.stdout)
    result, agreement = told["finding"], agreement_of(told["agreement"])
    assert result["outcome"] == "roll back" and result["effect"] > 3 and "perplexity" in result["sentence"]
    assert agreement.totals.prompts == 26 and agreement.examples[0].stable != agreement.examples[0].candidate


def test_the_command_starts_folders_and_tells_engines_that_agree(
    kind: LlamaCpp, sample: Engine, short_prompts: str
) -> None:
    """Exit code 0 and a table for a person; without right answers there is no perplexity."""
    shown = _compare(sample.directory, sample.directory, "--prompts", short_prompts, "--engine", "q4_0")
    assert shown.exit_code == 0, shown.output
    assert "not available" in shown.stdout and "alike. outputs: answers agree" in shown.stdout


def test_too_few_prompts_do_not_tell(base_of: Bases, tmp_path: Path) -> None:
    """Exit code 11: equal answers to one prompt prove nothing."""
    (tmp_path / "one.jsonl").write_text('{"prompt": "Say hello."}')
    shown = _compare(base_of("Q8_0"), base_of("Q8_0"), "--prompts", str(tmp_path / "one.jsonl"))
    assert shown.exit_code == 11 and "not yet proven" in shown.stdout


def test_figures_for_dvc_are_put_into_a_file(base_of: Bases, tmp_path: Path) -> None:
    """Of all sets that are named; the exit code judges nothing then. A folder that is not there is told at once."""
    for name in ("one", "two"):
        line = {"prompt": f"Say {name}.", "answer": f"{name}."}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(line))
    sets = [word for name in ("one", "two") for word in ("--prompts", str(tmp_path / f"{name}.jsonl"))]
    shown = _compare(base_of("Q8_0"), base_of("Q8_0"), *sets, "--out", str(tmp_path / "figures.json"))
    assert shown.exit_code == 0, shown.output
    told = json.loads((tmp_path / "figures.json").read_text())
    same = {"prompts": 2, "perplexity_ratio": 1.0, "equal_tokens": 1.0, "equal_answers": 2}
    assert told["outcome"] == "not yet decidable" and told.items() >= same.items()
    assert told["perplexity_stable"] == told["perplexity_candidate"] > 1
    assert told["spoilt_stable"] == told["spoilt_candidate"]
    wrong = _compare(base_of("Q8_0"), base_of("Q8_0"), "--out", str(tmp_path / "none" / "figures.json"))
    assert isinstance(wrong.exception, Refused) and "mkdir -p" in str(wrong.exception)
