"""Certificates are checked before they are served."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from certificates import Issued, issue, put
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from gateway.port import EnvoySettings, Tls
from gateway.tls import SDS, expires, lay_out, refresh, transport_socket
from rollout.errors import Refused


@pytest.fixture
def settings(tmp_path: Path) -> EnvoySettings:
    """A gateway's folder and a good pair."""
    (tmp_path / "gw" / "xds").mkdir(parents=True)
    put(tmp_path, issue("first"))
    return EnvoySettings(str(tmp_path / "gw"), tls=Tls(str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")))


def _another_key(folder: Path) -> None:
    (folder / "key.pem").write_bytes(issue("other").key_pem())


def _expired(folder: Path) -> None:
    put(folder, issue("old", days=-1))


def _encrypted(folder: Path) -> None:
    made = issue("locked")
    put(folder, made)
    (folder / "key.pem").write_bytes(made.key_pem(b"secret"))


def _wrong_order(folder: Path) -> None:
    root = issue("root")
    put(folder, issue("leaf", by=root), chain=issue("stranger").pem + root.pem)


def _no_pem(folder: Path) -> None:
    (folder / "cert.pem").write_bytes(b"hello")


def _no_key(folder: Path) -> None:
    (folder / "key.pem").write_bytes(b"hello")


def _missing(folder: Path) -> None:
    (folder / "key.pem").unlink()


def _small(folder: Path) -> None:
    put(folder, issue("small", key=rsa.generate_private_key(65537, 1024)))


def _ed25519(folder: Path) -> None:
    put(folder, issue("ed", key=ed25519.Ed25519PrivateKey.generate()))


@pytest.mark.parametrize(
    ("spoil", "field", "rule"),
    [
        (_another_key, "tls.key", "not the key of"),
        (_expired, "tls.certificate", "holds only from"),
        (_encrypted, "tls.key", "encrypted"),
        (_wrong_order, "tls.certificate", "is not issued by"),
        (_no_pem, "tls.certificate", "no PEM chain"),
        (_no_key, "tls.key", "no private key"),
        (_missing, "tls.key", "cannot be read"),
        (_small, "tls.key", "2048"),
        (_ed25519, "tls.key", "P-256"),
    ],
)
def test_a_pair_that_cannot_serve_is_refused(
    settings: EnvoySettings, tmp_path: Path, spoil: Callable[[Path], None], field: str, rule: str
) -> None:
    """The error names the file and the rule; what was laid out before stays."""
    lay_out(settings)
    before = (tmp_path / "gw" / "xds" / SDS).read_bytes()
    spoil(tmp_path)
    with pytest.raises(Refused, match=rule) as refused:
        lay_out(settings)
    assert refused.value.field == field and str(tmp_path) in str(refused.value)
    assert (tmp_path / "gw" / "xds" / SDS).read_bytes() == before


def test_a_whole_chain_is_taken(settings: EnvoySettings, tmp_path: Path) -> None:
    """Leaf first, then its issuers; the end that is told is the leaf's."""
    root: Issued = issue("root", days=9)
    leaf = issue("leaf", by=root, days=3)
    put(tmp_path, leaf, chain=root.pem)
    assert lay_out(settings)
    assert expires(settings) == leaf.certificate.not_valid_after_utc


def test_the_key_lies_in_a_private_file(settings: EnvoySettings, tmp_path: Path) -> None:
    """Only the gateway's user can read it."""
    lay_out(settings)
    assert (tmp_path / "gw" / "xds" / SDS).stat().st_mode & 0o777 == 0o600


def test_a_refused_pair_is_logged_once(
    settings: EnvoySettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The agent looks every few seconds; it complains once of each mistake, takes the next good pair, and is quiet."""
    caplog.set_level(logging.INFO, "roundhouse.gateway")
    assert [refresh(settings), refresh(settings)] == [True, False]
    _another_key(tmp_path)
    assert [refresh(settings) for _ in range(3)] == [False] * 3
    put(tmp_path, issue("second"))
    assert [refresh(settings), refresh(settings)] == [True, False]
    _another_key(tmp_path)
    assert not refresh(settings)
    assert [record.levelname for record in caplog.records] == ["INFO", "ERROR", "INFO", "ERROR"]
    assert "PRIVATE KEY" not in caplog.text


def test_without_tls_nothing_is_done(tmp_path: Path) -> None:
    """Plain HTTP has no transport socket and needs no file."""
    plain = EnvoySettings(str(tmp_path))
    assert transport_socket(plain) is None
    assert not lay_out(plain) and not refresh(plain) and expires(plain) is None
    assert list(tmp_path.iterdir()) == []
