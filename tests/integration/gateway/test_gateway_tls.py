"""TLS on the public port, and what the public port never shows."""

from __future__ import annotations

import shutil
import socket
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from certificates import Issued, issue, put
from cryptography import x509
from running_envoy import ALICE_HEADERS, Proxy, Upstream, a_free_port, a_state, until

from gateway.port import EnvoySettings, Tls
from gateway.tls import refresh
from rollout.errors import Refused

ADMIN_PATHS = (
    "/config_dump", "/stats", "/stats/prometheus", "/clusters", "/server_info", "/certs", "/listeners", "/help",
    "/logging?level=off", "/quitquitquit", "/drain_listeners", "/reopen_logs", "/healthcheck/fail", "/runtime",
)  # fmt: skip


@pytest.fixture
def folder() -> Iterator[Path]:
    """Certificates and the gateway's files; a short path."""
    made = Path(tempfile.mkdtemp(prefix="rh-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def secure(folder: Path) -> Iterator[Proxy]:
    """An Envoy that serves a certificate for "first"."""
    put(folder, issue("first"))
    tls = Tls(str(folder / "cert.pem"), str(folder / "key.pem"))
    running = Proxy(EnvoySettings(directory=str(folder / "gw"), port=a_free_port(), tls=tls)).start()
    yield running
    running.kill()


def shake(proxy: Proxy, **wishes: object) -> ssl.SSLSocket:
    """A TLS connection that takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    for name, value in wishes.items():
        setattr(context, name, value)
    return context.wrap_socket(socket.create_connection(("127.0.0.1", proxy.settings.port), timeout=5))


def shown(connection: ssl.SSLSocket) -> str:
    """Whose certificate a connection was shown."""
    der = connection.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).subject.rfc4514_string().removeprefix("CN=")


def new_one(proxy: Proxy) -> str:
    """Whose certificate a new connection is shown."""
    with shake(proxy) as connection:
        return shown(connection)


def test_a_service_is_called_over_tls(secure: Proxy, v1: Upstream, folder: Path) -> None:
    """A client that trusts the certificate is served; plain HTTP and old protocols are not; HTTP/2 is offered."""
    secure.gateway.apply(a_state(v1))
    context = ssl.create_default_context(cafile=str(folder / "cert.pem"))
    url = f"https://localhost:{secure.settings.port}/api/predict/chat/x"
    assert httpx.get(url, headers=ALICE_HEADERS, verify=context).status_code == 200
    with pytest.raises(httpx.HTTPError):
        httpx.get(url.replace("https", "http"), headers=ALICE_HEADERS)
    with shake(secure) as connection:
        assert connection.selected_alpn_protocol() == "h2" and connection.version() == "TLSv1.3"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        shake(secure, minimum_version=ssl.TLSVersion.TLSv1, maximum_version=ssl.TLSVersion.TLSv1_1)


def test_a_new_certificate_is_taken_over_without_a_restart(secure: Proxy, v1: Upstream, folder: Path) -> None:
    """New connections see the new one, open ones go on; one that cannot serve changes nothing."""
    secure.gateway.apply(a_state(v1))
    url = f"https://localhost:{secure.settings.port}/api/predict/chat/x"
    with httpx.Client(headers=ALICE_HEADERS, verify=False) as client:
        assert client.get(url).status_code == 200
        put(folder, issue("second"))
        assert refresh(secure.settings)
        until(lambda: new_one(secure) == "second")
        (folder / "key.pem").write_bytes(issue("stranger").key_pem())
        assert not refresh(secure.settings)
        assert client.get(url).status_code == 200
    assert new_one(secure) == "second"


def test_a_bad_pair_is_refused_before_the_start(folder: Path) -> None:
    """Envoy is not started with a certificate that nobody would accept."""
    made: Issued = issue("old", days=-1)
    put(folder, made)
    tls = Tls(str(folder / "cert.pem"), str(folder / "key.pem"))
    with pytest.raises(Refused, match=r"tls\.certificate"):
        Proxy(EnvoySettings(directory=str(folder / "gw"), port=a_free_port(), tls=tls)).start()


def test_the_admin_interface_is_not_reachable_from_the_data_side(proxy: Proxy, v1: Upstream) -> None:
    """No path of it answers on the public port, with or without a token, and nothing is changed by asking."""
    proxy.gateway.apply(a_state(v1))
    for path in ADMIN_PATHS:
        for method in ("GET", "POST"):
            for headers in ({}, ALICE_HEADERS, {"Host": "admin"}):
                answer = httpx.request(method, proxy.url + path, headers=headers)
                assert answer.status_code in (401, 403, 404), (method, path)
                assert "roundhouse.admin" not in answer.text and "envoy_" not in answer.text
    assert httpx.get(f"{proxy.url}/api/predict/chat/x", headers=ALICE_HEADERS).status_code == 200


@pytest.mark.parametrize("kept", ["plain", "secure"])
def test_envoy_opens_its_own_port_only(kept: str, request: pytest.FixtureRequest, v1: Upstream) -> None:
    """The gateway's port is the only one, on TCP and UDP; the admin socket is the owner's alone."""
    proxy: Proxy = request.getfixturevalue("proxy" if kept == "plain" else "secure")
    proxy.gateway.apply(a_state(v1))
    assert proxy.process is not None
    open_here = psutil.Process(proxy.process.pid).net_connections("inet")
    assert {c.laddr.port for c in open_here if c.status == psutil.CONN_LISTEN} == {proxy.settings.port}
    assert not [c for c in open_here if c.type == socket.SOCK_DGRAM]
    socket_file = Path(proxy.settings.directory) / "run" / "admin-a.sock"
    assert socket_file.stat().st_mode & 0o777 == 0o600
