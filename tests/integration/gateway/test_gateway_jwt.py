"""Web tokens of another issuer instead of our own. Real Envoy."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import httpx
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from gateway_doors import a_service, at_ports, calling, token_of
from raw_servers import Answering, serving
from running_envoy import Proxy, Upstream, a_lease
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from gateway.port import GatewayRefused, GatewayState, Jwt, Limits, Token, Traffic

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
ISSUER = "https://issuer.example"


@dataclass(frozen=True)
class Signer:
    """An issuer's key, RSA or elliptic."""

    name: str
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = field(repr=False)

    def jwk(self) -> dict[str, str]:
        """The public half, as RFC 7517 has it."""
        numbers = self.key.public_key().public_numbers()
        if isinstance(numbers, rsa.RSAPublicNumbers):
            parts = {"kty": "RSA", "alg": "RS256", "n": _whole(numbers.n, 256), "e": _whole(numbers.e, 3)}
        else:
            parts = {
                "kty": "EC",
                "alg": "ES256",
                "crv": "P-256",
                "x": _whole(numbers.x, 32),
                "y": _whole(numbers.y, 32),
            }
        return {**parts, "kid": self.name, "use": "sig"}

    def token(self, **claims: object) -> str:
        """A signed token (RFC 7515); a claim that is None is left out."""
        usual = {"iss": ISSUER, "aud": "chat", "sub": "mary", "exp": int(time.time()) + 300}
        told = {name: value for name, value in {**usual, **claims}.items() if value is not None}
        algorithm = self.jwk()["alg"]
        text = f"{_part({'alg': algorithm, 'typ': 'JWT', 'kid': self.name})}.{_part(told)}"
        return f"{text}.{_base64(self._signature(text.encode()))}"

    def _signature(self, text: bytes) -> bytes:
        if isinstance(self.key, rsa.RSAPrivateKey):
            return self.key.sign(text, padding.PKCS1v15(), hashes.SHA256())
        r, s = decode_dss_signature(self.key.sign(text, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32) + s.to_bytes(32)


RSA = Signer("one", rsa.generate_private_key(65537, 2048))
ELLIPTIC = Signer("two", ec.generate_private_key(ec.SECP256R1()))
STRANGER = Signer("one", rsa.generate_private_key(65537, 2048))


@pytest.fixture
def engine() -> Iterator[tuple[Answering, int]]:
    """A server that keeps what arrives, and its port."""
    answering = Answering(OK)
    with serving(answering) as port:
        yield answering, port


def trusting(*signers: Signer, **traffic: object) -> Traffic:
    """Tokens of these keys are taken."""
    keys = json.dumps({"keys": [signer.jwk() for signer in signers]})
    return Traffic(jwt=Jwt(ISSUER, ("chat", "chat-too"), keys), **traffic)  # type: ignore[arg-type]


def ask(proxy: Proxy, token: str | None, **headers: str) -> httpx.Response:
    held = {"authorization": f"Bearer {token}"} if token is not None else {}
    return httpx.get(f"{proxy.url}/api/predict/chat/x", headers={**held, **headers})


@pytest.mark.parametrize("signer", [RSA, ELLIPTIC], ids=["RS256", "ES256"])
def test_a_good_token_opens_its_service(proxy: Proxy, engine: tuple[Answering, int], signer: Signer) -> None:
    """The engine and the records learn who asks; nobody can feign it, and the token goes no further."""
    answering, port = engine
    proxy.gateway.apply(GatewayState((at_ports("chat", port, traffic=trusting(RSA, ELLIPTIC)),)))
    for audience in ("chat", ["other", "chat-too"]):
        token = signer.token(aud=audience)
        assert ask(proxy, token, **{"x-client-id": "root"}).status_code == 200
    arrived = answering.arrived
    assert {request.headers["x-client-id"] for request in arrived} == {"chat/mary"}
    assert all("authorization" not in request.headers for request in arrived)
    assert not any(token in str(request.headers) for request in arrived)


BAD = {
    "expired": (lambda: RSA.token(exp=int(time.time()) - 120), 401),
    "not yet": (lambda: RSA.token(nbf=int(time.time()) + 600), 401),
    "other issuer": (lambda: RSA.token(iss="https://elsewhere.example"), 401),
    "other audience": (lambda: RSA.token(aud="billing"), 403),
    "no audience": (lambda: RSA.token(aud=None), 403),
    "other key": (lambda: STRANGER.token(), 401),
    "unsigned": (lambda: f"{_part({'alg': 'none'})}.{_part({'iss': ISSUER, 'aud': 'chat', 'sub': 'mary'})}.", 401),
    "cut": (lambda: RSA.token()[:-20], 401),
    "none": (lambda: None, 401),
    "our own": (lambda: token_of("chat").secret, 401),
}


def test_bad_tokens_open_nothing(proxy: Proxy, engine: tuple[Answering, int]) -> None:
    """Whatever is wrong with a token: 401, or 403 for another's audience, as JSON, and nothing reaches the engine."""
    answering, port = engine
    proxy.gateway.apply(GatewayState((at_ports("chat", port, traffic=trusting(RSA)),)))
    for what, (token, status) in BAD.items():
        refused = ask(proxy, token())
        assert (refused.status_code, refused.json()["error"]["code"]) == (status, status), what
        assert refused.json()["error"]["request_id"] == refused.headers["x-request-id"]
        assert len(refused.headers.get_list("www-authenticate")) == 1
    raw = httpx.get(f"{proxy.url}/api/predict/chat/x", headers={"authorization": token_of("chat").secret})
    assert raw.status_code == 401
    assert answering.arrived == []


def test_a_header_without_a_token_names_no_client(proxy: Proxy, engine: tuple[Answering, int]) -> None:
    """A token that names nobody does not let a client name himself."""
    answering, port = engine
    proxy.gateway.apply(GatewayState((at_ports("chat", port, traffic=trusting(RSA)),)))
    assert ask(proxy, RSA.token(sub=None), **{"x-client-id": "chat/root"}).status_code == 200
    assert answering.arrived[0].headers["x-client-id"] == "chat/"


def test_the_other_services_are_as_before(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """Web tokens open the one service, our own the other, and neither the other's."""
    chat = a_service("chat", v1, traffic=trusting(RSA))
    proxy.gateway.apply(GatewayState((chat, a_service("other", v2))))
    other = f"{proxy.url}/api/predict/other/x"
    assert ask(proxy, RSA.token()).status_code == 200
    assert httpx.get(other, headers={"authorization": f"Bearer {RSA.token()}"}).status_code == 401
    assert httpx.get(other, headers={"authorization": token_of("other").secret}).status_code == 200
    assert ask(proxy, token_of("other").secret).status_code == 401


def test_a_feigned_client_of_another_door_opens_nothing(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """A web token whose subject looks like a client of another service is nobody there."""
    chat = a_service("chat", v1, traffic=trusting(RSA))
    proxy.gateway.apply(GatewayState((chat, a_service("other", v2))))
    token = RSA.token(sub="other/alice")
    assert ask(proxy, token).status_code == 200
    answer = httpx.get(f"{proxy.url}/api/predict/other/x", headers={"authorization": f"Bearer {token}"})
    assert answer.status_code == 401


def test_swapped_keys_act_on_open_connections(proxy: Proxy, v1: Upstream) -> None:
    """A key taken out of the set opens nothing from then on, a new one does, while a client stays connected."""
    headers = {signer.name: {"authorization": f"Bearer {signer.token()}"} for signer in (RSA, ELLIPTIC)}
    with calling(proxy, "chat") as chat:
        for trusted in (RSA, ELLIPTIC, RSA):
            proxy.gateway.apply(GatewayState((a_service("chat", v1, traffic=trusting(trusted)),)))
            for name, held in headers.items():
                assert chat.client.get("x", headers=held).status_code == (200 if name == trusted.name else 401)
        proxy.gateway.apply(GatewayState((a_service("chat", v1),)))
        assert chat.client.get("x", headers=headers["one"]).status_code == 401
        assert chat.client.get("x").status_code == 200


FORGED = "x\n1795371648.094\tL\t14a873ba-9b77-420a-a0df-30ebe23d7f89\tchat/stable\tchat@v1\tv1.chat-0\t500\t-"
SUBJECTS = {
    "mary": "mary",
    "auth0|507f1f": "auth0|507f1f",
    "a/b": "a/b",
    "other/alice": "other/alice",
    "mary smith": "mary%20smith",
    "tab\there": "tab%09here",
    "line\r\nx-client-id: root": "line%0D%0Ax-client-id:%20root",
    FORGED: FORGED.replace("\n", "%0A").replace("\t", "%09"),
    "nul\0": "nul%00",
    "müller": "m%C3%BCller",
    "50%": "50%25",
    "x" * 3000: None,  # longer than a record takes
    "": None,
}


def test_odd_subjects_break_nothing(proxy: Proxy, engine: tuple[Answering, int]) -> None:
    """Whatever an issuer calls its users, their requests are answered, and each leaves one record that names them."""
    answering, port = engine
    proxy.gateway.apply(GatewayState((at_ports("chat", port, traffic=trusting(RSA)),)))
    answers = [ask(proxy, RSA.token(sub=subject)) for subject in SUBJECTS]
    assert {answer.status_code for answer in answers} == {200}
    assert answering.arrived[2].headers["x-client-id"] == "chat/a/b"
    records = {r.request_id: r for r in proxy.records(len(SUBJECTS))}
    assert [records[answer.headers["x-request-id"]].client for answer in answers] == list(SUBJECTS.values())
    assert proxy.layout.records.read_bytes().count(b"\n") == len(SUBJECTS)
    assert ask(proxy, RSA.token(sub=17)).status_code == 401


@pytest.mark.parametrize("key", [{"kty": "RSA"}, {"kty": "none"}, {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}])
def test_a_broken_key_set_is_refused(proxy: Proxy, v1: Upstream, key: dict[str, str]) -> None:
    """Keys that only the binary knows to be wrong are refused with its reason, and the old ones stay."""
    proxy.gateway.apply(GatewayState((a_service("chat", v1, traffic=trusting(RSA)),)))
    broken = Traffic(jwt=Jwt(ISSUER, ("chat",), json.dumps({"keys": [key]})))
    with pytest.raises(GatewayRefused, match="jwks"):
        proxy.gateway.apply(GatewayState((a_service("chat", v1, traffic=broken),)))
    assert ask(proxy, RSA.token()).status_code == 200


def test_a_websocket_takes_web_tokens(proxy: Proxy, v1: Upstream) -> None:
    """Where a service asks for them, an upgrade needs one as well."""
    proxy.gateway.apply(GatewayState((a_service("chat", v1, traffic=trusting(RSA, websocket=True)),)))
    address = f"{proxy.url}/api/predict/chat/socket".replace("http:", "ws:")
    with connect(address, additional_headers={"authorization": f"Bearer {RSA.token()}"}, proxy=None) as socket:
        assert socket.recv() == "v1"
    with pytest.raises(InvalidStatus, match="401"):
        connect(address, additional_headers={"authorization": f"Bearer {RSA.token(exp=5)}"}, proxy=None)
    assert {(r.status, r.client) for r in proxy.records(2)} == {(101, "mary"), (401, None)}


def test_each_subject_has_a_rate_of_its_own(proxy: Proxy, v1: Upstream) -> None:
    """The limit per token counts web tokens by their subject, however many it has."""
    service = a_service("chat", v1, traffic=trusting(RSA, limits=Limits(token_requests_per_s=0.1)))
    proxy.gateway.apply(GatewayState((service,)))
    for subject in ("mary", "john", None):
        seen = [ask(proxy, RSA.token(sub=subject, jti=str(i))).status_code for i in range(3)]
        assert seen == [200, 429, 429]


def test_web_tokens_may_not_pin(proxy: Proxy, v1: Upstream, v2: Upstream) -> None:
    """No web token bears that right, although one of our own would have it."""
    pinner: Token = token_of("chat", "tester", may_pin=True)
    service = replace(a_service("chat", v1, v2, traffic=trusting(RSA), tokens=(pinner,)), lease=a_lease())
    proxy.gateway.apply(GatewayState((service,)))
    answer = ask(proxy, RSA.token(sub="chat/tester"), **{"x-roundhouse-version": "2"})
    assert (answer.status_code, answer.headers["x-roundhouse-version"]) == (200, "1")


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _whole(number: int, size: int) -> str:
    return _base64(number.to_bytes(size))


def _part(told: dict[str, object]) -> str:
    return _base64(json.dumps(told).encode())
