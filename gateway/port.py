"""The gateway's interface: what a split, its endpoints and its tokens must be, and four verbs.

``Gateway.apply`` makes one whole desired state so and returns when the proxy has confirmed it; ``read`` says what the
proxy has in force; ``records`` reads what requests did. No vendor is imported here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from rollout.errors import RoundhouseError
from rollout.nouns import Lease, Split


@dataclass(frozen=True)
class Endpoint:
    """Where one instance listens. A draining one gets no new request and keeps its open ones."""

    instance: str
    host: str
    port: int
    draining: bool = False


@dataclass(frozen=True)
class Backend:
    """The instances of one version of a service."""

    version: int
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True)
class Token:
    """A key that opens one door (a service or a group). ``secret`` never appears in a repr, a log or a record."""

    client: str
    secret: str = field(repr=False)
    may_pin: bool = False  # may name a version in the header ``x-roundhouse-version``
    until: float | None = None  # epoch seconds; from then on it opens nothing (the old one of a rotation)


@dataclass(frozen=True)
class Sticky:
    """What identifies a session, so that it stays on one version: a header, a cookie of the client's, or its token."""

    by: Literal["header", "cookie", "token"]
    name: str = ""  # of the header or cookie


@dataclass(frozen=True)
class Limits:
    """Bounds on load. Rates are requests per second, None for no bound; beyond them 429, beyond ``in_flight`` 450."""

    requests_per_s: float | None = None  # of the whole service, in each gateway process
    token_requests_per_s: float | None = None  # of each token
    in_flight: int = 4096  # requests open at once per version
    mirror_in_flight: int = 16  # copies open at once; more are dropped, the live request never waits


@dataclass(frozen=True)
class Jwt:
    """JSON web tokens instead of our own keys: who signs them, for whom, and the key set as JSON text (RFC 7517)."""

    issuer: str
    audiences: tuple[str, ...]
    jwks: str


@dataclass(frozen=True)
class CallRecords:
    """Bodies of requests and answers, kept for audit."""

    percent: float = 100.0
    max_body_bytes: int = 65536  # of each body; what is longer is cut and marked
    redact: tuple[str, ...] = ()  # JSON field names whose values are never written, and ``/regular expressions/``


@dataclass(frozen=True)
class Traffic:
    """How a service is called, balanced, bounded and recorded."""

    balance: Literal["least_request", "round_robin", "random", "session", "prompt"] = "least_request"
    sticky: Sticky | None = None
    limits: Limits = Limits()
    usage: Literal["engine", "parsed", "none"] = "parsed"  # who counts tokens: a header of the engine's, or the proxy
    slow_start_s: float = 0.0  # a new instance gets its full share after so long
    websocket: bool = False
    grpc: bool = False
    jwt: Jwt | None = None
    call_records: CallRecords | None = None
    signed: bool = False  # callers may sign with their token instead of sending it, as ``eas-prediction`` does


@dataclass(frozen=True)
class ServiceRoute:
    """All that the gateway knows of one service. ``stable`` is None until a first version was promoted (503)."""

    name: str
    tokens: tuple[Token, ...]
    backends: tuple[Backend, ...] = ()
    stable: int | None = None
    lease: Lease | None = None
    response_timeout_s: float = 5.0  # to the first byte, and between bytes
    body_limit_bytes: int = 1 << 20
    traffic: Traffic = Traffic()


@dataclass(frozen=True)
class Member:
    """A service in a group. ``weight`` is relative (0..1000); None: it takes its own direct calls only."""

    service: str
    weight: int | None


@dataclass(frozen=True)
class GroupRoute:
    """Several services behind one endpoint with tokens of its own. Each member's own lease holds for its part."""

    name: str
    tokens: tuple[Token, ...]
    members: tuple[Member, ...]
    sticky: Sticky | None = None


@dataclass(frozen=True)
class GatewayState:
    """The whole desired state, one value: applied or refused as a whole."""

    services: tuple[ServiceRoute, ...] = ()
    groups: tuple[GroupRoute, ...] = ()


@dataclass(frozen=True)
class Applied:
    """A confirmed change. ``structural`` says whether it needed more than numbers."""

    revision: str
    structural: bool
    seconds: float


@dataclass(frozen=True)
class Change:
    """One confirmed change, as the gateway's history keeps it. ``texts`` say what changed, a sentence each."""

    revision: str
    at: float
    structural: bool
    seconds: float
    texts: tuple[str, ...]


