"""Asks a running engine, whatever its kind, what it answers and how likely it finds a right answer.

Greedy decoding through the OpenAI API. The likelihood of a given answer is no part of that API, so it is had as each
engine gives it: vLLM tells the log-probabilities of a prompt's tokens (``echo`` with ``logprobs``). llama.cpp takes
``echo`` and silently ignores it; but a grammar of single tokens leaves it one choice at each place, and the
probabilities that it tells are those from before the grammar. An engine with neither gives none.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import httpx

from rollout.answers import Question, Reply
from rollout.errors import Unavailable

T = TypeVar("T")
BUNDLED = Path(__file__).with_name("prompts_agreement.jsonl")  #: a small evaluation set
_SEED, _TRIES = 1, 3
_BAD_ANSWER = (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError)


@dataclass(frozen=True)
class Asking:
    """How much is asked of an engine. ``within_s`` bounds the whole: no other question is begun after that."""

    max_tokens: int = 24
    json_tokens: int = 64  # enough for the bundled objects to be closed
    at_once: int = 1  # of each engine; more of them batched change a few low bits, and so a few words
    timeout_s: float = 30.0
    within_s: float = 120.0
    pause_s: float = 1.0  # before what failed is asked again


class Asked:
    """One engine at ``base`` (http://host:port). Raises Unavailable when it does not even tell its model."""

    def __init__(self, base: str, asking: Asking) -> None:
        limits = httpx.Limits(max_connections=asking.at_once)
        self._client = httpx.Client(base_url=base.rstrip("/"), timeout=asking.timeout_s, limits=limits, trust_env=False)
        self._asking = asking
        try:
            found = self._again(lambda: self._client.get("/v1/models").raise_for_status().json())
            self._model = found["data"][0]["id"]
        except _BAD_ANSWER as bad:
            self._client.close()
            raise Unavailable(f"the engine at {base} does not answer ({_told(bad)})") from bad
        self._tells_tokens = self._can(lambda: self._chat(Question("Hello"), True))
        self._score = next((s for s in (self._forced, self._echoed) if self._can(lambda s=s: s("Hello", "Hi"))), None)

    def __enter__(self) -> Asked:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @property
    def tells_likelihood(self) -> bool:
        """Whether this engine can score an answer that it is given."""
        return self._score is not None

    def reply(self, question: Question) -> Reply:
        """The greedy answer, and the score of the right one. What fails again and again is told in the reply."""
        try:
            said = self._chat(question, self._tells_tokens)
            scored = self._score(question.prompt, question.answer) if self._score and question.answer else None
            return replace(said, scored=scored)
        except _BAD_ANSWER as bad:
            return Reply("", error=_told(bad))

    def _again(self, ask: Callable[[], T]) -> T:
        """What ``ask`` gives; a lost connection, a timeout or a 5xx is tried again, for it may be a hiccup."""
        for _ in range(_TRIES - 1):
            try:
                return ask()
            except httpx.HTTPError as bad:
                if isinstance(bad, httpx.HTTPStatusError) and bad.response.status_code < 500:
                    raise
                time.sleep(self._asking.pause_s)
        return ask()

    @staticmethod
    def _can(try_it: Callable[[], object]) -> bool:
        """Whether the engine knows this way of asking."""
        try:
            try_it()
        except _BAD_ANSWER:
            return False
        return True

    def _post(self, path: str, **body: Any) -> dict[str, Any]:
        asked = {"model": self._model, **body}
        return self._again(lambda: self._client.post(path, json=asked).raise_for_status().json())

    def _chat(self, question: Question, with_tokens: bool) -> Reply:
        most = self._asking.json_tokens if question.json else self._asking.max_tokens
        body: dict[str, Any] = {"messages": _messages(question.prompt), "max_tokens": most}
        if with_tokens:
            body |= {"logprobs": True, "top_logprobs": 1}
        if question.json:
            body["response_format"] = {"type": "json_object"}
        choice = self._post("/v1/chat/completions", temperature=0, seed=_SEED, **body)["choices"][0]
        text = choice["message"].get("content") or ""
        tokens = [one["token"] for one in choice["logprobs"]["content"]] if with_tokens else []
        while tokens and len("".join(tokens[:-1])) >= len(text):  # vLLM tells the end's token too
            tokens.pop()
        return Reply(text, tuple(tokens), choice.get("finish_reason") or "")

    def _forced(self, prompt: str, answer: str) -> tuple[float, ...]:
        """llama.cpp: a grammar that allows the answer's tokens alone."""
        asked = self._post("/apply-template", messages=_messages(prompt))["prompt"]
        tokens = self._post("/tokenize", content=answer)["tokens"]
        grammar = "root ::= " + " ".join(f"<[{token}]>" for token in tokens)
        told = self._post("/completion", prompt=asked, grammar=grammar, n_predict=len(tokens), n_probs=1, temperature=0)
        places = told["completion_probabilities"]
        if [place["id"] for place in places] != tokens:
            raise ValueError("the engine left the grammar")
        return tuple(float(place["logprob"]) for place in places)

    def _echoed(self, prompt: str, answer: str) -> tuple[float, ...]:
        """vLLM: prompt and answer as one prompt, echoed with the log-probability of each token."""
        asked = self._post("/tokenize", messages=_messages(prompt), add_generation_prompt=True)["tokens"]
        tokens = self._post("/tokenize", prompt=answer, add_special_tokens=False)["tokens"]
        told = self._post("/v1/completions", prompt=asked + tokens, max_tokens=1, echo=True, logprobs=1, temperature=0)
        scores = told["choices"][0]["logprobs"]["token_logprobs"][len(asked) : len(asked) + len(tokens)]
        if len(scores) != len(tokens):
            raise ValueError("the engine does not echo")
        return tuple(float(score) for score in scores)


def ask_both(
    stable: str,
    candidate: str,
    questions: Sequence[Question],
    asking: Asking,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[Question, Reply, Reply]]:
    """Both engines' replies, in the questions' order and as they come; whoever has seen enough stops listening.

    Ends with the questions or with the time for them. Raises Unavailable when an engine is not there at all.
    """
    end = clock() + asking.within_s
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(2 * asking.at_once + 2, thread_name_prefix="outputs"))
        arms = [stack.enter_context(arm) for arm in pool.map(lambda base: Asked(base, asking), (stable, candidate))]
        waiting: deque[tuple[Question, Future[Reply], Future[Reply]]] = deque()
        left = iter(questions)
        while True:
            for question in islice(left, max(0, asking.at_once - len(waiting)) if clock() < end else 0):
                waiting.append((question, *(pool.submit(arm.reply, question) for arm in arms)))
            if not waiting:
                return
            question, *replies = waiting.popleft()
            yield question, replies[0].result(), replies[1].result()


def _messages(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def _told(bad: Exception) -> str:
    if isinstance(bad, httpx.HTTPStatusError):
        return f"HTTP {bad.response.status_code}"
    return f"{type(bad).__name__}: {bad}"[:200]
