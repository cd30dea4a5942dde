"""Room that stable lends to a candidate: fewer of its instances run until the candidate's are gone. Pure.

Nobody has to give the room back: how many of stable's instances are wanted follows, at each look, from the release that
borrowed and from what of its candidate still runs. So a release that dies leaves nothing short.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from store.port import InstanceState, Release, VersionState


def lent(
    versions: Iterable[VersionState], releases: Iterable[Release], instances: Iterable[InstanceState]
) -> list[VersionState]:
    """The versions with as many instances as they may have now."""
    alive = {(i.service, i.version) for i in instances}
    borrowed = {
        (release.service, release.stable_before): release.borrowed
        for release in releases
        if release.borrowed and (release.phase.active or (release.service, release.candidate) in alive)
    }
    return [
        replace(v, instances=max(0, v.instances - borrowed.get((v.service, v.number), 0))) if v.instances else v
        for v in versions
    ]