class Record(NamedTuple):
    """One request, live or mirrored, as the proxy saw it. Durations in seconds; None where it did not get so far.

    A named tuple: a judge reads a hundred thousand of them a second, and a frozen dataclass takes longer to make.
    """

    at: float
    request_id: str
    kind: Literal["live", "mirror"]
    door: str  # the service or group that was called
    service: str  # who was to answer: the door itself, or the member of a group that the split chose
    route: str  # "stable", "leased", "pinned", "group", "closed"
    arm: int | None  # the version that the split chose; ``version`` is another one after a failover
    version: int | None
    instance: str | None
    client: str | None
    status: int
    flags: str
    attempts: int  # more than 1 after retries; 0 where no instance was asked
    ttft_s: float | None
    total_s: float | None
    bytes_in: int
    bytes_out: int
    tokens_in: int | None
    tokens_out: int | None
    streamed: bool = True  # the answer was an event stream
    canary_permille: int = 0  # the candidate's share when this request was routed
    mirror_permille: int = 0  # of this request's chance of being copied
    grpc_status: int | None = None
    unreadable: bool = False  # the proxy was to count tokens, and the answer is not the JSON that its head says
    tokens_cached: int | None = None  # of ``tokens_in``: what the engine had in its prefix cache


@dataclass(frozen=True)
class Refusal:
    """More of a request that went wrong (status 400 and above, or cut), for people."""

    at: float
    request_id: str
    kind: Literal["live", "mirror"]
    door: str
    client: str | None
    method: str
    path: str
    status: int
    flags: str
    details: str  # Envoy's response code details
    agent: str  # the client's user agent


@dataclass(frozen=True)
class Cursor:
    """Where reading of the records stopped; give it back to read on."""

    file: int = 0  # number of the log file
    offset: int = 0


class GatewayRefused(RoundhouseError):
    """The proxy said no; the old state is in force. ``reason`` is the proxy's own text."""

    exit_code = 7

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the gateway refused the change and keeps the old one: {reason}")


class Gateway(Protocol):
    """The verbs. Implementations: ``envoy.EnvoyGateway``, ``memory.MemoryGateway``."""

    def apply(self, state: GatewayState) -> Applied:
        """Make ``state`` so; return when it is in force. Raises Refused, GatewayRefused, Unavailable, Conflict."""

    def read(self) -> dict[str, Split]:
        """What is in force now, by service. Raises Unavailable."""

    def confirmed(self) -> GatewayState | None:
        """The last state that was applied and confirmed, also by an earlier process; None before the first.

        Without its tokens: nobody needs them back.
        """

    def read_groups(self) -> dict[str, dict[str, int]]:
        """What each member of each group gets now, of 10,000. Raises Unavailable."""

    def history(self, limit: int) -> list[Change]:
        """The last confirmed changes, oldest first; mere renewals of leases are none."""

    def records(self, cursor: Cursor) -> tuple[list[Record], Cursor]:
        """Records written since ``cursor``."""

    def in_flight(self, service: str, version: int) -> Iterator[tuple[str, int]]:
        """(instance, open requests) of a version, for draining."""


@dataclass(frozen=True)
class Tls:
    """Certificate chain and key as PEM files; a change of theirs is taken over without a restart."""

    certificate: str
    key: str


@dataclass(frozen=True)
class Tracing:
    """Where spans go: an OpenTelemetry collector (OTLP over HTTP), and the share of requests that begin a trace."""

    host: str
    port: int = 4318
    percent: float = 1.0


@dataclass(frozen=True)
class EnvoySettings:
    """Where Envoy's files live and where it listens. The admin interface is a unix socket in ``directory``/run."""

    directory: str
    host: str = "127.0.0.1"
    port: int = 8800
    confirm_timeout_s: float = 5.0
    tls: Tls | None = None
    tracing: Tracing | None = None
    kind: Literal["envoy"] = "envoy"


@dataclass(frozen=True)
class MemorySettings:
    """A gateway in this process, for tests: same rules, no traffic."""

    kind: Literal["memory"] = "memory"


GatewaySettings = EnvoySettings | MemorySettings


def open_gateway(settings: GatewaySettings) -> Gateway:
    """The implementation that ``settings`` asks for, by its type; an unknown one fails loudly."""
    match settings:
        case EnvoySettings():
            from gateway.envoy import EnvoyGateway

            return EnvoyGateway(settings)
        case MemorySettings():
            from gateway.memory import MemoryGateway

            return MemoryGateway()
    raise TypeError(f"no gateway for settings of type {type(settings).__name__}")
