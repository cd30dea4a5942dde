"""The clients that users have work through the gateway as they are."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import openai
import pytest
from official_client import OfficialClient
from running_envoy import ALICE, Proxy, Upstream, a_state, until

from gateway.port import GatewayState, GroupRoute, Limits, Member, ServiceRoute, Token, Traffic

ASK = [{"role": "user", "content": "who?"}]
EASY = replace(ALICE, secret="token-with-%-and-[]-of-alice")
LONG = Token("bob", "a-token-of-more-than-one-block-of-sha-1-" + "x" * 60)


@pytest.fixture(scope="module")
def official(cache: Path) -> OfficialClient:
    """The package of the managed service that we match."""
    return OfficialClient.installed(cache / "eas-client")


@pytest.fixture
def signed(proxy: Proxy, v1: Upstream) -> Proxy:
    """A service whose callers may sign."""
    (service,) = a_state(v1, traffic=Traffic(signed=True)).services
    group = GroupRoute("prod", (Token("ops", "token-of-ops"),), (Member("chat", 1),))
    proxy.gateway.apply(GatewayState((replace(service, tokens=(EASY, LONG)),), (group,)))
    return proxy


def talker(proxy: Proxy, token: str = ALICE.secret, retries: int = 0) -> openai.OpenAI:
    """The openai package as users have it."""
    return openai.OpenAI(base_url=f"{proxy.url}/api/predict/chat/v1", api_key=token, max_retries=retries)


def status_of(call: Callable[[], object], kind: type[openai.APIStatusError]) -> int:
    """The status in the exception that ``call`` raises."""
    with pytest.raises(kind) as raised:
        call()
    assert raised.value.request_id
    return raised.value.status_code


def say(client: openai.OpenAI, **more: object) -> str:
    """The words of one answer."""
    answer = client.chat.completions.create(model="m", messages=ASK, extra_body=more)  # type: ignore[arg-type]
    return answer.choices[0].message.content or ""


@pytest.mark.parametrize("token", [EASY, LONG], ids=["short", "long"])
def test_the_services_own_client_sends_text(signed: Proxy, official: OfficialClient, token: Token) -> None:
    """``eas-prediction`` unchanged, by endpoint, service, token: the engine sees ``/``, who calls, and no secret."""
    seen = json.loads(official.predict(signed.url, "chat", token.secret, "[{}]")["answer"])
    assert (seen["path"], seen["bytes"], seen["headers"]["x-client-id"]) == ("/", 4, f"chat/{token.client}")
    assert "authorization" not in seen["headers"]


def test_the_services_own_client_sends_json(signed: Proxy, official: OfficialClient) -> None:
    """A request class with JSON, to a path behind the service's name and to a group."""
    ask = {"model": "m", "messages": ASK}
    completed = json.loads(official.predict(signed.url, "chat/v1/chat/completions", EASY.secret, ask)["answer"])
    assert completed["choices"][0]["message"]["content"] == "It is v1"
    seen = json.loads(official.predict(signed.url, "prod", "token-of-ops", ask)["answer"])
    assert seen["headers"]["x-client-id"] == "prod/ops"


@pytest.mark.parametrize("token", ["wrong-token", "token-of-ops"])
def test_a_signature_of_another_token_is_refused(signed: Proxy, official: OfficialClient, token: str) -> None:
    """A token that is not the door's: 401 as that package's own exception, with our JSON in it."""
    refused = official.predict(signed.url, "chat", token, "{}")
    assert refused["code"] == 401
    assert json.loads(refused["message"])["error"]["type"] == "authentication_error"


def test_a_signature_is_for_what_was_signed(signed: Proxy) -> None:
    """Each of the signed lines counts, and a signature that is none opens nothing."""
    head = {"content-md5": "0" * 32, "content-type": "text/plain", "date": "Mon, 23 Nov 2026 10:00:00 GMT"}
    lines = ["POST", *head.values(), "/api/predict/chat"]
    made = hmac.new(EASY.secret.encode(), "\n".join(lines).encode(), hashlib.sha1).digest()
    good = {**head, "authorization": f"EAS {base64.b64encode(made).decode()}"}
    url = f"{signed.url}/api/predict/chat"
    assert httpx.post(url, headers=good).status_code == 200
    assert httpx.post(f"{url}?x=1", headers=good).status_code == 200
    assert httpx.post(f"{url}/x", headers=good).status_code == 401
    assert httpx.put(url, headers=good).status_code == 401
    for name in head:
        assert httpx.post(url, headers={**good, name: "other"}).status_code == 401
    for text in ("EAS", "EAS x", "EAS x y", "EAS " + "A" * 5000, f"EAS {EASY.secret}", "EAS " + "=" * 28):
        assert httpx.post(url, headers={**head, "authorization": text}).status_code == 401


