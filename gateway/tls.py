"""The gateway's certificate: checked before use, handed to Envoy in a file that it follows.

The file is a discovery response with one secret
(https://www.envoyproxy.io/docs/envoy/latest/configuration/security/secret). Certificate and key lie in it together, so
one rename swaps both; open connections keep the old certificate.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gateway import files
from gateway.clusters import T, path_source
from gateway.port import EnvoySettings, Tls
from rollout.errors import Refused

Doc = dict[str, Any]
SDS, SECRET = "sds-server.json", "server"
_SMALLEST_RSA = 2048  # bits; Envoy refuses less
_CURVES = ("secp256r1", "secp384r1", "secp521r1")  # those that Envoy serves
_AGAIN = "write a whole PEM file anew, then rename it into place"
log = logging.getLogger("roundhouse.gateway")
_told: dict[str, str] = {}  # by folder of a gateway: what was wrong at the last look


def transport_socket(settings: EnvoySettings) -> Doc | None:
    """TLS for the public listener: 1.2 or newer, HTTP/2 where the client can. None where none is asked for."""
    if settings.tls is None:
        return None
    secret = {"name": SECRET, "sds_config": path_source(str(_file(settings)))}
    common = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_certificate_sds_secret_configs": [secret],
    }
    kind = T + "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
    typed = {"@type": kind, "common_tls_context": common}
    return {"name": "envoy.transport_sockets.tls", "typed_config": typed}


def lay_out(settings: EnvoySettings) -> bool:
    """Hand the pair on the disk to Envoy; whether it is another than before. Raises Refused for one that cannot serve.

    Without TLS nothing is done.
    """
    if settings.tls is None:
        return False
    certificate, key = _read("tls.certificate", settings.tls.certificate), _read("tls.key", settings.tls.key)
    secret = files.as_json(_secret(certificate, key))
    if files.read(_file(settings)) == secret:
        return False
    check(settings.tls, certificate, key, datetime.now(UTC))
    files.put(_file(settings), secret)
    return True


def refresh(settings: EnvoySettings) -> bool:
    """Take over a pair that has changed on the disk; whether one was. Ask every few seconds.

    One that cannot serve is logged, once, and the old pair stays in force.
    """
    try:
        taken, wrong = lay_out(settings), ""
    except Refused as refused:
        taken, wrong = False, str(refused)
    if wrong and _told.get(settings.directory) != wrong:
        log.error("the gateway keeps its old certificate: %s", wrong)
    if taken:
        log.info("the gateway serves a new certificate")
    _told[settings.directory] = wrong
    return taken


def expires(settings: EnvoySettings) -> datetime | None:
    """When the certificate that is in force ends; None without TLS."""
    held = files.parsed(files.read(_file(settings))) if settings.tls else None
    if held is None:
        return None
    chain = held["resources"][0]["tls_certificate"]["certificate_chain"]["inline_bytes"]
    return x509.load_pem_x509_certificates(base64.b64decode(chain))[0].not_valid_after_utc


def check(tls: Tls, certificate: bytes, key: bytes, now: datetime) -> None:
    """Raises Refused, naming the file, unless the PEM texts are a chain that holds now, in order, and its key."""
    chain, private = _chain(tls, certificate), _private(tls, key)
    leaf = chain[0]
    if leaf.public_key() != private.public_key():
        raise Refused("tls.key", tls.key, f"it is not the key of {tls.certificate}", "give the key of this certificate")
    for each in chain:
        if not each.not_valid_before_utc <= now < each.not_valid_after_utc:
            span = f"{each.not_valid_before_utc:%Y-%m-%d %H:%M} to {each.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
            who = each.subject.rfc4514_string() or "a certificate without a name"
            raise Refused("tls.certificate", tls.certificate, f"{who} holds only from {span}", "renew it")
    for issued, issuer in pairwise(chain):
        _require_issued(tls, issued, issuer)


def _chain(tls: Tls, certificate: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(certificate)
    except ValueError as error:
        raise Refused("tls.certificate", tls.certificate, f"it is no PEM chain: {error}", _AGAIN) from None


def _private(tls: Tls, key: bytes) -> Any:
    try:
        private = load_pem_private_key(key, password=None)
    except TypeError:
        raise Refused("tls.key", tls.key, "it is encrypted", "give it without a passphrase, mode 0600") from None
    except (ValueError, UnsupportedAlgorithm):  # their texts may show parts of the key
        raise Refused("tls.key", tls.key, "it is no private key in PEM form", _AGAIN) from None
    if isinstance(private, rsa.RSAPrivateKey) and private.key_size >= _SMALLEST_RSA:
        return private
    if isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name in _CURVES:
        return private
    rule = f"Envoy serves RSA keys of {_SMALLEST_RSA} bits or more and ECDSA keys on P-256, P-384 or P-521"
    raise Refused("tls.key", tls.key, rule, "make a P-256 key and a certificate for it")


def _require_issued(tls: Tls, issued: x509.Certificate, issuer: x509.Certificate) -> None:
    try:
        issued.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        names = f"{issued.subject.rfc4514_string()} is not issued by {issuer.subject.rfc4514_string()}, which follows"
        fix = "put the server's certificate first, then each one's issuer"
        raise Refused("tls.certificate", tls.certificate, names, fix) from None


def _read(field: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise Refused(field, path, f"it cannot be read: {error.strerror}", "name a PEM file that we may read") from None


def _secret(certificate: bytes, key: bytes) -> Doc:
    pair = {"certificate_chain": _inline(certificate), "private_key": _inline(key)}
    kind = T + "envoy.extensions.transport_sockets.tls.v3.Secret"
    revision = hashlib.sha256(certificate).hexdigest()[:12]
    return {"version_info": revision, "resources": [{"@type": kind, "name": SECRET, "tls_certificate": pair}]}


def _inline(content: bytes) -> Doc:
    return {"inline_bytes": base64.b64encode(content).decode()}


def _file(settings: EnvoySettings) -> Path:
    return Path(settings.directory).absolute() / "xds" / SDS
