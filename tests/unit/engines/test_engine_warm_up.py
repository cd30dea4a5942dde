"""Requests to warm up with: from the model's own samples, or made of its words; and when latency has settled."""

import json
import random
from pathlib import Path

import pytest
from tiny_models import write_tiny

from engines.hardware import read_hardware
from engines.llama_cpp import LlamaCpp
from engines.local_model import read_local_model
from engines.port import EngineSpec, LocalSettings
from engines.vocabulary import words_of
from engines.warm_up import LENGTHS, made_requests, read_requests, settled, summary, write_requests
from rollout.errors import Corrupt, Refused

WORDS = tuple(f"Ġ{a}{b}{c}" for a in "bcdf" for b in "aei" for c in "lmn")
CHAT = {"messages": [{"role": "user", "content": "Grüße"}], "max_tokens": 5000}


def test_prompts_are_made_of_whole_words_in_several_lengths() -> None:
    """As many words as tokens are asked for, each a token of its own; the same ones every time."""
    made = made_requests(WORDS, longest=8192)
    assert [len(r.prompt.split()) for r in made] == [r.tokens for r in made] == list(LENGTHS)
    assert {word for r in made for word in r.prompt.split()} <= {word[1:] for word in WORDS}
    assert made == made_requests(reversed(WORDS), longest=8192)
    assert [r.tokens for r in made_requests(WORDS, longest=300)] == [8, 32, 128]


def test_words_are_the_plain_ones_where_there_are_some() -> None:
    """Pieces of words, names and other scripts are left out, unless there is nothing else."""
    assert words_of(["Ġthe", "the", "Ġ", "ĠThe", "Ġa", "Ġх1", "▁and", "<s>"]) == ("and", "the")
    assert words_of(["▁слово", "ing"]) == ("слово",)
    assert made_requests([], 0)[0].prompt.startswith("the the")


def test_samples_of_the_model_are_taken(tmp_path: Path) -> None:
    """Prompts and chats, with bounded answers, become requests of the OpenAI API."""
    (tmp_path / "request_samples.jsonl").write_text(f'{{"prompt": "Hello"}}\n\n{json.dumps(CHAT)}\n', encoding="utf-8")
    written = write_requests(tmp_path, WORDS, tmp_path / "warm_up.jsonl")
    assert written == read_requests(str(tmp_path)) and len(written) == 2
    path, body = written[1].sent_as("smol")
    assert path == "/v1/chat/completions" and body["messages"] == CHAT["messages"] and body["max_tokens"] == 256
    assert written[0].sent_as("smol") == (
        "/v1/completions",
        {"model": "smol", "max_tokens": 16, "temperature": 0, "prompt": "Hello"},
    )


def test_without_samples_the_tokenizer_is_asked(tmp_path: Path) -> None:
    """A folder's tokenizer.json gives the words where no tokens are handed over."""
    model = write_tiny(tmp_path / "hf")
    written = write_requests(model.folder, None, tmp_path / "warm_up.jsonl", longest=512)
    assert [set(r.prompt.split()) for r in written] == [{"the"}] * 3
    assert read_requests(str(tmp_path)) == written and read_requests(str(tmp_path / "hf")) == ()


@pytest.mark.parametrize(
    ("content", "field", "rule"),
    [
        ("", "request_samples.jsonl", "1 to 64"),
        ('{"prompt": "x"}\n' * 65, "request_samples.jsonl", "1 to 64"),
        ('{"prompt": "x"}\nhello', "request_samples.jsonl:2", "no JSON"),
        ('["x"]', "request_samples.jsonl:1", "no JSON object"),
        ('{"prompt": ""}', "request_samples.jsonl:1", "neither"),
        ('{"messages": ["x"]}', "request_samples.jsonl:1", "neither"),
        ('{"prompt": "x", "max_tokens": true}', "request_samples.jsonl:1", "max_tokens"),
        ('{"prompt": "' + "x" * (1 << 20) + '"}', "request_samples.jsonl", "bytes"),
    ],
)
def test_samples_that_cannot_be_used_are_refused_by_a_plan(tmp_path: Path, content: str, field: str, rule: str) -> None:
    """With the line, before anything is built."""
    folder = write_tiny(tmp_path / "hf").folder
    (folder / "request_samples.jsonl").write_text(content)
    model, kind = read_local_model(folder, "tiny"), LlamaCpp(LocalSettings(str(tmp_path / "e")))
    with pytest.raises(Refused, match=rule) as refusal:
        kind.plan(model, EngineSpec(context=128), read_hardware("/tmp"))
    assert refusal.value.field == field and not (tmp_path / "e").exists()


