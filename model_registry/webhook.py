"""MLflow's signed webhook, checked. Pure: no server, no clock; who receives it also drops a delivery it has seen.

The protocol (MLflow 3): ``X-MLflow-Signature: v1,base64(HMAC-SHA256(secret, id.timestamp.body))``. MLflow repeats a
delivery up to 4 times with the same id and timestamp and does not enforce freshness, so the receiver must.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Promotion:
    """Somebody set an alias on a version. ``delivery_id`` is the same when MLflow says it again."""

    name: str
    alias: str
    version: str
    delivery_id: str


@dataclass(frozen=True)
class Rejected:
    """A delivery that is not to be acted on, with the HTTP status that says why."""

    status: int
    reason: str


def verify(
    headers: Mapping[str, str], body: bytes, secret: str, now: float, max_age_s: float = 300
) -> Promotion | Rejected:
    """The promotion that a delivery tells of, or why it is refused. ``now`` in epoch seconds.

    401 for a missing or wrong signature, 400 for a stale, unreadable or other event.
    """
    given = {name.lower(): value for name, value in headers.items()}
    delivery, sent, signature = (given.get(f"x-mlflow-{h}", "") for h in ("delivery-id", "timestamp", "signature"))
    if not (delivery and sent and signature):
        return Rejected(401, "no signature, delivery id or timestamp")
    if not hmac.compare_digest(sign(delivery, sent, body, secret).encode(), signature.encode()):
        return Rejected(401, "the signature does not fit")
    if not sent.isdecimal() or abs(now - int(sent)) > max_age_s:
        return Rejected(400, f"older or newer than {max_age_s:.0f} s")
    return _read(delivery, body)


def sign(delivery_id: str, timestamp: str, body: bytes, secret: str) -> str:
    """The signature that MLflow puts on a delivery."""
    mac = hmac.new(secret.encode(), f"{delivery_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return "v1," + base64.b64encode(mac.digest()).decode()


def _read(delivery: str, body: bytes) -> Promotion | Rejected:
    try:
        event = json.loads(body)
        kind = (event["entity"], event["action"])
        if kind != ("model_version_alias", "created"):
            return Rejected(400, f"not an alias being set: {kind[0]}.{kind[1]}")
        data = event["data"]
        return Promotion(str(data["name"]), str(data["alias"]), str(data["version"]), delivery)
    except (ValueError, KeyError, TypeError):
        return Rejected(400, "the body is not an event of MLflow")
