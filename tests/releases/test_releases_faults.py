"""Releases of candidates with one fault each are turned back for that fault, and the same one without it is promoted.

Real gateway, real engines, a load of short and long prompts; each candidate is built from the same model version.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty import (
    FAULTS,
    MODEL,
    SERVICE,
    SOUND,
    TRAFFIC,
    TRAFFIC_AND_OUTPUTS,
    Fault,
    counts,
    mixed_load,
    write_configs,
)
from house import House
from whole_stack import until

from rollout.nouns import Phase
from store.port import Release

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def proving(house: House) -> Release:
    """The service with a sound version."""
    write_configs(house.stack.project)
    return house.release(SERVICE, house.register(MODEL), SOUND, TRAFFIC)


@pytest.fixture(scope="module")
def load(proving: Release, house: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Users from the first release on."""
    assert proving.phase is Phase.PROMOTED, proving.reason
    with mixed_load(house.stack, tmp_path_factory.mktemp("load")) as out:
        until(lambda: counts(out)["answered"] > 300, 280, "enough requests of stable to compare with")
        yield out


def outcomes(release: Release) -> dict[str, str]:
    """What each metric said in the end."""
    return {finding["metric"]: finding["outcome"] for finding in release.evidence["findings"]}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_turned_back_for_the_right_reason(fault: Fault, proving: Release, load: Path, house: House) -> None:
    """The release ends rolled back, the metric that the fault touches is the only one that says so, in its words."""
    release = house.release(SERVICE, proving.model_uri, fault.file, fault.rollout)
    assert release.phase is Phase.ROLLED_BACK, release.reason
    assert all(word in release.reason for word in fault.words), release.reason
    assert [name for name, outcome in outcomes(release).items() if outcome == "roll back"] == [fault.metric]
    assert house.store.service(SERVICE).stable == proving.candidate


def test_the_same_candidate_without_a_fault_is_promoted(proving: Release, load: Path, house: House) -> None:
    """Every metric is proven good, the candidate is stable, and no user saw a failure."""
    before = counts(load)
    release = house.release(SERVICE, proving.model_uri, SOUND, TRAFFIC_AND_OUTPUTS)
    assert release.phase is Phase.PROMOTED, release.reason
    assert set(outcomes(release).values()) == {"promote"}
    assert house.store.service(SERVICE).stable == release.candidate
    after = counts(load)
    assert {k: v for k, v in after.items() if k != "answered"} == {k: v for k, v in before.items() if k != "answered"}
    assert after["answered"] > before["answered"]
