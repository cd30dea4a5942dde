"""MLflow's signed webhook: who may tell us of a promotion."""

from __future__ import annotations

import json
from typing import Any

import pytest

from model_registry.webhook import Promotion, Rejected, sign, verify

SECRET, NOW = "s3cret", 1_800_000_000.0
DATA = {"name": "smollm2", "alias": "candidate", "version": "3"}
EVENT = {"entity": "model_version_alias", "action": "created", "timestamp": "t", "data": DATA}


def delivery(event: Any = EVENT, at: float = NOW, secret: str = SECRET) -> tuple[dict[str, str], bytes]:
    body = event if isinstance(event, bytes) else json.dumps(event).encode()
    signed = sign("d1", str(int(at)), body, secret)
    headers = {"X-MLflow-Delivery-Id": "d1", "X-MLflow-Timestamp": str(int(at)), "X-MLflow-Signature": signed}
    return headers, body


def test_a_signed_delivery_is_a_promotion() -> None:
    """Name, alias, version and delivery id are told; header names may be written in any case."""
    headers, body = delivery()
    expected = Promotion("smollm2", "candidate", "3", "d1")
    assert verify(headers, body, SECRET, NOW) == expected
    assert verify({k.lower(): v for k, v in headers.items()}, body, SECRET, NOW) == expected


@pytest.mark.parametrize("late", [-300, 0, 14, 300])
def test_a_repeated_delivery_within_the_window_is_taken(late: float) -> None:
    """MLflow repeats with the first timestamp, so a delivery may be as old as its retries take."""
    assert isinstance(verify(*delivery(), SECRET, NOW + late), Promotion)


@pytest.mark.parametrize("late", [-302, 302, 86400])
def test_a_stale_delivery_is_refused(late: float) -> None:
    """What was recorded and is sent again later is refused."""
    assert verify(*delivery(), SECRET, NOW + late) == Rejected(400, "older or newer than 300 s")


@pytest.mark.parametrize("missing", ["X-MLflow-Delivery-Id", "X-MLflow-Timestamp", "X-MLflow-Signature"])
def test_an_unsigned_delivery_is_refused(missing: str) -> None:
    """Without id, timestamp or signature nothing is believed."""
    headers, body = delivery()
    del headers[missing]
    assert verify(headers, body, SECRET, NOW) == Rejected(401, "no signature, delivery id or timestamp")


def test_another_secret_body_id_or_time_is_refused() -> None:
    """The signature covers all of the delivery, and only the holder of the secret can make it."""
    headers, body = delivery()
    wrong = Rejected(401, "the signature does not fit")
    assert verify(headers, body, "another", NOW) == wrong
    assert verify(headers, body.replace(b"3", b"4"), SECRET, NOW) == wrong
    assert verify({**headers, "X-MLflow-Delivery-Id": "d2"}, body, SECRET, NOW) == wrong
    assert verify({**headers, "X-MLflow-Timestamp": str(int(NOW) + 1)}, body, SECRET, NOW) == wrong
    assert verify({**headers, "X-MLflow-Signature": "v1,ü"}, body, SECRET, NOW) == wrong


@pytest.mark.parametrize(
    "event",
    [
        b"",
        b"{",
        [],
        {},
        {**EVENT, "data": {"name": "x"}},
        {**EVENT, "action": "deleted"},
        {**EVENT, "entity": "model_version_tag", "action": "set"},
    ],
)
def test_a_signed_delivery_of_something_else_is_refused(event: Any) -> None:
    """Only an alias being set is a promotion."""
    assert verify(*delivery(event), SECRET, NOW).status == 400


@pytest.mark.parametrize("sent", ["later", "-5", "1e9", "²"])
def test_a_timestamp_that_is_no_number_is_refused(sent: str) -> None:
    """A signed timestamp must be whole seconds."""
    headers, body = delivery()
    headers |= {"X-MLflow-Timestamp": sent, "X-MLflow-Signature": sign("d1", sent, body, SECRET)}
    assert verify(headers, body, SECRET, NOW).status == 400
