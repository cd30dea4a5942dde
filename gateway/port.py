"""The gateway's interface: what a split, its endpoints and its tokens must be, and four verbs.

``Gateway.apply`` makes one whole desired state so and returns when the proxy has confirmed it; ``read`` says what the
proxy has in force; ``records`` reads what requests did. No vendor is imported here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

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
    """A key that opens a service. ``secret`` never appears in a repr, a log or a record."""

    client: str
    secret: str = field(repr=False)


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


@dataclass(frozen=True)
class GatewayState:
    """The whole desired state, one value: applied or refused as a whole."""

    services: tuple[ServiceRoute, ...] = ()


@dataclass(frozen=True)
class Applied:
    """A confirmed change. ``structural`` says whether it needed more than numbers."""

    revision: str
    structural: bool
    seconds: float


@dataclass(frozen=True)
class Record:
    """One request, live or mirrored, as the proxy saw it. Durations in seconds; None where it did not get so far."""

    at: float
    request_id: str
    kind: Literal["live", "mirror"]
    service: str
    version: int | None
    instance: str | None
    client: str | None
    method: str
    path: str
    status: int
    flags: str
    details: str
    ttft_s: float | None
    total_s: float | None
    bytes_in: int
    bytes_out: int
    tokens_in: int | None
    tokens_out: int | None
    arm: int | None = None  # the version that the split chose; ``version`` is another one after a failover
    attempts: int = 1  # more than 1 after retries; 0 where no instance was asked
    streamed: bool = True  # the answer was an event stream


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
        """The last state that was applied and confirmed, also by an earlier process; None before the first."""

    def records(self, cursor: Cursor) -> tuple[list[Record], Cursor]:
        """Records written since ``cursor``."""

    def in_flight(self, service: str, version: int) -> Iterator[tuple[str, int]]:
        """(instance, open requests) of a version, for draining."""


@dataclass(frozen=True)
class EnvoySettings:
    """Where Envoy's files live and where it listens. The admin interface is a unix socket in ``directory``/run."""

    directory: str
    host: str = "127.0.0.1"
    port: int = 8800
    confirm_timeout_s: float = 5.0
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
