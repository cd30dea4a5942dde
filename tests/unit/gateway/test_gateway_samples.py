"""Records to samples: what counts for whom."""

from __future__ import annotations

from dataclasses import replace

import pytest
from history import GOOD

from gateway.samples import Arms, samples_of, to_sample


@pytest.mark.parametrize(
    ("change", "failed", "cut"),
    [
        ({}, False, False),
        ({"status": 503}, True, False),
        ({"status": 0, "flags": "UC"}, True, False),
        ({"flags": "UPE"}, False, True),
        ({"flags": "UT"}, False, True),
        ({"status": 400}, True, False),  # the engine refused it: that is its doing
        ({"version": 2}, True, False),  # another version had to answer
        ({"version": None, "status": 503}, True, False),
    ],
)
def test_what_counts_against_the_arm(change, failed, cut):
    """Errors, cut streams, the engine's own refusals, and answers that another version had to give."""
    sample = to_sample(replace(GOOD, **change))
    assert (sample.version, sample.failed, sample.cut) == (1, failed, cut)


@pytest.mark.parametrize(
    "change",
    [
        {"flags": "DC"},
        {"status": 401, "details": "missing_api_key", "arm": None, "version": None},
        {"status": 413, "details": "request_payload_too_large"},
    ],
)
def test_what_says_nothing_of_the_version(change):
    """Clients that left, and requests that the gateway itself refused."""
    assert to_sample(replace(GOOD, **change)) is None


def test_arms_are_compared_in_the_same_minutes():
    """Only this service, only since the stage began, and mirrored copies only where they are judged."""
    records = [
        GOOD,
        replace(GOOD, at=1.0),
        replace(GOOD, service="other"),
        replace(GOOD, version=2, arm=2),
        replace(GOOD, version=2, arm=2, kind="mirror"),
        replace(GOOD, version=2, arm=2, kind="mirror", streamed=False),
    ]
    live = samples_of(records, Arms("chat", 1, 2, False, since=5.0))
    copies = samples_of(records, Arms("chat", 1, 2, True, since=5.0))
    assert (len(live.stable), len(live.candidate)) == (1, 1)
    assert (len(copies.stable), len(copies.candidate)) == (1, 2)
    assert [s.streamed for s in copies.candidate] == [True, False]
