"""Certificates made on the spot."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Issued:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Any

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def key_pem(self, passphrase: bytes = b"") -> bytes:
        """The key, encrypted where a passphrase is given."""
        encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def issue(name: str, by: Issued | None = None, days: float = 1.0, key: Any = None) -> Issued:
    """A certificate for ``name`` and 127.0.0.1 that held since yesterday, signed by another one or by itself."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name), x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
    )
    signer = by.key if by else key
    plain = signer.__class__.__name__.lower().startswith("ed25519")
    return Issued(builder.sign(signer, None if plain else hashes.SHA256()), key)


def put(folder: Path, issued: Issued, chain: bytes = b"") -> None:
    """Both files, each replaced by a rename, the key first as a careless script would."""
    for name, content in (("key.pem", issued.key_pem()), ("cert.pem", issued.pem + chain)):
        aside = folder / f".{name}"
        aside.write_bytes(content)
        aside.rename(folder / name)
