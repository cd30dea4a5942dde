"""Records to samples: what counts for whom."""

from __future__ import annotations

import pytest
from history import GOOD

from gateway.samples import Arms, samples_of, to_sample

REFUSED = {"instance": None, "version": None, "attempts": 0}


@pytest.mark.parametrize(
    ("change", "failed", "cut"),
    [
        ({}, False, False),
        ({"status": 503}, True, False),
        ({"status": 450}, True, False),  # the engine's own queue is full
        ({"status": 0, "flags": "UC"}, True, False),
        ({"flags": "UPE"}, False, True),
        ({"flags": "UT"}, False, True),
        ({"status": 400}, True, False),  # the engine refused it: that is its doing
        ({"version": 2}, True, False),  # another version had to answer
        ({"grpc_status": 0}, False, False),
        ({"grpc_status": 14}, True, False),  # gRPC fails with HTTP status 200
        ({"arm": None}, False, False),  # a route without a split
        (REFUSED | {"status": 503, "flags": "UH"}, True, False),  # it had no instance that is ready
        (REFUSED | {"status": 450, "flags": "UO"}, True, False),  # too many requests were open on it
        (REFUSED | {"status": 200, "flags": "UH", "grpc_status": 14}, True, False),
        (REFUSED | {"status": 0}, True, False),
    ],
)
def test_what_counts_against_the_arm(change, failed, cut):
    """Errors, full queues, cut streams, the engine's own refusals, answers that another version had to give."""
    sample = to_sample(GOOD._replace(**change))
    assert (sample.version, sample.failed, sample.cut) == (1, failed, cut)


@pytest.mark.parametrize(
    "change",
    [
        {"flags": "DC"},
        {"flags": "UT,DR", "status": 0},
        {"flags": "DPE"},
        {"route": "pinned"},
        {"route": "pinned", "status": 500},
        REFUSED | {"status": 401},
        REFUSED | {"status": 413},
        REFUSED | {"status": 429, "flags": "RL"},
        REFUSED | {"status": 200, "flags": "RL", "grpc_status": 14},  # how a gRPC client is refused
        REFUSED | {"status": 503, "arm": None},  # nobody was to answer
    ],
)
def test_what_says_nothing_of_the_version(change):
    """Clients that left, requests that the gateway itself refused, and pins, which are tests and no users."""
    assert to_sample(GOOD._replace(**change)) is None


def test_arms_are_compared_in_the_same_minutes():
    """Only this service, only since the stage began, and mirrored copies only where they are judged."""
    candidate = GOOD._replace(version=2, arm=2)
    records = [
        GOOD,
        GOOD._replace(at=1.0),
        GOOD._replace(service="other"),
        GOOD._replace(door="a-group"),
        candidate,
        candidate._replace(kind="mirror", route="mirror"),
        candidate._replace(kind="mirror", route="mirror", streamed=False),
    ]
    live = samples_of(records, Arms("chat", 1, 2, False, since=5.0))
    copies = samples_of(records, Arms("chat", 1, 2, True, since=5.0))
    assert (len(live.stable), len(live.candidate)) == (2, 1)
    assert (len(copies.stable), len(copies.candidate)) == (2, 2)
    assert [s.streamed for s in copies.candidate] == [True, False]


def test_a_candidate_can_be_compared_with_a_baseline():
    """The version compared against need not be the one in service: then that one's requests count for nobody."""
    records = [GOOD, GOOD._replace(arm=3, version=3), GOOD._replace(arm=2, version=2)]
    found = samples_of(records, Arms("chat", stable=3, candidate=2, mirrored=False, since=5.0))
    assert ([s.version for s in found.stable], [s.version for s in found.candidate]) == ([3], [2])
