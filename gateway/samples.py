"""Records to samples: what the judge may count, and as what. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gateway.port import Record
from rollout.nouns import Sample, Samples

#: Envoy's response flags for what the client did: it left, reset its stream, or broke the protocol.
LEFT = frozenset(("DC", "DR", "DPE"))
#: Flags of a request that reached no instance because the version had none to give: full, down, or not to be reached.
_NO_INSTANCE = frozenset(("UO", "UH", "UF", "UT", "UC", "URX", "LR"))
PRESSED = 450  #: a version's queue is full


def to_sample(record: Record) -> Sample | None:
    """A record as the judge sees it; None for what says nothing of the version.

    That is: the client left, the gateway refused it before any instance was asked, or it was pinned (a test of ours,
    which no user saw). A request that the split gave to one version and another one answered counts as failed for the
    first. So does a 4xx of the engine's own (a candidate that refuses what stable takes is worse), a full queue, and a
    gRPC status other than 0 (OK), which comes with HTTP status 200.
    """
    version = record.version if record.arm is None else record.arm
    if version is None or record.route == "pinned":
        return None
    status = record.status
    good = 200 <= status < 400 and record.version == version and not record.grpc_status
    plain = record.flags == "-"
    if not (good and plain):
        flags = frozenset(record.flags.split(","))
        if flags & LEFT or (record.instance is None and _refused(status, flags)):
            return None
    return Sample(
        record.at,
        version,
        record.kind == "mirror",
        not good,
        record.ttft_s,
        record.total_s,
        record.tokens_out,
        cut=good and not plain,
        streamed=record.streamed,
    )


def _refused(status: int, flags: frozenset[str]) -> bool:
    """Whether the gateway's own rules said no to a request that no instance saw. gRPC is refused with status 200."""
    return 200 <= status < 500 and status != PRESSED and not flags & _NO_INSTANCE


@dataclass(frozen=True)
class Arms:
    """Whose requests are compared, from ``since`` on: live ones of ``stable``, the candidate's live or mirrored ones.

    ``stable`` is the version compared against: the one in service, or a lease's baseline of the candidate's size.
    """

    service: str
    stable: int
    candidate: int
    mirrored: bool
    since: float


def samples_of(records: Iterable[Record], arms: Arms) -> Samples:
    """Both arms in the same stretch of time."""
    stable: list[Sample] = []
    candidate: list[Sample] = []
    for record in records:
        if record.service != arms.service or record.at < arms.since:
            continue
        sample = to_sample(record)
        if sample is None:
            continue
        if sample.version == arms.stable and not sample.mirrored:
            stable.append(sample)
        elif sample.version == arms.candidate and sample.mirrored is arms.mirrored:
            candidate.append(sample)
    return Samples(tuple(stable), tuple(candidate))
