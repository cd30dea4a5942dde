"""Records to samples: what the judge may count, and as what. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gateway.port import GatewayState, Record
from rollout.nouns import Sample, Samples
from rollout.policy import judged_weight

#: Envoy's response flags for what the client did: it left, reset its stream, or broke the protocol.
LEFT = frozenset(("DC", "DR", "DPE"))
#: Flags of a request that reached no instance because the version had none to give: full, down, or not to be reached.
_NO_INSTANCE = frozenset(("UO", "UH", "UF", "UT", "UC", "URX", "LR"))
_TOO_LATE = frozenset(("UT", "SI", "DT"))  # nothing came in time: no first byte, no next one, no end
PRESSED = 450  #: a version's queue is full
_REFUSING = (429, PRESSED)
#: Status of a gRPC call to the class of what went wrong; the rest is "5xx" (grpc/doc/statuscodes.md).
_GRPC = {4: "timeout", 8: "refused", 14: "refused"} | dict.fromkeys((3, 5, 6, 7, 9, 11, 16), "4xx")
_WEBSOCKET = 101


def to_sample(record: Record, weight: float = 0.0, counted: bool = False) -> Sample | None:
    """A record as the judge sees it; None for what says nothing of the version.

    That is: the gateway refused it before any instance was asked, its client broke the protocol, or it was pinned (a
    test of ours, which no user saw). A request that the split gave to one version and another one answered counts as
    failed for the first. So does a 4xx of the engine's own (a candidate that refuses what stable takes is worse), a
    full queue, and a gRPC status other than 0 (OK), which comes with HTTP status 200. A live request whose client left
    is a sample without times that has not failed: it may tell of patience alone. One that closed the connection at
    the end of its stream, without reading on, did not leave.

    ``error`` of an answer that came whole with status 200 to a request with a body, over plain HTTP: "empty" without
    a body, or a stream in which no token was counted; "malformed" if it calls itself JSON and is none (where the proxy
    reads it to count tokens), or a stream without counts of a service that is ``counted``: whose engines end every
    stream with them. A whole answer without tokens is well: embeddings, scores and token ids have none.

    ``weight``: the candidate's share of the judged requests when this one was routed.
    """
    version = record.version if record.arm is None else record.arm
    if version is None or record.route == "pinned":
        return None
    status = record.status
    good = (200 <= status < 400 or status == _WEBSOCKET) and record.version == version and not record.grpc_status
    plain, error, length = record.flags == "-", "", record.bytes_in
    if not (good and plain):
        flags = frozenset(record.flags.split(","))
        if flags & LEFT and not _whole(record, good):
            return _left(record, version, weight, flags, good)
        if record.instance is None and _refused(status, flags):
            return None
        error = "" if flags & LEFT else _class(record, flags, good)
    elif length and status == 200:
        if not record.bytes_out or (record.tokens_out == 0 and record.streamed):
            error = "empty" if record.grpc_status is None else ""
        elif record.unreadable or (counted and record.tokens_out is None and record.streamed):
            error = "malformed"
    timed = status != _WEBSOCKET  # how long a connection stays open says nothing of speed
    cached, tokens_in = record.tokens_cached, record.tokens_in
    return Sample(
        record.at,
        version,
        record.kind == "mirror",
        not good,
        record.ttft_s if timed else None,
        record.total_s if timed else None,
        record.tokens_out,
        good and bool(error) and not plain,
        record.streamed,
        error,
        length,
        None if cached is None or (cached and not tokens_in) else 2 * cached > (tokens_in or 0),
        weight,
        record.instance or "",
        record.request_id,
    )


def _whole(record: Record, good: bool) -> bool:
    """Whether a stream had come to its end when its client closed the connection: the tokens are told at its end."""
    told = record.streamed and record.tokens_out is not None
    return good and told and record.flags == "DC" and record.kind == "live"


def _left(record: Record, version: int, weight: float, flags: frozenset[str], good: bool) -> Sample | None:
    """A request whose client went away. None for a copy, which has no client, and for a broken protocol.

    A WebSocket that its client closes ends well.
    """
    if record.kind == "mirror" or "DPE" in flags:
        return None
    error = "" if good and record.status == _WEBSOCKET else "left"
    who = (record.instance or "", record.request_id)
    return Sample(
        *(record.at, version, False, False, None, None, None, False, record.streamed),
        *(error, record.bytes_in, None, weight, *who),
    )


def _class(record: Record, flags: frozenset[str], good: bool) -> str:
    """What went wrong. A 503 that comes from an instance is one that drains or is full; the proxy's own, for want of
    an instance, is an error unless the bound on open requests was reached (UO)."""
    if flags & _TOO_LATE or record.status == 504:
        return "timeout"
    if good:
        return "cut"
    status, asked = record.status, record.flags == "-" and record.instance is not None
    if record.grpc_status and status == 200:
        found = _GRPC.get(record.grpc_status, "5xx")
        return found if asked or found != "refused" else "5xx"
    if status in _REFUSING or "UO" in flags or (status == 503 and asked):
        return "refused"
    return "4xx" if 400 <= status < 500 else "5xx"


def _refused(status: int, flags: frozenset[str]) -> bool:
    """Whether the gateway's own rules said no to a request that no instance saw. gRPC is refused with status 200."""
    return 200 <= status < 500 and status != PRESSED and not flags & _NO_INSTANCE


