"""One request to an engine's OpenAI server, streamed and timed; whatever it answers, this ends and stays small."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from engines.warm_up import WarmUpRequest
from rollout.errors import Unavailable

SILENCE_S = 120.0  # without a byte: the first request may compile kernels
REQUEST_S = 180.0  # for one request, whatever comes meanwhile
LINE_BYTES, ANSWER_BYTES, ERROR_BYTES = 1 << 18, 1 << 24, 1 << 14
_NOT_ACCEPTED = (400, 413, 422)


class NotAccepted(Unavailable):
    """The engine works and says that this request is none for it."""


@dataclass(frozen=True)
class Timing:
    """One answer. ``tokens``: of the answer, as the engine counts them, else its pieces; times from the send."""

    ttft_s: float
    total_s: float
    tokens: int
    prompt_tokens: int = 0  # 0: the engine did not tell

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first; None where there was only one."""
        return (self.total_s - self.ttft_s) / (self.tokens - 1) if self.tokens > 1 else None


def ask_over(
    http: httpx.Client, model: str, given_up: Callable[[], bool] = lambda: False, most_s: float = REQUEST_S
) -> Callable[[WarmUpRequest], Timing]:
    """One request to an OpenAI server, streamed so that the first token's time is seen, within ``most_s`` seconds.

    What it gives raises NotAccepted, and Unavailable with the server's own words for anything but a good answer to its
    end, or once it was ``given_up``.
    """

    def ask(request: WarmUpRequest) -> Timing:
        path, body = request.sent_as(model)
        streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
        began = time.perf_counter()

        def watched(chunks: Iterator[bytes]) -> Iterator[bytes]:
            for chunk in chunks:
                if given_up():
                    raise Unavailable("the warm-up was given up")
                if time.perf_counter() - began > most_s:
                    raise Unavailable(f"{path} did not end within {most_s:g} s")
                yield chunk

        try:
            with http.stream("POST", path, json=streamed, headers={"accept-encoding": "identity"}) as answer:
                chunks = watched(answer.iter_raw())
                if answer.status_code != 200:
                    raise _said_no(path, answer.status_code, chunks)
                return read_stream(lines_of(chunks), lambda: time.perf_counter() - began)
        except httpx.HTTPError as error:
            raise Unavailable(f"{path}: {type(error).__name__}: {error}") from error

    return ask


def _said_no(path: str, status: int, chunks: Iterable[bytes]) -> Unavailable:
    text = b""
    for chunk in chunks:
        text += chunk
        if len(text) > ERROR_BYTES:
            break
    kind = NotAccepted if status in _NOT_ACCEPTED else Unavailable
    return kind(f"{path} answered {status}: {text.decode(errors='replace')[:300].strip()}")


def lines_of(chunks: Iterable[bytes]) -> Iterator[str]:
    """Lines as they come. Raises Unavailable for one without an end, or more of them than any answer has."""
    rest, total = b"", 0
    for chunk in chunks:
        total += len(chunk)
        *whole, rest = (rest + chunk).split(b"\n")
        if len(rest) > LINE_BYTES:
            raise Unavailable(f"the answer has a line of more than {LINE_BYTES} bytes")
        if total > ANSWER_BYTES:
            raise Unavailable(f"the answer has more than {ANSWER_BYTES} bytes")
        yield from (line.decode(errors="replace").rstrip("\r") for line in whole)
    yield rest.decode(errors="replace")


def read_stream(lines: Iterable[str], elapsed: Callable[[], float]) -> Timing:
    """The times of one stream of server-sent events. Raises Unavailable for an error in it or an end without [DONE]."""
    ttft, total, pieces, usage = None, 0.0, 0, {}
    for line in lines:
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or not data:
            continue
        if data == "[DONE]":
            total = total or elapsed()
            tokens = int(usage.get("completion_tokens") or pieces)
            return Timing(total if ttft is None else ttft, total, tokens, int(usage.get("prompt_tokens") or 0))
        event = _event(data)
        usage = event.get("usage") or usage
        if any(map(text_of, event.get("choices") or ())):
            pieces, total = pieces + 1, elapsed()
            ttft = total if ttft is None else ttft
    raise Unavailable("the answer ended without [DONE]")


def _event(data: str) -> Mapping[str, Any]:
    try:
        event = json.loads(data)
    except ValueError as error:
        raise Unavailable(f"the answer holds what is no JSON: {data[:100]}") from error
    if not isinstance(event, dict) or event.get("error"):
        raise Unavailable(f"the engine answered with an error: {data[:300]}")
    return event


def text_of(choice: Mapping[str, Any]) -> str:
    """The new text of one choice of a completion or a chat, a model's thoughts included."""
    delta = choice.get("delta") or {}
    return str(choice.get("text") or delta.get("content") or delta.get("reasoning_content") or "")
