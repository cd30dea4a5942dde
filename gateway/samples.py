"""Records to samples: what the judge may count, and as what. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.port import Record
from rollout.nouns import Sample, Samples


def to_sample(record: Record) -> Sample | None:
    """A record as the judge sees it; None for what says nothing of the version (the client left, or was refused).

    A request that the split gave to one version and another one answered counts as failed for the first.
    """
    version = record.arm if record.arm is not None else record.version
    if version is None or "DC" in record.flags.split(",") or 400 <= record.status < 500:
        return None
    failed = record.status >= 500 or record.status == 0 or record.version != version
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
    )


def samples_of(
    records: Iterable[Record], service: str, stable: int, candidate: int, mirrored: bool, since: float
) -> Samples:
    """Both arms in the same stretch of time: stable's live requests, and the candidate's live or mirrored ones."""
    of_service = (r for r in records if r.service == service and r.at >= since)
    seen = [s for r in of_service if (s := to_sample(r)) is not None]
    return Samples(
        stable=tuple(s for s in seen if s.version == stable and not s.mirrored),
        candidate=tuple(s for s in seen if s.version == candidate and s.mirrored is mirrored),
    )
