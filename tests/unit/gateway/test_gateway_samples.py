"""Records to samples: what counts for whom."""

from __future__ import annotations

import pytest
from history import GOOD

from gateway.port import GatewayState, ServiceRoute, Traffic
from gateway.samples import Arms, counted_by_engines, routed_of, samples_of, to_sample

REFUSED = {"instance": None, "version": None, "attempts": 0}


@pytest.mark.parametrize(
    ("change", "failed", "cut", "error"),
    [
        ({}, False, False, ""),
        ({"status": 304}, False, False, ""),
        ({"status": 500}, True, False, "5xx"),
        ({"status": 502, "flags": "UPE"}, True, False, "5xx"),
        ({"status": 503}, True, False, "refused"),  # an instance that drains
        ({"status": 450}, True, False, "refused"),  # the engine's own queue is full
        ({"status": 429}, True, False, "refused"),
        ({"status": 0, "flags": "UC"}, True, False, "5xx"),
        ({"flags": "UPE"}, False, True, "cut"),
        ({"flags": "UT"}, False, True, "timeout"),
        ({"status": 504, "flags": "SI"}, True, False, "timeout"),
        ({"status": 504, "flags": "UT"}, True, False, "timeout"),
        ({"status": 504}, True, False, "timeout"),  # the engine's own
        ({"status": 400}, True, False, "4xx"),  # the engine refused it: that is its doing
        ({"version": 2}, True, False, "5xx"),  # another version had to answer
        ({"grpc_status": 0}, False, False, ""),
        ({"grpc_status": 14}, True, False, "refused"),  # gRPC fails with HTTP status 200
        ({"grpc_status": 4}, True, False, "timeout"),
        ({"grpc_status": 13}, True, False, "5xx"),
        ({"grpc_status": 3}, True, False, "4xx"),
        ({"arm": None}, False, False, ""),  # a route without a split
        (REFUSED | {"status": 503, "flags": "UH"}, True, False, "5xx"),  # it had no instance that is ready
        (REFUSED | {"status": 503, "flags": "UF,URX"}, True, False, "5xx"),
        (REFUSED | {"status": 450, "flags": "UO"}, True, False, "refused"),  # too many requests were open on it
        (REFUSED | {"status": 200, "flags": "UH", "grpc_status": 14}, True, False, "5xx"),
        (REFUSED | {"status": 0}, True, False, "5xx"),
    ],
)
def test_what_counts_against_the_arm(change, failed, cut, error):
    """Errors, full queues, cut streams, the engine's own refusals, answers that another version had to give."""
    sample = to_sample(GOOD._replace(**change))
    assert (sample.version, sample.failed, sample.cut, sample.error) == (1, failed, cut, error)


WHOLE = {"streamed": False, "tokens_in": None, "tokens_out": None}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"tokens_out": 0}, "empty"),
        ({"tokens_out": 0, "bytes_in": 0}, ""),
        (WHOLE | {"bytes_out": 0}, "empty"),
        (WHOLE | {"bytes_out": 0, "bytes_in": 0}, ""),  # HEAD
        (WHOLE | {"bytes_out": 0, "status": 204}, ""),
        (WHOLE | {"bytes_out": 0, "grpc_status": 0}, ""),
        (WHOLE | {"tokens_in": 9, "tokens_out": 0}, ""),  # embeddings
        (WHOLE, ""),  # token ids, scores, a service without tokens
        (WHOLE | {"bytes_in": 0}, ""),  # /v1/models, /health
        (WHOLE | {"unreadable": True}, "malformed"),
        (WHOLE | {"unreadable": True, "bytes_in": 0}, ""),
        (WHOLE | {"unreadable": True, "status": 500}, "5xx"),
        ({"tokens_in": None, "tokens_out": None}, ""),
        ({"tokens_out": None, "status": 101}, ""),
    ],
)
def test_an_answer_may_be_empty_or_no_answer(change, error):
    """Only a request with a body can be answered so, and never one whose like has no tokens."""
    assert to_sample(GOOD._replace(**change)).error == error


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"tokens_in": None, "tokens_out": None}, "malformed"),
        ({"tokens_in": None, "tokens_out": None, "bytes_in": 0}, ""),
        ({"tokens_in": None, "tokens_out": None, "grpc_status": 0, "streamed": False}, ""),
        ({"tokens_in": None, "tokens_out": None, "status": 101, "streamed": False}, ""),
        (WHOLE, ""),
        ({}, ""),
    ],
)
def test_a_stream_without_counts_is_malformed_where_all_streams_have_them(change, error):
    """An engine that ends each stream with its counts, and did not: that stream did not end as it should."""
    assert to_sample(GOOD._replace(**change), counted=True).error == error


@pytest.mark.parametrize(
    "change",
    [{"flags": "DC", "tokens_out": None}, {"flags": "UT,DR", "status": 0}, {"flags": "DC", "status": 503}],
)
def test_a_client_that_leaves_says_nothing_of_speed_or_errors(change):
    """It is a sample that has not failed and has no times."""
    sample = to_sample(GOOD._replace(**change))
    assert (sample.error, sample.failed, sample.cut) == ("left", False, False)
    assert (sample.ttft_s, sample.total_s, sample.tokens_out) == (None, None, None)


