"""Stable lends instances to a candidate and gets them back by itself."""

from dataclasses import asdict, replace

import pytest

from agent.lending import lent
from engines.port import EngineSpec
from rollout.nouns import Engine, Phase
from store.port import InstanceState, Release, VersionState

ENGINE = asdict(Engine("llama_cpp", "d", "/nowhere", "m", 0, 0.0, False))
STABLE = VersionState("chat", 1, "models:/m/1", ENGINE, asdict(EngineSpec()), 3)
CANDIDATE = replace(STABLE, number=2, instances=1)
RELEASE = Release("r", "chat", "models:/m/2", Phase.RUNNING, candidate=2, stable_before=1, borrowed=2)
RUNS = InstanceState("chat-v2-0", "chat", 2, 0, "127.0.0.1", 18100)


def wanted(release: Release, *instances: InstanceState) -> dict[int, int]:
    """Instances by version."""
    return {v.number: v.instances for v in lent([STABLE, CANDIDATE], [release], instances)}


@pytest.mark.parametrize("release", [RELEASE, replace(RELEASE, candidate=None, phase=Phase.PENDING)])
def test_a_release_under_way_has_what_it_borrowed(release: Release) -> None:
    """Stable's last instances are not wanted, before the candidate is declared as well; the candidate's all are."""
    assert wanted(release) == {1: 1, 2: 1}


@pytest.mark.parametrize("phase", [Phase.ROLLED_BACK, Phase.FAILED, Phase.PROMOTED])
def test_it_comes_back_when_the_candidate_is_gone(phase: Phase) -> None:
    """However the release ended: not while an instance of the candidate still drains, and then at once."""
    ended = replace(RELEASE, phase=phase)
    assert wanted(ended, RUNS)[1] == 1
    assert wanted(ended)[1] == 3


def test_nothing_else_is_touched() -> None:
    """Another service's version of the same number, and a retired one, are as they were."""
    other, retired = replace(STABLE, service="other"), replace(STABLE, instances=0)
    assert lent([other], [RELEASE], ()) == [other]
    assert lent([retired], [RELEASE], ()) == [retired]
    assert lent([replace(STABLE, instances=1)], [RELEASE], ())[0].instances == 0
