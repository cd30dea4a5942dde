"""``roundhouse traffic set | pin | mirror | drain``: moving traffic by hand.

A share, a pin and a mirror are a lease that this process renews: when it ends, however it ends, Envoy ends them.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import typer

from cli.screen import out, say, show_json
from configs.fields import permille
from configs.stack import load_stack
from gateway.port import Gateway, open_gateway
from gateway.tokens import TokenFile
from rollout.errors import Conflict, NotFound, Refused
from rollout.nouns import Health, Lease, Mirror, Phase, Shift
from store.port import BY_HAND, InstanceState, Release, Store, open_store
from store.steer import STALE_S, confirm, confirm_all, grant, version_noun

LEASE_S = 6.0
RENEW_S = 2.0
LONGEST_S = 86_400.0
STILL_OPEN = 5

Service = Annotated[str, typer.Argument(help="A service that was released, for example chat.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
Version = Annotated[int, typer.Option("--version", help="The version; 0: the one that runs beside stable.")]
Duration = Annotated[float, typer.Option("--for", help="Seconds; it ends then, or at Ctrl-C.")]


@dataclass(frozen=True)
class Held:
    """What is held by hand for a candidate, and how to say it."""

    candidate: int
    step: Shift
    what: str
    baseline: int | None = None
    mirrors: tuple[Mirror, ...] = ()


def set_share(
    service: Service,
    percent: Annotated[float, typer.Argument(help="Share of live requests, in steps of 0.1 %.")],
    version: Version = 0,
    baseline: Annotated[int, typer.Option(help="A version like stable that gets the same share, to compare.")] = 0,
    duration: Duration = 60.0,
    as_json: Json = False,
) -> None:
    """Give a version a share of the live requests, as long as this command runs.

    Example: `roundhouse traffic set chat 5 --version 3 --for 60`
    """
    store, share = open_store(load_stack().store()), permille("PERCENT", percent)
    number = running_version(store, service, version)
    held = Held(number, Shift(share, 0), f"{share / 10:g} % live on version {number}", baseline or None)
    if baseline:
        running_version(store, service, baseline, "--baseline")
    _hold_and_tell(store, service, held, duration, as_json)


def pin(service: Service, version: Version = 0, duration: Duration = 600.0, as_json: Json = False) -> None:
    """Let requests name a version that gets no share: those whose token may pin reach it by a header.

    Example: `roundhouse traffic pin chat --version 3 --for 600`
    """
    stack = load_stack()
    store = open_store(stack.store())
    number = running_version(store, service, version)
    say(pin_line(f"{stack.gateway_url}/api/predict/{service}", number))
    if not any(token.may_pin for token in TokenFile(stack.secrets / "tokens.json").of(service)):
        say(f"no token of {service} may pin yet; make one: `roundhouse token create {service} --client NAME --may-pin`")
    held = Held(number, Shift(0, 0), f"version {number} can be named in a header, and gets no share")
    _hold_and_tell(store, service, held, duration, as_json)


def mirror(
    service: Service,
    percent: Annotated[float, typer.Argument(help="Share of live requests to copy, in steps of 0.1 %.")],
    version: Annotated[list[int] | None, typer.Option("--version", help="Gets copies; may be given again.")] = None,
    to: Annotated[
        list[str] | None, typer.Option("--to", help="Another service whose stable version gets copies.")
    ] = None,
    duration: Duration = 60.0,
    as_json: Json = False,
) -> None:
    """Copy live requests to versions or to other services; nobody sees their answers.

    Example: `roundhouse traffic mirror chat 10 --version 3 --for 60` or `... --to chat-next`
    """
    store = open_store(load_stack().store())
    held = mirrored(store, service, permille("PERCENT", percent), version or [], to or [])
    _hold_and_tell(store, service, held, duration, as_json)


def drain(
    instance: Annotated[
        str, typer.Argument(help="An instance, for example chat-v1-0; `roundhouse status` lists them.")
    ],
    back: Annotated[bool, typer.Option("--back", help="Give it requests again.")] = False,
    grace: Annotated[float, typer.Option(help="Seconds to wait for its open requests.")] = 60.0,
    force: Annotated[bool, typer.Option(help="Also the last one that serves its version.")] = False,
    as_json: Json = False,
) -> None:
    """Give an instance no new request and wait until its open ones have ended. Exit code 5: some have not.

    Example: `roundhouse traffic drain chat-v1-0 --grace 120`, and later `roundhouse traffic drain chat-v1-0 --back`
    """
    if not 0 <= grace <= LONGEST_S:
        raise Refused("--grace", grace, f"it lies between 0 and {LONGEST_S:g} s", "wait for example 60 s")
    stack = load_stack()
    store = open_store(stack.store())
    state = instance_of(store, instance)
    if back:
        store.undrain(instance)
        confirm_all(store, [state.service], f"{instance} with requests again")
        left = 0
    else:
        check_drain(store, state, force)
        store.drain(instance)
        confirm_all(store, [state.service], f"{instance} without new requests")
        gateway = open_gateway(stack.gateway())
        left = wait_drained(lambda: open_requests(gateway, state), grace)
    told = "gets requests again" if back else f"gets no new request; {left or 'none'} of its requests still open"
    if as_json:
        show_json({"instance": instance, "draining": not back, "open": left})
    else:
        out.print(f"{instance} {told}")
    raise typer.Exit(STILL_OPEN if left else 0)


def pin_line(url: str, version: int) -> str:
    """How to call a version by name; the token is the reader's own."""
    return f'curl {url}/v1/models -H "Authorization: Bearer $TOKEN" -H "x-roundhouse-version: {version}"'


