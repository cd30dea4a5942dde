"""All that moves through a release, on one page. Read it top to bottom: that is the order in which things happen.

    ModelRef -> ModelVersion -> Engine -> Version + Instances -> Split -> Samples -> Verdict -> Step

Every value here is frozen, knows nothing of where it came from, and can be compared, printed and written as JSON.
Times are epoch seconds unless the name ends in ``_ms`` (epoch milliseconds). Shares are in permille (0..1000), so
0.1 % is 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

FULL = 1000  #: the sum of the shares of a split, in permille


# --- what is released ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelFile:
    """One file of a model: path relative to the model's folder, size in bytes, digest of its content."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class ModelVersion:
    """A model version whose files lie in ``directory`` and were checked against the registry's digests.

    ``uri`` is what was resolved to (``models:/smollm2/3``, never an alias). ``format`` is ``gguf`` or ``safetensors``.
    ``lineage`` says where it came from (run id, git revision, source), for the records.
    """

    name: str
    version: str
    uri: str
    directory: str
    files: tuple[ModelFile, ...]
    format: str
    architecture: str
    parameters: int
    digest: str  # sha256 over the sorted (path, sha256) pairs
    lineage: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Engine:
    """A built engine: a directory named by the digest of (model files, spec, engine version, hardware)."""

    kind: str
    digest: str
    directory: str
    served_name: str
    size: int  # bytes
    build_s: float  # seconds spent; 0.0 when it was found
    cached: bool
    needs: dict[str, int] = field(default_factory=dict)  # of one instance: ``engines.port.Needs``


# --- what runs ----------------------------------------------------------------------------------------------------


class Health(StrEnum):
    """Where an instance is in its life."""

    STARTING = "starting"  # the process exists, the model is not loaded
    WARMING = "warming"  # answers, is being warmed up, gets no traffic
    READY = "ready"  # may get traffic
    DRAINING = "draining"  # gets no new request, finishes the open ones
    BACKOFF = "backoff"  # died or hung; will be started again at a set time
    STOPPED = "stopped"


@dataclass(frozen=True)
class Instance:
    """One running server process (container, pod) of a version."""

    id: str  # "<service>-v<version>-<ordinal>"
    service: str
    version: int
    host: str
    port: int
    health: Health
    pid: int | None = None
    restarts: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Version:
    """One immutable (model, engine) of a service, numbered 1, 2, 3, with the instances it has now."""

    service: str
    number: int
    model_uri: str
    engine_digest: str
    instances: tuple[Instance, ...] = ()

    @property
    def ready(self) -> tuple[Instance, ...]:
        return tuple(i for i in self.instances if i.health is Health.READY)


# --- who gets the traffic -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mirror:
    """Copies of a service's live requests for one more target: a version of it, or the stable one of another."""

    service: str
    version: int | None  # None: that service's stable version
    permille: int


@dataclass(frozen=True)
class Lease:
    """A candidate's share of live traffic and of mirrored copies, with an end that Envoy itself enforces.

    After ``until_ms`` all traffic is on stable although no process of ours need be alive. While it lasts, a token that
    may pin reaches the candidate by name. ``baseline`` is a version like stable, of the candidate's size and age, that
    gets the same share as the candidate.
    """

    candidate: int
    canary_permille: int
    mirror_permille: int
    from_ms: int
    until_ms: int
    release: str  # who holds it
    baseline: int | None = None
    mirrors: tuple[Mirror, ...] = ()


@dataclass(frozen=True)
class Split:
    """Who serves a service now: the stable version, and a leased share of a candidate if there is one."""

    service: str
    stable: int | None
    lease: Lease | None = None


# --- what was seen ------------------------------------------------------------------------------------------------


#: What can go wrong with a request. ``refused``: the version had no room for it. ``left``: its client went away.
ERRORS = ("5xx", "4xx", "timeout", "cut", "empty", "malformed", "refused", "left")