def test_a_client_that_closes_behind_the_end_did_not_leave():
    """Many clients close the connection at the last event: the tokens were told, so the stream was whole."""
    sample = to_sample(GOOD._replace(flags="DC"))
    assert (sample.error, sample.cut, sample.ttft_s, sample.tokens_out) == ("", False, 0.1, 16)


def test_a_websocket_has_no_times_and_may_be_closed_by_its_client():
    """How long it stays open is its client's choice; one that breaks is cut."""
    socket = GOOD._replace(status=101, streamed=False)
    closed, broken = to_sample(socket._replace(flags="DC")), to_sample(socket._replace(flags="UC"))
    assert [s.error for s in (to_sample(socket), closed, broken)] == ["", "", "cut"]
    assert {(s.failed, s.ttft_s, s.total_s) for s in (to_sample(socket), closed, broken)} == {(False, None, None)}


@pytest.mark.parametrize(
    ("cached", "tokens_in", "hit"),
    [(None, 10, None), (0, 10, False), (5, 10, False), (6, 10, True), (0, None, False), (6, None, None)],
)
def test_a_prompt_is_cached_when_more_than_half_of_it_is(cached, tokens_in, hit):
    """Unknown where the engine does not say, or of what."""
    assert to_sample(GOOD._replace(tokens_cached=cached, tokens_in=tokens_in)).cached is hit


@pytest.mark.parametrize(
    "change",
    [
        {"flags": "DC", "kind": "mirror"},  # a copy has no client
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
    """Requests that the gateway itself refused, broken protocols, and pins, which are tests and no users."""
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


def at(canary, **change):
    """A live request routed when the candidate had that share, in permille."""
    return GOOD._replace(canary_permille=canary, **change)


def test_each_sample_weighs_what_was_in_force_when_it_was_routed():
    """The share at that moment, one half beside a baseline, and nothing outside a lease."""
    records = [at(50), at(250, arm=2, version=2), at(0, route="stable")]
    alone = samples_of(records, Arms("chat", 1, 2, False, 0.0))
    beside = samples_of(records, Arms("chat", 1, 2, False, 0.0, baseline=True))
    assert ([s.weight for s in alone.stable], [s.weight for s in alone.candidate]) == ([0.05, 0.0], [0.25])
    assert ([s.weight for s in beside.stable], [s.weight for s in beside.candidate]) == ([0.5, 0.0], [0.5])


def test_a_copy_is_paired_by_the_request_that_it_is_of():
    """Both sides of a mirrored request bear its id; the copy weighs one half, the live one is not drawn."""
    live = GOOD._replace(mirror_permille=500, bytes_in=77)
    copy = GOOD._replace(kind="mirror", route="mirror", arm=2, version=2, instance="chat-v2-0", bytes_in=77)
    found = samples_of([live, copy], Arms("chat", 1, 2, True, 0.0))
    assert [(s.request_id, s.weight, s.instance, s.bytes_in) for s in found.stable] == [("r", 0.0, "chat-v1-0", 77)]
    assert [(s.request_id, s.weight, s.instance, s.bytes_in) for s in found.candidate] == [("r", 0.5, "chat-v2-0", 77)]


def test_all_that_the_split_routed_is_counted():
    """Failures, clients that left and fallbacks to the other version too; neither pins nor copies nor other arms."""
    records = [
        at(50),
        at(50, arm=2, version=2, status=500),
        at(250, arm=2, version=1),
        at(250, flags="DC"),
        at(250, arm=None, version=None, status=401),
        at(250, arm=3),
        at(250, arm=2, kind="mirror"),
        at(0, route="stable"),
        at(0, arm=2, version=2, route="pinned"),
        at(250, at=1.0),
        at(250, service="other"),
    ]
    asked = [(0.05, False), (0.05, True), (0.25, True), (0.25, False)]
    assert [r[1:] for r in routed_of(records, Arms("chat", 1, 2, False, since=5.0))] == asked
    halves = [(0.5, hit) for _, hit in asked]
    found = routed_of(records, Arms("chat", 1, 2, False, since=5.0, baseline=True))
    assert [r[1:] for r in found] == halves


def test_sessions_are_no_draws():
    """Where sessions stick, one draw decides many requests, and no record tells which."""
    assert routed_of([at(50), at(50, arm=2)], Arms("chat", 1, 2, False, 0.0, sticky=True)) == []


@pytest.mark.parametrize(("usage", "counted"), [("engine", True), ("parsed", False), ("none", False)])
def test_only_engines_that_count_end_every_stream_with_counts(usage, counted):
    """By what is in force; of a service that is not known nothing is."""
    state = GatewayState((ServiceRoute("other", ()), ServiceRoute("chat", (), traffic=Traffic(usage=usage))))
    assert counted_by_engines(state, "chat") is counted
    assert not counted_by_engines(state, "small") and not counted_by_engines(None, "chat")