def running_version(store: Store, service: str, version: int, option: str = "--version") -> int:
    """The version asked for, or with 0 the newest that runs beside stable. Raises Refused, NotFound."""
    stable = store.service(service).stable
    target = version_noun(store, service, version or _beside_stable(store, service, stable))
    if target.number == stable or not target.ready:
        rule = "the version must be another than stable and have a ready instance"
        raise Refused(option, target.number, rule, f"start one with `roundhouse deploy {service} ...`")
    return target.number


def mirrored(store: Store, service: str, share: int, versions: list[int], others: list[str]) -> Held:
    """Copies for each version and each other service. The first version is the lease's candidate.

    Raises Refused, NotFound.
    """
    if len({*versions, *others}) < len(versions) + len(others):
        raise Refused("--version, --to", [*versions, *others], "one of them occurs twice", "name each once")
    for other in others:
        if other == service:
            raise Refused("--to", other, "it is the service that is copied from", "name a version with --version")
        if store.service(other).stable is None:
            raise Refused(
                "--to", other, "it has no version in service", f"release one with `roundhouse release {other}`"
            )
    if not versions and others:
        candidate, own = _any_but_stable(store, service), 0
    else:
        targets = [running_version(store, service, version) for version in versions or [0]]
        candidate, own = targets[0], share
    further = [Mirror(service, version, share) for version in versions[1:]]
    mirrors = (*further, *(Mirror(other, None, share) for other in others))
    named = [f"version {v}" for v in (versions or ([candidate] if own else []))] + others
    return Held(candidate, Shift(0, own), f"{share / 10:g} % copied to {', '.join(named)}", None, mirrors)


