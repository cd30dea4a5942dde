"""The parts of users' files that say how a service or a group is called, balanced, bounded and recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from configs.load import Config, read_mapping
from configs.stack import project_directory
from gateway.port import CallRecords, Jwt, Limits, Sticky, Traffic
from gateway.redact import check_redact
from gateway.traffic_rules import (
    LONGEST_SLOW_START_S,
    MOST_IN_FLIGHT,
    MOST_PER_S,
    PRIVATE,
    check_sticky,
    check_traffic,
)
from rollout.errors import Refused
from rollout.limits import LARGEST_BODY, SERVICE_NAME
from rollout.nouns import FULL

Rate = Annotated[float, Field(ge=0.01, le=MOST_PER_S)]
InFlight = Annotated[int, Field(ge=1, le=MOST_IN_FLIGHT)]
Balance = Literal["least_request", "round_robin", "random", "session", "prompt"]


class StickyFile(Config):
    """What identifies a session, so that it stays on one version."""

    by: Literal["header", "cookie", "token"]
    name: str = ""  # of the header or cookie

    @model_validator(mode="after")
    def _can_be(self) -> StickyFile:
        _mend(lambda: check_sticky("here", self.as_sticky()))
        return self

    def as_sticky(self) -> Sticky:
        """As the gateway knows it."""
        return Sticky(self.by, self.name)


class LimitsFile(Config):
    """Bounds on load; null: no bound."""

    requests_per_s: Rate | None = None
    token_requests_per_s: Rate | None = None
    in_flight: InFlight = 4096
    mirror_in_flight: InFlight = 16


class JwtFile(Config):
    """JSON web tokens instead of our own keys. ``jwks_file``: the issuer's key set, its path from the project."""

    issuer: Annotated[str, Field(min_length=1)]
    audiences: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    jwks_file: Annotated[str, Field(min_length=1)]

    def as_jwt(self) -> Jwt:
        """With the key set's text. Raises NotFound, Refused."""
        return Jwt(self.issuer, self.audiences, read_key_set(project_directory() / self.jwks_file))


class CallRecordsFile(Config):
    """Bodies of requests and answers, kept for audit."""

    percent: Annotated[float, Field(gt=0, le=100)] = 100.0
    max_body_bytes: Annotated[int, Field(ge=1, le=LARGEST_BODY)] = 65536
    redact: tuple[str, ...] = ()  # names of JSON fields, and /regular expressions/

    @field_validator("redact")
    @classmethod
    def _compiles(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        _mend(lambda: check_redact(value))
        return value


class TrafficFields(Config):
    """What a service's file may say about its traffic. All of it has a default."""

    balance: Balance = "least_request"
    sticky: StickyFile | None = None
    limits: LimitsFile = LimitsFile()
    usage: Literal["engine", "parsed", "none"] | None = None  # who counts tokens; null: as the engine can
    slow_start_s: Annotated[float, Field(ge=0, le=LONGEST_SLOW_START_S)] = 0.0
    websocket: bool = False
    grpc: bool = False
    signed: bool = False  # takes requests signed with a token as well, as the managed service's own clients send them
    jwt: JwtFile | None = None
    call_records: CallRecordsFile | None = None

    @model_validator(mode="after")
    def _go_together(self) -> TrafficFields:
        _mend(lambda: check_traffic("here", self._without_keys()))
        return self

    def as_traffic(self) -> Traffic:
        """As the gateway knows it, with the key set that the file names. Raises NotFound, Refused."""

        return replace(self._without_keys(), jwt=self.jwt.as_jwt() if self.jwt else None)

    def _without_keys(self) -> Traffic:
        return Traffic(
            balance=self.balance,
            sticky=self.sticky.as_sticky() if self.sticky else None,
            limits=Limits(**self.limits.model_dump()),
            usage=self.usage or "parsed",
            slow_start_s=self.slow_start_s,
            websocket=self.websocket,
            grpc=self.grpc,
            signed=self.signed,
            call_records=CallRecords(**self.call_records.model_dump()) if self.call_records else None,
        )


class MemberFile(Config):
    """A service in a group; weights are relative, null: it takes its own direct calls only."""

    service: Annotated[str, Field(pattern=SERVICE_NAME)]
    weight: Annotated[int, Field(ge=0, le=FULL)] | None = None


class GroupFile(Config):
    """``configs/groups/<name>.yaml``: services behind one endpoint."""

    kind: Literal["group"] = "group"
    name: Annotated[str, Field(pattern=SERVICE_NAME)]
    mode: Literal["auto", "custom"] = "auto"  # weights by ready instances, or as written here
    members: Annotated[tuple[MemberFile, ...], Field(min_length=1)]
    sticky: StickyFile | None = None

    @model_validator(mode="after")
    def _make_sense(self) -> GroupFile:
        names, weights = [m.service for m in self.members], [m.weight for m in self.members]
        if len(set(names)) < len(names):
            raise ValueError(f"a service occurs twice among the members {', '.join(names)}; list each once")
        if self.mode == "auto" and any(weight is not None for weight in weights):
            raise ValueError("with mode auto weights follow the ready instances; leave them out, or write mode: custom")
        if self.mode == "custom" and not any(weights):
            raise ValueError("with mode custom at least one member needs a weight above 0; write for example weight: 1")
        return self


def read_key_set(path: Path) -> str:
    """A JSON web key set's text (RFC 7517), compact. Raises NotFound, Refused for what is none or holds secrets."""
    keys = read_mapping(path).get("keys")
    if not isinstance(keys, list) or not keys or not all(isinstance(k, dict) and "kty" in k for k in keys):
        rule = "it must be a JSON web key set (RFC 7517) with at least one key"
        raise Refused("jwt.jwks_file", str(path), rule, "fetch what the issuer publishes at its jwks_uri")
    if any(name in key for key in keys for name in PRIVATE):
        rule = "it holds private keys, and only public ones are needed to check a signature"
        raise Refused("jwt.jwks_file", str(path), rule, "take the public key set")
    return json.dumps({"keys": keys}, separators=(",", ":"), sort_keys=True)


def _mend(check: Callable[[], None]) -> None:
    """A rule of the gateway's as one of the file's, so that it is told with all the others."""
    try:
        check()
    except Refused as error:
        raise ValueError(str(error).removeprefix("here: ")) from None
