"""Records to samples: what the judge may count, and as what. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gateway.port import Record
from rollout.nouns import Sample, Samples


def to_sample(record: Record) -> Sample | None:
    """A record as the judge sees it; None for what says nothing of the version (the client left, or was refused).

    A request that the split gave to one version and another one answered counts as failed for the first. So does a
    4xx of the engine's own: a candidate that refuses what stable takes is worse.
    """
    version = record.arm if record.arm is not None else record.version
    refused_here = 400 <= record.status < 500 and not record.details.startswith("via_upstream")
    if version is None or "DC" in record.flags.split(",") or refused_here:
        return None
    failed = record.status >= 400 or record.status == 0 or record.version != version
    cut = not failed and record.flags not in ("", "-")
    return Sample(
        at=record.at,
        version=version,
        mirrored=record.kind == "mirror",
        failed=failed,
        ttft_s=record.ttft_s,
        total_s=record.total_s,
        tokens_out=record.tokens_out,
        cut=cut,
        streamed=record.streamed,
    )


@dataclass(frozen=True)
class Arms:
    """Whose requests are compared: stable's live, and the candidate's live or ``mirrored`` ones, from ``since`` on."""

    service: str
    stable: int
    candidate: int
    mirrored: bool
    since: float


def samples_of(records: Iterable[Record], arms: Arms) -> Samples:
    """Both arms in the same stretch of time."""
    of_service = (r for r in records if r.service == arms.service and r.at >= arms.since)
    seen = [s for r in of_service if (s := to_sample(r)) is not None]
    return Samples(
        stable=tuple(s for s in seen if s.version == arms.stable and not s.mirrored),
        candidate=tuple(s for s in seen if s.version == arms.candidate and s.mirrored is arms.mirrored),
    )
