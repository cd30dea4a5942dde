"""The test of a split: what it promises when all is well, and how soon it speaks when not."""

from __future__ import annotations

import json
import random
from dataclasses import asdict

import pytest

from rollout.share import ALPHA, ShareTest, Shortfall, after, counted, wilson_interval


def draw(rng, asked, delivered):
    return asked, rng.random() < delivered


def requests_until_alarm(seed, asked, delivered, at_most=20_000):
    rng, test = random.Random(seed), ShareTest()
    while not test.alarm() and test.n < at_most:
        test = after(test, [draw(rng, asked, delivered) for _ in range(10)])
    return test.n if test.alarm() else None


def test_a_split_that_works_is_hardly_ever_called_wrong():
    """Shares that change all the time, a look after every ten requests, at one in 20: no more than promised."""
    alarms = 0
    for seed in range(400):
        rng, test = random.Random(seed), ShareTest()
        for _ in range(100):
            share = rng.choice([0.01, 0.05, 0.25, 0.5, 1.0])
            test = after(test, [draw(rng, share, share) for _ in range(10)])
        alarms += test.alarm(0.05)
    assert alarms <= 0.05 * 400


@pytest.mark.parametrize("share", [0.001, 0.05, 0.5, 0.9, 0.0, 1.0])
def test_each_bet_is_fair(share):
    """The mean of the capital after one outcome, and after two, is what it was before: a martingale."""
    start = after(ShareTest(), [(0.3, True), (0.3, False)])
    before = sum(start.capital)
    hit, miss = (sum(after(start, [(share, won)]).capital) for won in (True, False))
    stake = 3**-0.5 - 4**-0.5
    mean = (share * hit if share else 0.0) + ((1 - share) * miss if share < 1 else 0.0)
    assert mean == pytest.approx(before + stake)


@pytest.mark.parametrize(
    ("asked", "delivered", "within"),
    [(0.05, 0.08, 3000), (0.1, 0.0, 110), (0.01, 0.0, 1000), (0.5, 0.55, 6000), (0.05, 0.5, 60), (0.0, 0.01, 1500)],
)
def test_a_wrong_split_is_found_soon(asked, delivered, within):
    """Nine times in ten or more within the stated number of requests."""
    needed = [requests_until_alarm(seed, asked, delivered) for seed in range(30)]
    assert sum(n is not None and n <= within for n in needed) >= 27


def test_a_fault_that_begins_late_is_found_too():
    """After 20,000 good requests, twice the share is found within 2,500."""
    rng = random.Random(1)
    test = after(ShareTest(), [draw(rng, 0.05, 0.05) for _ in range(20_000)])
    assert not test.alarm()
    assert after(test, [draw(rng, 0.05, 0.1) for _ in range(2500)]).alarm()


def arrivals_until_alarm(seed, asked, delivered, at_most, test=None):
    rng, test = random.Random(seed), test or Shortfall()
    start = test.n
    while not test.alarm() and test.n - start < at_most:
        test = counted(test, [draw(rng, asked, delivered) for _ in range(10)], 0)
    return test.n - start if test.alarm() else None


def test_too_much_is_no_shortfall():
    """Twice the share says nothing; none of it does, soon, and so does a half; all of all is never missed."""
    assert arrivals_until_alarm(1, 0.2, 0.4, 3000) is None
    assert arrivals_until_alarm(1, 0.2, 0.0, 3000) <= 60
    assert arrivals_until_alarm(1, 0.2, 0.1, 3000) <= 600
    assert arrivals_until_alarm(1, 1.0, 1.0, 3000) is None
    assert arrivals_until_alarm(1, 1.0, 0.9, 3000) <= 100


def test_a_shortfall_that_begins_late_is_found():
    """After 10,000 that arrived as asked, none: within 3,000."""
    rng = random.Random(1)
    test = counted(Shortfall(), [draw(rng, 0.1, 0.1) for _ in range(100)], 0)
    for _ in range(99):
        test = counted(test, [draw(rng, 0.1, 0.1) for _ in range(100)], 0)
    assert not test.alarm()
    assert arrivals_until_alarm(2, 0.1, 0.0, 3000, test) is not None


def test_excused_outcomes_are_no_shortfall():
    """Nine of ten dropped, and known to be: no alarm in 300 runs at one in 20; without the excuse there is one."""
    alarms = 0
    for seed in range(300):
        rng, test, dropped = random.Random(seed), Shortfall(), 0
        for _ in range(60):
            sampled = [rng.random() < 0.5 for _ in range(20)]
            came = [one and rng.random() < 0.1 for one in sampled]
            dropped += sum(sampled) - sum(came)
            test = counted(test, [(0.5, one) for one in came], dropped)
        alarms += test.alarm(0.05)
    assert alarms <= 0.05 * 300
    assert counted(Shortfall(), [(0.5, i % 20 == 0) for i in range(200)], 0).alarm()


def test_what_cannot_happen_is_proof():
    """One request to a candidate that has no share, or past one that has all."""
    assert after(ShareTest(), [(0.0, True)]).alarm()
    assert after(ShareTest(), [(1.0, False)]).alarm()
    assert not after(ShareTest(), [(0.0, False), (1.0, True)] * 1000).alarm()


def test_evidence_stays_and_state_goes_through_json():
    """An alarm is not taken back by later requests, and a test goes on where it was written down."""
    test = after(ShareTest(), [(0.1, False)] * 150)
    assert after(test, [(0.1, i % 10 == 0) for i in range(3000)]).alarm()
    read = json.loads(json.dumps(asdict(test)))
    again = ShareTest(**{k: tuple(v) if isinstance(v, list) else v for k, v in read.items()})
    more = [(0.1, True), (0.2, False)]
    assert after(again, more) == after(test, more)
    assert (test.n, test.seen, test.asked) == (150, 0, pytest.approx(15.0))
    assert test.alarm(ALPHA) and not ShareTest().alarm()


def test_interval_for_display_is_wilsons():
    """Against the value of the textbook's example (5 of 50, 95 %), and at the ends."""
    assert wilson_interval(5, 50) == pytest.approx((0.0434, 0.2139), abs=1e-3)
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert (wilson_interval(0, 9)[0], wilson_interval(9, 9)[1]) == (0.0, 1.0)
