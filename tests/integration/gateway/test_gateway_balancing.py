"""Which instance of a version answers. Real Envoy."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace

import pytest
from gateway_doors import Called, a_group, at_ports, calling, token_of
from raw_servers import HEALTHY, read_request, serving
from running_envoy import Proxy

from gateway.port import GatewayState, Sticky, Traffic

BY_SESSION = Traffic(balance="session", sticky=Sticky("header", "x-session-id"))
BY_PROMPT = Traffic(balance="prompt")
SYSTEM = "You are a patient teacher of geometry. " * 8


@dataclass
class Named:
    """An instance that answers with its number, after ``wait`` seconds, and counts."""

    name: str
    wait: float = 0.0
    served: int = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await read_request(reader)
            if request.path == "/health":
                writer.write(HEALTHY)
                continue
            self.served += 1
            await asyncio.sleep(self.wait)
            writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(self.name)}\r\n\r\n{self.name}".encode())


Instances = dict[str, tuple[Named, int]]


@pytest.fixture
def instances() -> Iterator[Instances]:
    """Four instances, with their ports."""
    with ExitStack() as stack:
        made = [Named(name) for name in "abcd"]
        yield {instance.name: (instance, stack.enter_context(serving(instance))) for instance in made}


def state(instances: Instances, names: str, traffic: Traffic) -> GatewayState:
    return GatewayState((at_ports("chat", *(instances[name][1] for name in names), traffic=traffic),))


def asked(chat: Called, headers: dict[str, str] | None = None, **body: object) -> str:
    """Which instance answers."""
    return chat.client.post("v1/chat/completions", json=body, headers=headers).text


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": SYSTEM + text}]


def test_round_robin_takes_turns(proxy: Proxy, instances: Instances) -> None:
    """All instances get alike."""
    proxy.gateway.apply(state(instances, "abcd", Traffic(balance="round_robin")))
    with calling(proxy, "chat") as chat:
        seen = Counter(asked(chat) for _ in range(200))
    assert seen.keys() == set("abcd")
    assert max(seen.values()) - min(seen.values()) <= 8  # each worker of the proxy takes turns on its own


def test_random_spreads(proxy: Proxy, instances: Instances) -> None:
    """All instances get about alike."""
    proxy.gateway.apply(state(instances, "ab", Traffic(balance="random")))
    with calling(proxy, "chat") as chat:
        seen = Counter(asked(chat) for _ in range(300))
    assert abs(seen["a"] - 150) < 44  # five standard deviations


def test_least_request_spares_the_busy(proxy: Proxy, instances: Instances) -> None:
    """An instance that is slow gets fewer requests than its part."""
    instances["a"][0].wait = 0.1
    proxy.gateway.apply(state(instances, "ab", Traffic()))
    with calling(proxy, "chat") as chat, ThreadPoolExecutor(8) as pool:
        seen = Counter(pool.map(lambda _: asked(chat), range(200)))
    assert seen["b"] > 1.5 * seen["a"] > 0


def test_a_session_stays_with_its_instance(proxy: Proxy, instances: Instances) -> None:
    """Each session has one instance; removing one moves no session but its own, and bringing it back restores all."""
    users = [{"x-session-id": f"user-{i}"} for i in range(120)]
    with calling(proxy, "chat") as chat:
        served: list[list[str]] = []
        for names in ("abcd", "abcd", "abd", "abcd"):
            proxy.gateway.apply(state(instances, names, BY_SESSION))
            served.append([asked(chat, user) for user in users])
    before, again, without, after = served
    assert before == again == after
    assert set(before) == set("abcd")
    kept = [(b, w) for b, w in zip(before, without, strict=True) if b != "c"]
    assert sum(b != w for b, w in kept) <= len(kept) * 0.1  # Maglev moves a few
    assert set(without) == set("abd")


def test_a_token_stays_with_its_instance(proxy: Proxy, instances: Instances) -> None:
    """A session that is a token has one instance as well, however the token is sent; tokens spread."""
    tokens = [token_of("chat", f"client-{i}") for i in range(40)]
    by_token = Traffic(balance="session", sticky=Sticky("token"))
    (service,) = state(instances, "abcd", by_token).services
    proxy.gateway.apply(GatewayState((replace(service, tokens=tuple(tokens)),)))
    served = []
    for token in tokens:
        with calling(proxy, "chat", token) as chat:
            seen = {asked(chat, headers) for headers in (None, {"authorization": token.secret}, None, None)}
        assert len(seen) == 1
        served += seen
    assert set(served) == set("abcd")


def test_the_same_beginning_goes_to_the_same_instance(proxy: Proxy, instances: Instances) -> None:
    """Chats and prompts that begin alike share an instance and its cache, different ones spread."""
    proxy.gateway.apply(state(instances, "abcd", BY_PROMPT))
    with calling(proxy, "chat") as chat:
        alike = {
            asked(chat, model="m", messages=[*said("Hello."), {"role": "user", "content": f"{i}"}]) for i in range(20)
        }
        other = [asked(chat, model="m", messages=[{"role": "user", "content": f"question {i}"}]) for i in range(100)]
        same = [asked(chat, model="m", messages=[{"role": "user", "content": f"question {i}"}]) for i in range(100)]
        prompts = {asked(chat, model=f"m{i}", prompt="Once upon a time " * 20 + f"there were {i}") for i in range(20)}
    assert len(alike) == len(prompts) == 1
    assert other == same
    assert min(Counter(other)[name] for name in "abcd") > 5


def test_no_client_chooses_its_instance(proxy: Proxy, instances: Instances) -> None:
    """A hash that a client sends means nothing: not with a body, and not without."""
    proxy.gateway.apply(state(instances, "abcd", BY_PROMPT))
    with calling(proxy, "chat") as chat:
        claims = [{"x-roundhouse-prompt": str(i * 7919)} for i in range(30)]
        with_body = {asked(chat, claim, messages=said("Hello.")) for claim in claims}
        bare = [[chat.client.get("x", headers=claim).text for claim in claims] for _ in range(3)]
    assert len(with_body) == 1
    assert len({tuple(answers) for answers in bare}) == 3, "without a body an instance is drawn for each request"


def test_a_prompt_survives_an_odd_body(proxy: Proxy, instances: Instances) -> None:
    """Bodies that are no JSON, empty, or large are answered as any other."""
    proxy.gateway.apply(state(instances, "ab", BY_PROMPT))
    with calling(proxy, "chat") as chat:
        for body in (b"", b"\0" * 5000, b'"messages"', b"{", b"x" * (1 << 20), bytes(range(256)) * 99):
            assert chat.client.post("x", content=body).status_code == 200


@pytest.mark.parametrize("traffic", [BY_PROMPT, BY_SESSION], ids=["prompt", "session"])
@pytest.mark.parametrize("sticky", [None, Sticky("header", "x-user")], ids=["", "sticky"])
def test_a_member_balances_its_groups_calls_as_its_own(proxy: Proxy, instances, traffic: Traffic, sticky) -> None:
    """What is asked of a group reaches the member's instance that has seen it before."""
    (service,) = state(instances, "abcd", traffic).services
    proxy.gateway.apply(GatewayState((service,), (a_group("prod", {"chat": 1}, sticky=sticky),)))
    served: list[list[str]] = []
    for door in ("prod", "prod", "chat") if not sticky or traffic is BY_PROMPT else ("prod", "prod"):
        with calling(proxy, door) as called:
            told = [{"x-session-id": f"user-{i}", "x-user": f"user-{i}"} for i in range(40)]
            served.append([asked(called, told[i], prompt=f"question {i}") for i in range(40)])
    assert all(seen == served[0] for seen in served)
    assert set(served[0]) == set("abcd")


