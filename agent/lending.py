"""Room that stable lends to a candidate: fewer of its instances run until the candidate's are gone. Pure.

Nobody has to give the room back: how many of stable's instances are wanted follows, at each look, from the release that
borrowed and from what of its candidate still runs. So a release that dies leaves nothing short.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from store.port import Release, VersionState
from store.steer import loans


def lent(versions: Iterable[VersionState], unsettled: Iterable[Release]) -> list[VersionState]:
    """The versions with as many instances as they may have now; ``unsettled`` are the store's releases of that name."""
    borrowed = loans(unsettled)
    return [replace(v, instances=max(0, v.instances - borrowed.get((v.service, v.number), 0))) for v in versions]
