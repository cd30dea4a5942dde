"""Values from Prometheus, by its HTTP API (https://prometheus.io/docs/prometheus/latest/querying/api/)."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import httpx

from rollout.errors import Refused, Unavailable

TIMEOUT_S = 2.0  # to connect, and for each pause of the answer
MOST_SERIES = 1000


def instant(url: str, query: str, timeout_s: float = TIMEOUT_S) -> dict[str, float]:
    """What a PromQL expression gives now: one value for each series, by its labels; empty where there is no data.

    ``url`` is the server's, a path before ``/api`` and a user with password included. Raises Unavailable where the
    server does not answer or cannot evaluate it now; Refused where the expression is wrong or gives no numbers.
    """
    data = _asked(url, query, timeout_s)
    try:
        return _values(query, data["resultType"], data["result"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise Unavailable(f"Prometheus at {_address(url)} answers in a form that is not its API's: {error}") from error


def _values(query: str, kind: str, result: list[Any]) -> dict[str, float]:
    if kind == "scalar":
        return {"": float(result[1])}
    if kind != "vector":
        rule = f"it gives a {kind}, not a number for each series"
        raise Refused("query", query, rule, "wrap a range in rate(), increase() or max_over_time()")
    if len(result) > MOST_SERIES:
        raise Refused("query", query, f"it gives {len(result)} series", "aggregate it, for example with max()")
    return {_labels(series["metric"]): float(series["value"][1]) for series in result}


def _asked(url: str, query: str, timeout_s: float) -> dict[str, Any]:
    where = f"Prometheus at {_address(url)}"
    try:
        answer = httpx.get(f"{url.rstrip('/')}/api/v1/query", params={"query": query}, timeout=timeout_s)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unavailable(f"{where} does not answer ({type(error).__name__})") from error
    try:
        doc = answer.json()
    except ValueError as error:
        raise Unavailable(f"{where} answers {answer.status_code} and no JSON") from error
    told = doc if isinstance(doc, dict) else {}
    if told.get("errorType") == "bad_data":
        raise Refused("query", query, f"Prometheus says: {told.get('error')}", "correct the expression")
    if answer.status_code != 200 or told.get("status") != "success" or not isinstance(told.get("data"), dict):
        raise Unavailable(f"{where} answers {answer.status_code}: {told.get('error') or 'no reason given'}")
    return told["data"]


def _labels(metric: dict[str, str]) -> str:
    """``instance=a:1, job=x``; the metric's own name says nothing that the query does not."""
    return ", ".join(f"{name}={value}" for name, value in sorted(metric.items()) if name != "__name__")


def _address(url: str) -> str:
    """Host and port, without user and password."""
    return urlsplit(url).netloc.rpartition("@")[2]
