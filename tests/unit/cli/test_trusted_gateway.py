"""A call with TLS goes to the gateway that has our certificate, and to no other."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cli.use_commands import trusted
from configs.stack import Stack, TlsFile
from rollout.errors import Unavailable


def certificate(folder: Path, name: str) -> TlsFile:
    """A certificate that only its own key has signed, for a name that nobody calls."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"{name}.example")])
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    built = x509.CertificateBuilder().subject_name(who).issuer_name(who).public_key(key.public_key()).serial_number(7)
    built = built.not_valid_before(start).not_valid_after(start + datetime.timedelta(days=365 * 100))
    (folder / f"{name}.pem").write_bytes(built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / f"{name}.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
    return TlsFile(certificate=f"{name}.pem", key=f"{name}.key")


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> None:
    """One TLS handshake on loopback. Raises ssl.SSLError when the client does not trust the server."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            accepted, _ = listening.accept()
            try:
                server.wrap_socket(accepted, server_side=True).close()
            except OSError:
                accepted.close()

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            with socket.create_connection(listening.getsockname()) as plain:
                client.wrap_socket(plain, server_hostname="127.0.0.1").close()
        finally:
            thread.join()


def test_only_the_gateways_own_certificate_is_trusted(tmp_path):
    """Its name does not matter, another key does; without TLS there is nothing to trust."""
    own, other = certificate(tmp_path, "own"), certificate(tmp_path, "other")
    stack = Stack(project=tmp_path, home=tmp_path, tls=own)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / own.certificate, tmp_path / own.key)
    shake_hands(trusted(stack), server)
    with pytest.raises(ssl.SSLError):
        shake_hands(trusted(stack.model_copy(update={"tls": other})), server)
    assert trusted(stack.model_copy(update={"tls": None})) is True


def test_a_certificate_that_is_not_there_is_told(tmp_path):
    """By its name, before anything is sent."""
    stack = Stack(project=tmp_path, home=tmp_path, tls=TlsFile(certificate="none.pem", key="none.key"))
    with pytest.raises(Unavailable, match=r"none\.pem"):
        trusted(stack)
