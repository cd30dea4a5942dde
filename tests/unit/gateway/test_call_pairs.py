"""Call records as pairs of answers."""

import json
from dataclasses import replace

from gateway.call_pairs import pairs_of
from gateway.calls import Body, CallRecord

ASKED = {"messages": [{"role": "user", "content": "secret"}], "temperature": 0}


def body(value: object, kind: str = "application/json") -> Body:
    text = value if isinstance(value, str) else json.dumps(value)
    return Body(text, len(text), kind)


def said(text: str) -> Body:
    return body({"choices": [{"message": {"content": text}}]})


def call(kind: str, version: int, answer: Body, at: float = 1.0, id: str = "r", asked: object = ASKED) -> CallRecord:
    return CallRecord(
        at=at,
        request_id=id,
        kind=kind,  # type: ignore[arg-type]
        door="chat",
        service="chat",
        version=version,
        instance=None,
        client="c",
        method="POST",
        path="/v1/chat/completions",
        agent="",
        status=200,
        request=body(asked),
        answer=answer,
    )


def both(**changes: object) -> list[CallRecord]:
    return [call("live", 1, said("yes"), **changes), call("mirror", 2, said("no"), **changes)]  # type: ignore[arg-type]


def test_a_request_and_its_copy_are_one_pair() -> None:
    """Stable's answer, the candidate's, and the request's id in place of its words."""
    ((question, stable, candidate, greedy),) = pairs_of(both(), 1, 2, 0.0, 9.0)
    assert (question.prompt, question.id, stable.text, candidate.text, greedy) == ("", "r", "yes", "no", True)


def test_a_stream_is_put_together() -> None:
    """Events of chat and of completions, without the end's mark."""
    events = ['{"choices":[{"delta":{"content":"it "}}]}', '{"choices":[{"text":"is"}]}', '{"choices":[]}', "[DONE]"]
    stream = body("".join(f"data: {event}\n\n" for event in events), "text/event-stream; charset=utf-8")
    (pair,) = pairs_of([call("live", 1, stream), call("mirror", 2, said("x"))], 1, 2, 0.0, 9.0)
    assert pair[1].text == "it is"


def test_chance_and_form_are_read_from_the_request() -> None:
    """Only temperature 0 is greedy, and JSON mode is known by its response format."""
    asked = {"response_format": {"type": "json_object"}}
    ((question, _, _, greedy),) = pairs_of(both(asked=asked), 1, 2, 0.0, 9.0)
    assert question.json and not greedy


def test_pairs_come_in_order_and_once() -> None:
    """By the time of the user's request; a later look begins where the earlier ended."""
    records = [r for at in (3.0, 1.0, 2.0) for r in both(at=at, id=f"r{at:g}")]
    assert [p[0].id for p in pairs_of(records, 1, 2, 0.0, 2.0)] == ["r1", "r2"]
    assert [p[0].id for p in pairs_of(records, 1, 2, 2.0, 9.0)] == ["r3"]


def test_a_failed_answer_is_a_reply_with_an_error() -> None:
    """It counts as unanswered."""
    failed = replace(call("mirror", 2, body("busy")), status=503)
    (pair,) = pairs_of([call("live", 1, said("yes")), failed], 1, 2, 0.0, 9.0)
    assert pair[2].error == "HTTP 503"


def test_what_is_not_known_is_not_compared() -> None:
    """A lone request, another version, a cut body, one left out, one that is no JSON, a client that left."""
    live, copy = both()
    spoilt = [
        [live],
        [live, replace(copy, version=3)],
        [live, replace(copy, answer=replace(copy.answer, cut=True))],
        [live, replace(copy, answer=Body(None, 9, left_out="no text"))],
        [live, replace(copy, answer=body("<html>"))],
        [replace(live, request=body("text")), copy],
        [replace(live, status=None), copy],
    ]
    assert [pairs_of(records, 1, 2, 0.0, 9.0) for records in spoilt] == [()] * len(spoilt)