class Sample(NamedTuple):  # made a hundred thousand times a second, which a dataclass is too slow for
    """One request as the gateway recorded it. ``ttft_s`` is the first body byte, ``None`` where there was none."""

    at: float
    version: int
    mirrored: bool
    failed: bool
    ttft_s: float | None
    total_s: float | None
    tokens_out: int | None
    cut: bool = False  # the answer began and did not end as it should
    streamed: bool = True  # token by token; the first byte of a whole answer is as late as its last
    error: str = ""  # what went wrong: one of ERRORS; "" when nothing did
    bytes_in: int = 0  # of the request's body: how long the prompt is, known before any arm was chosen
    cached: bool | None = None  # whether most of the prompt was in the engine's prefix cache; None: not told
    weight: float = 0.0  # the candidate's share of the judged requests when this one was routed; 0: it was not routed
    instance: str = ""
    request_id: str = ""  # a copy's is that of the request that was copied

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first; of a whole answer, which has no first one, time per token."""
        if self.failed or self.ttft_s is None or self.total_s is None or not self.tokens_out:
            return None
        if not self.streamed:
            return self.total_s / self.tokens_out
        return (self.total_s - self.ttft_s) / (self.tokens_out - 1) if self.tokens_out > 1 else None


@dataclass(frozen=True)
class Samples:
    """What both versions did in the same stretch of time."""

    stable: tuple[Sample, ...]
    candidate: tuple[Sample, ...]


# --- what follows from it -----------------------------------------------------------------------------------------


class Outcome(StrEnum):
    """The three answers of the judge."""

    PROMOTE = "promote"
    ROLL_BACK = "roll back"
    UNDECIDED = "not yet decidable"


@dataclass(frozen=True)
class Part:
    """What a part of a metric says: a stratum of the requests, or a class of errors."""

    name: str
    n_stable: int
    n_candidate: int
    stable: float | None  # latency in seconds (geometric mean), or rate
    candidate: float | None
    harm_e: float


@dataclass(frozen=True)
class Finding:
    """What one metric says, with the numbers behind it.

    ``harm_e`` is the e-value against "not worse than the margin of harm", ``allow_e`` the one against "worse than what
    is allowed"; each decides when it reaches what it ``needs``.
    """

    metric: str
    outcome: Outcome
    stable: float | None
    candidate: float | None
    low: float | None  # confidence sequence of ``effect``
    high: float | None
    margin: float
    n_stable: int
    n_candidate: int
    sentence: str
    effect: float | None = None  # candidate/stable (kind "ratio") or candidate - stable ("difference")
    kind: str = "ratio"
    harm_e: float = 1.0
    harm_needs: float = 0.0  # 0: this metric never rolls back
    allow_e: float = 1.0
    allow_needs: float = 0.0
    worst: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """The judge's answer. ``reason`` is a sentence with subject, value, bound and counts.

    ``stuck``: more requests will not help, because what is measured cannot be trusted.
    """

    outcome: Outcome
    reason: str
    findings: tuple[Finding, ...] = ()
    stuck: bool = False


class Phase(StrEnum):
    """Where a release stands."""

    PENDING = "pending"
    RUNNING = "running"
    DEPLOYED = "deployed"  # started beside stable and left without traffic
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"
    FAILED = "failed"  # it could not be judged: a step broke, or it was cancelled; traffic is on stable

    @property
    def active(self) -> bool:
        """Whether the release may still move traffic."""
        return self in (Phase.PENDING, Phase.RUNNING)


@dataclass(frozen=True)
class Shift:
    """Next: give the candidate this share of live traffic and of mirrored copies, then look again."""

    canary_permille: int
    mirror_permille: int


@dataclass(frozen=True)
class Hold:
    """Next: change nothing and look again; the evidence does not suffice."""

    reason: str


@dataclass(frozen=True)
class Promote:
    """Next: the candidate becomes stable."""

    reason: str


@dataclass(frozen=True)
class RollBack:
    """Next: all traffic on stable, in one change."""

    reason: str


@dataclass(frozen=True)
class Ask:
    """Next: a person says whether ``then`` is done. Until then nothing changes, and harm still rolls back.

    ``key`` names what is asked, whatever numbers the question tells: an answer is one to this key and to no other.
    """

    question: str
    then: Shift | Promote
    key: str


Step = Shift | Hold | Promote | RollBack | Ask