def test_samples_are_part_of_the_engine_only_when_recorded(tmp_path: Path) -> None:
    """A recorded file gives the requests and another digest; one that merely lies there gives neither."""
    model, kind = write_tiny(tmp_path / "hf"), LlamaCpp(LocalSettings(str(tmp_path / "e")))
    plain, spec = model.version, EngineSpec(context=128)
    (model.folder / "request_samples.jsonl").write_text('{"prompt": "Hello"}\n')
    hardware = read_hardware("/tmp")
    recorded = kind.plan(read_local_model(model.folder, "tiny"), spec, hardware)
    other = kind.plan(plain, spec, hardware)
    engines = [kind.build(plan, lambda what, share: None) for plan in (recorded, other)]
    assert "1 request samples" in recorded.reasons["warm_up"] and recorded.digest != other.digest
    assert [len(read_requests(e.directory)) for e in engines] == [1, 3]


def test_requests_fit_the_context_that_is_served(tmp_path: Path) -> None:
    """Longer ones are left out but for one, which is cut; a tenth stays free."""
    write_requests(tmp_path, WORDS, tmp_path / "warm_up.jsonl", longest=8192)
    assert [r.tokens for r in read_requests(str(tmp_path), context=1024)] == [8, 32, 128, 512, 1024 - 102 - 16]
    assert [r.tokens for r in read_requests(str(tmp_path), context=64)] == [8, 32, 64 - 6 - 16]


def test_samples_of_unknown_length_fit_by_their_size(tmp_path: Path) -> None:
    """A quarter of the bytes is about a token: the first prompt that is longer is cut, a chat is left out, and an
    answer takes a quarter of the context at most."""
    chat = {"messages": [{"role": "user", "content": "word " * 4000}]}
    samples = [{"prompt": "word " * 5000}, {"prompt": "Hello", "max_tokens": 256}, chat]
    (tmp_path / "request_samples.jsonl").write_text("".join(f"{json.dumps(sample)}\n" for sample in samples))
    write_requests(tmp_path, WORDS, tmp_path / "warm_up.jsonl")
    short, cut = read_requests(str(tmp_path), context=512)
    assert (short.prompt, short.max_tokens) == ("Hello", 128)
    assert cut.tokens == 512 - 51 - 16 and len(cut.prompt) == pytest.approx(4 * cut.tokens, abs=4)
    (tmp_path / "warm_up.jsonl").write_text("")
    (tmp_path / "request_samples.jsonl").write_text(json.dumps(chat))
    write_requests(tmp_path, WORDS, tmp_path / "warm_up.jsonl")
    assert read_requests(str(tmp_path), context=512) == () and len(read_requests(str(tmp_path), context=8192)) == 1


def test_a_damaged_file_is_corrupt(tmp_path: Path) -> None:
    """Not JSON, or other fields."""
    for content in ("{", '{"nothing": 1}'):
        (tmp_path / "warm_up.jsonl").write_text(content)
        with pytest.raises(Corrupt, match="build it again"):
            read_requests(str(tmp_path))


def test_a_steady_series_settles_at_once() -> None:
    """Four equal rounds are enough, three are not."""
    assert settled([1.0] * 4) and not settled([1.0] * 3) and not settled([])
    assert settled([9.0, 3.0, 1.0, 1.02, 1.0, 0.99])


def test_a_drifting_series_is_not_settled() -> None:
    """Neither while it becomes faster nor while it becomes slower."""
    assert not settled([0.9**n for n in range(12)])
    assert not settled([1.1**n for n in range(12)])
    assert not settled([4.0, 3.0, 1.0, 1.0])


def test_noise_does_not_keep_a_series_from_settling() -> None:
    """Within a few rounds, whatever the seed, at a fifth up and down."""
    for seed in range(50):
        chance = random.Random(seed)
        times = [1 + chance.uniform(-0.2, 0.2) for _ in range(12)]
        assert any(settled(times[:n]) for n in range(4, 13))


def test_a_summary_tells_first_and_last() -> None:
    """The first round, the median of the last ones, and whether they settled."""
    told = summary([5.0, 1.0, 1.0, 1.0, 1.0])
    assert (told.rounds, told.first_s, told.last_s, told.settled) == (5, 5.0, 1.0, True)
