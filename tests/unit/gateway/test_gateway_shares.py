"""The arithmetic of weights: whole, and moving as few sessions as shares ask for."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.port import GatewayState, GroupRoute, Limits, Member, ServiceRoute, Sticky, Traffic
from gateway.shares import WHOLE, apportioned, arms, group_limits, scaled
from rollout.nouns import FULL, Lease

WEIGHTS = st.lists(st.integers(0, 1000), min_size=1, max_size=8)


@given(WEIGHTS.filter(any), st.integers(1, WHOLE))
def test_parts_add_up_to_the_whole(weights: list[int], total: int) -> None:
    """Either way of dividing gives whole parts that add up, each within one of its exact share."""
    for divided in (apportioned(weights, total), scaled(weights, total)):
        assert sum(divided) == total
        exact = [weight * total / sum(weights) for weight in weights]
        assert all(abs(part - share) <= 1 for part, share in zip(divided, exact, strict=True))


def placed(canary: int, release: str, total: int, baseline: int | None = None) -> dict[int, set[int]]:
    """Where on the proxy's scale each version lies for sessions that stick."""
    lease = Lease(2, canary, 0, 0, 1, release, baseline)
    shares = arms(1, lease, Sticky("token"))
    found: dict[int, set[int]] = {}
    begin = 0
    for (version, _), part in zip(shares, scaled([n for _, n in shares], total), strict=True):
        found.setdefault(version, set()).update(range(begin, begin + part))
        begin += part
    return found


@pytest.mark.parametrize(("baseline", "most"), [(None, FULL), (3, FULL // 2)])
@given(
    canaries=st.lists(st.integers(0, FULL), min_size=2, max_size=6),
    release=st.text(min_size=1),
    total=st.integers(1, WHOLE),
)
def test_no_session_leaves_a_growing_candidate(
    baseline: int | None, most: int, canaries: list[int], release: str, total: int
) -> None:
    """Whatever the steps of its share are, of a group's part as well; a baseline's neither."""
    steps = [placed(min(canary, most), release, total, baseline) for canary in sorted(canaries)]
    for before, after in pairwise(steps):
        for version in (2, 3):
            assert before.get(version, set()) <= after.get(version, set())


def test_a_group_gives_no_member_more_than_its_own_rate() -> None:
    """The whole may be as fast as the member that is nearest to its limit allows; a token, as its slowest member's."""
    services = tuple(
        ServiceRoute(name, (), traffic=Traffic(limits=limits))
        for name, limits in (("aa", Limits(90, 5)), ("bb", Limits(10, 20)), ("cc", Limits()), ("dd", Limits(1, 1)))
    )
    members = (Member("aa", 3), Member("bb", 1), Member("cc", 1), Member("dd", None))
    group = GroupRoute("prod", (), members)
    assert group_limits(group, GatewayState(services, (group,))) == Limits(50, 5)
    assert group_limits(GroupRoute("none", (), ()), GatewayState(services)) == Limits()