def test_a_popular_session_does_not_drown_its_instance(proxy: Proxy, instances: Instances) -> None:
    """Many requests of one session at once spill over to others."""
    for instance, _ in instances.values():
        instance.wait = 0.1
    proxy.gateway.apply(state(instances, "abcd", BY_SESSION))
    with calling(proxy, "chat") as chat, ThreadPoolExecutor(16) as pool:
        seen = Counter(pool.map(lambda _: asked(chat, {"x-session-id": "one"}), range(64)))
    assert len(seen) > 1


@pytest.mark.parametrize("balance", ["least_request", "round_robin"])
def test_a_new_instance_starts_slowly(proxy: Proxy, instances: Instances, balance: str) -> None:
    """Within the window a new instance gets clearly less than one that is through it, but something."""
    slow = Traffic(balance=balance, slow_start_s=3)  # type: ignore[arg-type]
    instances["a"][0].wait = instances["b"][0].wait = 0.005
    proxy.gateway.apply(state(instances, "a", slow))
    time.sleep(3.1)
    with calling(proxy, "chat") as chat, ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            begun = time.monotonic()
            proxy.gateway.apply(state(instances, "ab", slow))
            seen = Counter(pool.map(lambda _: asked(chat), range(150)))
            if time.monotonic() - begun < 2:
                break  # its window was open for all of them
            proxy.gateway.apply(state(instances, "a", slow))
        else:
            raise AssertionError("its window passed each time")
    assert 0 < seen["b"] < seen["a"] / 1.5


def test_the_choice_can_be_changed(proxy: Proxy, instances: Instances) -> None:
    """A running service is balanced in another way without a failed request."""
    with calling(proxy, "chat") as chat:
        for traffic in (Traffic(), BY_PROMPT, BY_SESSION, Traffic(balance="random"), Traffic(balance="round_robin")):
            proxy.gateway.apply(state(instances, "abcd", traffic))
            assert {asked(chat, {"x-session-id": f"{i}"}, prompt=f"{i}") for i in range(80)} == set("abcd")