def hold(
    store: Store,
    service: str,
    held: Held,
    duration: float,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Hold it for ``duration`` seconds or until Ctrl-C; why it ended.

    What another command holds by hand is taken over. Raises Refused, Conflict, Unavailable.
    """
    if not 0 < duration <= LONGEST_S:
        raise Refused("--for", duration, f"it lies between 0 and {LONGEST_S:g} s", "hold it shorter, or release it")
    model, until = version_noun(store, service, held.candidate).model_uri, clock() + duration
    hand = Release(f"hand-{uuid.uuid4().hex[:8]}", service, model, Phase.PENDING, stage=BY_HAND)
    store.begin_release(hand, clock(), STALE_S)
    reason = "the time asked for has passed"
    try:
        lease = _renew(store, hand, held, until, clock())
        confirm(store, service, lambda o: o.lease == lease, held.what)
        say(f"{service}: {held.what}, for {duration:g} s; Ctrl-C ends it")
        while (left := until - clock()) > 0:
            sleep(min(RENEW_S, left))
            _renew(store, hand, held, until, clock())
    except KeyboardInterrupt:
        reason = "ended by hand"
    except Conflict:
        if store.release(hand.id).phase.active:
            raise
        reason = store.release(hand.id).reason  # somebody else ended it
    finally:
        store.finish_release(hand.id, Phase.DEPLOYED, f"{held.what}: {reason}", clock(), {})
    if not _goes_on(store, service):
        confirm(store, service, lambda o: o.lease is None, "all traffic on stable")
    return reason


def open_requests(gateway: Gateway, instance: InstanceState) -> int:
    """Requests that an instance still answers. Raises Unavailable."""
    return sum(n for i, n in gateway.in_flight(instance.service, instance.version) if i == instance.id)


def wait_drained(busy: Callable[[], int], grace_s: float, sleep: Callable[[float], None] = time.sleep) -> int:
    """Wait until nothing is ``busy`` any more, ``grace_s`` at most; how many are left."""
    until = time.monotonic() + grace_s
    while (left := busy()) and time.monotonic() < until:
        sleep(0.1)
    return left


def instance_of(store: Store, name: str) -> InstanceState:
    """The instance of that name. Raises NotFound."""
    known = {i.id: i for i in store.instances()}
    if name not in known:
        raise NotFound(f"there is no instance {name!r}; there are: {', '.join(known) or 'none'}")
    return known[name]


def check_drain(store: Store, instance: InstanceState, force: bool) -> None:
    """Raises Refused when nobody would be left to serve the version that users depend on."""
    drained, stable = store.drained(), store.service(instance.service).stable
    others = [
        i.id
        for i in store.instances(instance.service)
        if i.version == instance.version and i.health is Health.READY and i.id not in {*drained, instance.id}
    ]
    if instance.version == stable and not others and not force:
        rule = f"it is the only ready instance of version {stable}, which is in service"
        raise Refused("INSTANCE", instance.id, rule, "start another one first, or insist with --force")


def _hold_and_tell(store: Store, service: str, held: Held, duration: float, as_json: bool) -> None:
    reason = hold(store, service, held, duration)
    if as_json:
        show_json({"service": service, "version": held.candidate, "seconds": duration, "ended": reason})
    else:
        where = "what it held goes on" if _goes_on(store, service) else f"all traffic of {service} is on stable"
        out.print(f"{where}: {reason}", markup=False)


def _goes_on(store: Store, service: str) -> bool:
    """Whether another command or release holds a share now that this one has ended."""
    return service in store.leases()


def _renew(store: Store, hand: Release, held: Held, until: float, now: float) -> Lease:
    left = min(LEASE_S, max(until - now, 0.1))
    return grant(store, hand.service, hand.id, held.candidate, held.step, left, now, held.baseline, held.mirrors)


def _beside_stable(store: Store, service: str, stable: int | None) -> int:
    running = [v.number for v in store.versions(service) if v.instances and v.number != stable]
    if not running:
        raise NotFound(f"{service!r} has no other version running; start one with `roundhouse deploy {service} ...`")
    return running[-1]


def _any_but_stable(store: Store, service: str) -> int:
    """A lease is always about some version beside stable; without a share it need not run."""
    stable = store.service(service).stable
    numbers = [v.number for v in store.versions(service) if v.number != stable]
    if stable is None or not numbers:
        rule = "its requests are copied under a lease, which names a version beside the one in service"
        raise Refused("SERVICE", service, rule, f"deploy one with `roundhouse deploy {service} ...`")
    return numbers[-1]
