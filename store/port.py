"""The store's interface: desired and observed state of services, releases and their events. No vendor here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from rollout.nouns import Health, Lease, Phase


@dataclass(frozen=True)
class ServiceState:
    """What a service should be. ``stable`` is None until a first version was promoted."""

    name: str
    stable: int | None = None
    response_timeout_s: float = 5.0
    body_limit_bytes: int = 1 << 20
    port: int | None = None  # of its first instance; else any of the stack's range
    traffic: dict[str, Any] = field(default_factory=dict)  # a gateway.port.Traffic as a mapping, without its defaults


@dataclass(frozen=True)
class GroupMember:
    """A service in a group. ``weight`` is relative (0..1000); None: it takes its own direct calls only.

    In a group of mode ``auto`` weights are left out: each member weighs what it has of ready instances.
    """

    service: str
    weight: int | None = None


@dataclass(frozen=True)
class Group:
    """Services behind one endpoint. ``auto``: each weighs as many instances as it has ready; ``custom``: as set."""

    name: str
    members: tuple[GroupMember, ...]
    mode: Literal["auto", "custom"] = "auto"
    sticky: dict[str, str] | None = None  # a gateway.port.Sticky as a mapping


@dataclass(frozen=True)
class VersionState:
    """One immutable version, and how many instances of it should run (0: retired)."""

    service: str
    number: int
    model_uri: str
    engine: dict[str, Any]  # an Engine as a mapping
    spec: dict[str, Any]  # an EngineSpec as a mapping
    instances: int
    warm_up_requests: int = 4
    created_at: float = 0.0
    retire_at: float | None = None  # when the agent sets ``instances`` to 0 by itself
    engine_name: str = ""  # the file of configs/engines that it was made from


@dataclass(frozen=True)
class InstanceState:
    """What the agent last saw of an instance, kept so that it survives the agent."""

    id: str
    service: str
    version: int
    ordinal: int
    host: str
    port: int
    health: Health = Health.STARTING
    pid: int | None = None
    restarts: int = 0
    retry_at: float | None = None  # when a dead one is started again
    since: float = 0.0  # of this health
    reason: str = ""
    warm_up: dict[str, float] = field(default_factory=dict)
    placement: dict[str, Any] = field(default_factory=dict)  # an engines.port.Placement as a mapping; empty: none yet


@dataclass(frozen=True)
class Observed:
    """What the gateway confirmed for a service, or why it refused."""

    service: str
    stable: int | None
    lease: Lease | None
    revision: str
    confirmed_at: float
    error: str = ""


@dataclass(frozen=True)
class InForce:
    """How far the gateway has come: all that stood at ``revision`` of the store and ``tokens`` of the token file."""

    revision: int
    tokens: int = 0
    at: float = 0.0
    error: str = ""  # why it does not get further


@dataclass(frozen=True)
class Release:
    """One release, from its start to its verdict. ``beat_at`` is when its own process last said that it lives."""

    id: str
    service: str
    model_uri: str
    phase: Phase
    candidate: int | None = None
    stable_before: int | None = None
    flow_run: str = ""
    stage: str = ""
    reason: str = ""
    created_at: float = 0.0
    beat_at: float = 0.0
    finished_at: float | None = None
    evidence: dict[str, Any] = field(default_factory=dict)
    borrowed: int = 0  # instances of stable that make room for the candidate while that one runs
    promised: dict[str, Any] = field(default_factory=dict)  # room for the candidate: a configs.room.Wanted as a mapping
    baseline: int | None = None  # a version like stable that the candidate is compared with; it ends with the release
    waiting: str = ""  # the question that a person is to answer
    waiting_key: str = ""  # what is asked, whatever numbers the question tells
    asked: int = 0  # questions so far: the number of the last one
    answer: dict[str, Any] | None = None  # to that: ``number, key, question, yes, who, reason, at``


@dataclass(frozen=True)
class Event:
    """Something that happened, in one sentence."""

    at: float
    service: str
    kind: str
    text: str
    release: str = ""
    data: dict[str, Any] = field(default_factory=dict)


Role = Literal["candidate", "baseline"]
ChangeKind = Literal["lease", "promote", "rollback", "weights", "drain", "limits"]


@dataclass(frozen=True)
class Change:
    """A change of who gets the traffic. ``before`` and ``after`` hold the same keys, so that it can be undone.

    lease, promote, rollback: ``{"stable": 1, "lease": {"candidate": 2, "canary_permille": 50, ...} | None}``;
    weights: a Group as a mapping, None where there was none; drain: ``{"instance": id, "draining": bool}``; limits: a
    ServiceState as a mapping without ``name`` and ``stable``.
    """

    at: float
    name: str  # of the service or group
    kind: ChangeKind
    what: str  # one sentence
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    by: str  # a release's id, or who did it by hand
    id: int = 0


BY_HAND = "by hand"
PUT_BACK = "put back"  # the stage of a row that holds a service while an earlier version comes back


class Store(Protocol):
    """Desired state is written by flows and the CLI, observed state by the agent; each verb is one transaction.

    Who may move traffic is decided here: only a release that runs, and only for its own candidate.
    """

    def revision(self) -> int:
        """Grows with every write of desired state."""

    # services and versions
    def put_service(self, service: ServiceState, by: str = BY_HAND, now: float | None = None) -> None:
        """New, or with new settings; which version is stable is turned by ``promote`` alone.

        ``now`` here and below: epoch seconds, None for the clock's. Raises Refused when a group has that name.
        """

    def services(self) -> list[ServiceState]: ...
    def service(self, name: str) -> ServiceState: ...
    def drop_service(self, name: str, now: float) -> None:
        """Forget a service with its versions, lease, running releases and places in groups; what runs is drained."""

    def add_version(self, version: VersionState, release: str, role: Role = "candidate") -> VersionState:
        """Stored with a number that its service never used, as the release's candidate or the baseline beside it.

        Raises Conflict when the release no longer runs: nothing is started for it then.
        """

    def versions(self, service: str | None = None) -> list[VersionState]: ...
    def scale(self, service: str, number: int, instances: int) -> None:
        """So many instances from now on, and no retirement."""

    def retire(self, service: str, number: int, due_by: float | None = None) -> bool:
        """No instances, unless the version is stable, holds the lease, or is not due by then; whether it was done."""

    def put_instance(self, instance: InstanceState) -> None: ...
    def drop_instance(self, instance_id: str) -> None: ...
    def instances(self, service: str | None = None) -> list[InstanceState]: ...

    # who gets the traffic
    def grant(self, lease: Lease, service: str, now: float) -> None:
        """Desired lease of a service.

        Raises Conflict unless ``lease.release`` is the service's running release and may move that version, and unless
        a baseline is another version than candidate and stable, and the release's own where it has one.
        """

    def leases(self) -> dict[str, Lease]: ...
    def put_observed(self, observed: Observed) -> None: ...
    def observed(self, service: str) -> Observed | None: ...

    def put_in_force(self, in_force: InForce) -> None: ...
    def in_force(self) -> InForce | None:
        """How far the gateway has come; None before an agent ever ran."""

    # groups
    def put_group(self, group: Group, by: str = BY_HAND, now: float | None = None) -> None:
        """New, or changed as a whole. Raises Refused, and NotFound for a member that is no known service."""

    def groups(self) -> list[Group]: ...
    def group(self, name: str) -> Group: ...
    def drop_group(self, name: str, by: str = BY_HAND, now: float | None = None) -> None:
        """Raises NotFound."""

    def set_weight(
        self, group: str, service: str, weight: int | None, by: str = BY_HAND, now: float | None = None
    ) -> Group:
        """One member's weight in a custom group. Raises NotFound, Refused."""

    # draining by hand
    def drain(self, instance_id: str, by: str = BY_HAND, now: float | None = None) -> None:
        """No new request to an instance while its process goes on. Raises NotFound."""

    def undrain(self, instance_id: str, by: str = BY_HAND, now: float | None = None) -> None:
        """It gets requests again. Raises NotFound."""

    def drained(self) -> frozenset[str]:
        """Ids of the instances that get no new request."""

    def changes(self, name: str | None = None, limit: int = 100) -> list[Change]:
        """Who got the traffic, newest first: written with each change; a lease that is only renewed leaves none."""

    # releases
    def begin_release(self, release: Release, now: float, stale_s: float) -> Release:
        """Take the service, and note which version is stable at that moment.

        Raises Conflict when another release of the service runs and was heard of within ``stale_s``; one that was not
        is ended as ``finish_release`` does. Where both are held by hand (stage ``BY_HAND``), the new one takes over the
        lease as it is. Raises Refused when a group has the service's name.
        """

    def beat(self, release_id: str, now: float) -> bool:
        """Its process lives; false once the release has ended."""

    def update_release(self, release_id: str, **changes: Any) -> Release:
        """Raises Conflict once it has ended."""

    def promote(self, release_id: str, number: int, retire_at: float, reason: str, now: float) -> Release:
        """The stable name turns to a version, the lease ends, the one before retires then, the release has ended.

        Raises Conflict when the release no longer runs.
        """

    def finish_release(
        self, release_id: str, phase: Phase, reason: str, now: float, evidence: dict[str, Any]
    ) -> Release:
        """Ends a running release and its lease; its baseline loses its instances, and so does its candidate where it
        was rolled back or failed."""

    def ask(self, release_id: str, question: str, key: str) -> Release:
        """A person is to decide; the answer to another question does not stand for this one. Asked again under the same
        ``key`` it changes nothing, not even an answer that was given since. Raises Conflict once the release has
        ended."""

    def withdraw(self, release_id: str) -> dict[str, Any] | None:
        """What was asked is no question any more, and nobody can answer it; what a person had said to it, if anything.
        Raises Conflict once the release has ended."""

    def answer(
        self, release_id: str, yes: bool, who: str, reason: str, number: int, now: float | None = None
    ) -> Release:
        """What a person said to the question with that number, which waits no longer. Raises NotFound, and Conflict
        where that is not asked or the release has ended."""

    def undo_promotion(self, release_id: str, reason: str, now: float) -> Release:
        """The version before is stable again and the release has failed: for a change the gateway did not take."""

    def attach_evidence(self, release_id: str, evidence: dict[str, Any]) -> None: ...
    def release(self, release_id: str) -> Release: ...
    def releases(self, service: str | None = None, limit: int = 50) -> list[Release]: ...
    def unsettled(self) -> list[Release]:
        """All that still act on what runs, however old: those under way, and those that borrowed room in which the
        instances of their candidate or its baseline still are."""

    # what happened
    def note(self, event: Event) -> None: ...
    def events(self, service: str | None = None, release: str | None = None, limit: int = 100) -> list[Event]: ...
    def first_delivery(self, delivery_id: str, now: float) -> bool:
        """True the first time a webhook delivery is seen; false for its repetitions."""

    def forget_delivery(self, delivery_id: str) -> None:
        """It could not be acted on; its repetition is to be taken as the first."""


@dataclass(frozen=True)
class StoreSettings:
    """One SQL database by its SQLAlchemy URL; ``sqlite://`` lives in memory, for tests."""

    url: str
    kind: Literal["sql"] = "sql"


def open_store(settings: StoreSettings) -> Store:
    """The store at ``settings.url``, its tables brought up to date."""
    from store.sql import SqlStore

    return SqlStore(settings)
