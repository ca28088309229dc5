"""Certificates as an operator may have them: a root, one between, and one that signs; of any kind of key and time."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

PEM = serialization.Encoding.PEM
CLAIM_SIGNING = ObjectIdentifier("1.3.6.1.4.1.62558.2.1")
KEYS = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
}


@dataclass(frozen=True)
class Chain:
    """PEM texts: what SIGN_CERT and SIGN_KEY take, and the root that a reader would trust."""

    certificates: str
    key: str
    root: str


def make_chain(
    kind: str = "P-256",
    starts: timedelta = timedelta(days=-1),
    ends: timedelta = timedelta(days=30),
    usages: tuple[ObjectIdentifier, ...] = (CLAIM_SIGNING, ExtendedKeyUsageOID.EMAIL_PROTECTION),
    organisation: str = "Example Films",
) -> Chain:
    """A chain whose first certificate is valid from and until so long from now."""
    root_key, between_key, key = KEYS["P-256"](), KEYS["P-256"](), KEYS[kind]()
    year = timedelta(days=365)
    root = _certificate("Example Root", root_key, "Example Root", root_key, -year, year, ca=True)
    between = _certificate("Example CA", between_key, "Example Root", root_key, -year, year, ca=True)
    leaf = _certificate(organisation, key, "Example CA", between_key, starts, ends, ca=False, usages=usages)
    return Chain(_pem(leaf) + _pem(between), key_pem(key), _pem(root))


def key_pem(key: Any, password: bytes | None = None) -> str:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, encryption).decode()


def self_signed() -> Chain:
    key = KEYS["P-256"]()
    day = timedelta(days=1)
    certificate = _pem(_certificate("Example Films", key, "Example Films", key, -day, day, ca=False))
    return Chain(certificate, key_pem(key), certificate)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(PEM).decode()


def _certificate(
    organisation: str,
    key: Any,
    issuer: str,
    issuer_key: Any,
    starts: timedelta,
    ends: timedelta,
    ca: bool,
    usages: tuple[ObjectIdentifier, ...] = (),
) -> x509.Certificate:
    name, issuer_name = (
        x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, text)]) for text in (organisation, issuer)
    )
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + starts)
        .not_valid_after(now + ends)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(not ca, False, False, False, False, ca, False, False, False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())