@dataclass(frozen=True)
class Arms:
    """Whose requests are compared, from ``since`` on: live ones of ``stable``, the candidate's live or mirrored ones.

    ``stable`` is the version compared against: the one in service, or a lease's ``baseline`` of the candidate's size.
    ``sticky``: sessions stay on a version. ``counted``: as ``counted_by_engines`` says.
    """

    service: str
    stable: int
    candidate: int
    mirrored: bool
    since: float
    baseline: bool = False
    sticky: bool = False
    counted: bool = False


def counted_by_engines(state: GatewayState | None, service: str) -> bool:
    """Whether the engines of a service end each stream with its counts, by the state that is in force: what
    ``Arms.counted`` says. Not so where the proxy reads them off answers, some of which have none."""
    found = (route for route in (state.services if state else ()) if route.name == service)
    return any(route.traffic.usage == "engine" for route in found)


def samples_of(records: Iterable[Record], arms: Arms) -> Samples:
    """Both arms in the same stretch of time.

    A live sample's weight is the candidate's share of the requests of both arms when it was routed: what the lease in
    force gave it, one half beside a baseline, 0 outside a lease. A copy weighs one half and bears the request id of the
    live request that it is of.
    """
    stable: list[Sample] = []
    candidate: list[Sample] = []
    service, since, counted, baseline = arms.service, arms.since, arms.counted, arms.baseline
    for record in records:
        if record.service != service or record.at < since:
            continue
        weight = 0.5 if record.kind == "mirror" else judged_weight(record.canary_permille, baseline)
        sample = to_sample(record, weight, counted)
        if sample is None:
            continue
        if sample.version == arms.stable and not sample.mirrored:
            stable.append(sample)
        elif sample.version == arms.candidate and sample.mirrored is arms.mirrored:
            candidate.append(sample)
    return Samples(tuple(stable), tuple(candidate))


def routed_of(records: Iterable[Record], arms: Arms) -> list[tuple[float, float, bool]]:
    """(begin, share asked for, went to the candidate) of all that the split gave to one of both arms, in order.

    Failed ones and those whose client left are among them: who got a request is decided before what becomes of it.
    Where sessions stick there are none: the requests of a session go one way together, and no record names its session.
    """
    if arms.sticky:
        return []
    both = (arms.stable, arms.candidate)
    return [
        (record.at, judged_weight(record.canary_permille, arms.baseline), record.arm == arms.candidate)
        for record in records
        if record.canary_permille
        and record.service == arms.service
        and record.arm in both
        and record.kind == "live"
        and record.at >= arms.since
    ]