def test_the_services_own_client_tries_again(signed: Proxy, official: OfficialClient) -> None:
    """Its own retries: an engine's 500 is asked again, as often as it was told."""
    assert json.loads(official.predict(signed.url, "chat/flaky", EASY.secret, "{}")["answer"]) == {"failed": 2}


def test_signing_is_the_services_choice(proxy: Proxy, v1: Upstream, official: OfficialClient) -> None:
    """A service that did not ask for it takes tokens only."""
    proxy.gateway.apply(a_state(v1))
    assert official.predict(proxy.url, "chat", ALICE.secret, "{}")["code"] == 401


def test_openai_answers_whole_and_streamed(proxy: Proxy, v1: Upstream) -> None:
    """The openai package unchanged: chat completions whole, streamed, and with options of one call."""
    proxy.gateway.apply(a_state(v1))
    client = talker(proxy)
    assert say(client) == "It is v1"
    assert say(client.with_options(timeout=20, max_retries=1)) == "It is v1"
    stream = client.chat.completions.create(model="m", messages=ASK, stream=True)
    assert [chunk.choices[0].delta.content for chunk in stream] == ["It", " is", " v1"]
    raw = client.chat.completions.with_raw_response.create(model="m", messages=ASK)
    assert raw.headers["x-roundhouse-version"] == "1"
    assert raw.parse().usage.completion_tokens == 3


def test_openai_reads_refusals_as_its_own_kinds(proxy: Proxy, v1: Upstream) -> None:
    """401, 403, 404, 413, 503 and 504 arrive as the package's own exceptions, with the request's id."""
    state = a_state(v1, response_timeout_s=2)
    other = ServiceRoute("other", (Token("bob", "token-of-bob"),))
    proxy.gateway.apply(GatewayState((*state.services, other)))
    client = talker(proxy)
    assert status_of(lambda: say(talker(proxy, "wrong-token")), openai.AuthenticationError) == 401
    assert status_of(lambda: say(talker(proxy, "token-of-bob")), openai.PermissionDeniedError) == 403
    nowhere = client.with_options(base_url=f"{proxy.url}/api/predict/nobody/v1")
    assert status_of(lambda: say(nowhere), openai.NotFoundError) == 404
    assert status_of(lambda: say(client, filler="x" * (1 << 20)), openai.APIStatusError) == 413
    closed = talker(proxy, "token-of-bob").with_options(base_url=f"{proxy.url}/api/predict/other/v1")
    assert status_of(lambda: say(closed), openai.InternalServerError) == 503
    assert status_of(lambda: say(client, gap=30), openai.InternalServerError) == 504


def test_openai_waits_as_long_as_it_is_told(proxy: Proxy, v1: Upstream) -> None:
    """Beyond a rate: 429 with Retry-After, which the package obeys by itself and then succeeds."""
    proxy.gateway.apply(a_state(v1, traffic=Traffic(limits=Limits(token_requests_per_s=1))))
    impatient = talker(proxy)
    with pytest.raises(openai.RateLimitError) as raised:
        for _ in range(5):
            say(impatient)
    assert int(raised.value.response.headers["retry-after"]) >= 1
    assert say(talker(proxy, retries=3)) == "It is v1"


def test_openai_reads_a_full_queue(proxy: Proxy, v1: Upstream) -> None:
    """More requests at once than the service holds: 450 with Retry-After, and those inside are answered."""
    proxy.gateway.apply(a_state(v1, response_timeout_s=60, traffic=Traffic(limits=Limits(in_flight=1))))
    client = talker(proxy)
    with ThreadPoolExecutor(1) as beside:
        inside = beside.submit(say, client, gate="queue")
        until(lambda: dict(proxy.gateway.in_flight("chat", 1)) == {"chat-v1-0": 1})
        with pytest.raises(openai.APIStatusError) as raised:
            say(client)
        v1.open("queue")
        assert inside.result() == "It is v1"
    assert raised.value.status_code == 450
    assert raised.value.response.headers["retry-after"] == "1"
    assert raised.value.response.json()["error"]["type"] == "queue_full"
