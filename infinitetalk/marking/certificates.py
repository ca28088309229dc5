"""Who signs a video: the operator's certificate and key, or a chain that the worker makes for itself.

The library that signs looks at what a certificate is for (C2PA's certificate profile). What is looked at here is
whether the parts can be read, belong together and are valid today.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from infinitetalk.contract.settings import Settings, SettingsError

CLAIM_SIGNING = ObjectIdentifier("1.3.6.1.4.1.62558.2.1")  # c2pa-kp-claimSigning
_OWN_NAME = "InfiniteTalk worker"
_OWN_DAYS = 3650  # without a time stamp a reader asks whether the certificate is valid when it reads
_LEAST_RSA_BITS = 2048
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
_KEY_KINDS = "a P-256, P-384, P-521, Ed25519 or RSA key of 2048 bits or more"
_USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


@dataclass(frozen=True)
class Identity:
    """A certificate and its key.

    Args:
        chain_pem: the signing certificate, then the one that issued it, and so on.
        key_pem: the key in PKCS #8, not encrypted.
        algorithm: how it signs, by C2PA's name, such as es256.
        name: the organisation that the certificate names, or else its common name.
        valid_until: when the first certificate of the chain ends.
        is_own: whether the worker has made it for itself, so that nobody else vouches for it.
    """

    chain_pem: bytes
    key_pem: bytes = field(repr=False)
    algorithm: str
    name: str
    valid_until: datetime
    is_own: bool

    @property
    def is_expired(self) -> bool:
        return datetime.now(UTC) >= self.valid_until


def identity_of(settings: Settings) -> Identity:
    """The operator's certificate and key, or a new chain where there are none.

    Raises SettingsError: one of them cannot be read, does not fit the other or is not valid today.
    """
    if settings.sign_cert is None or settings.sign_key is None:
        return own_identity()
    key = _read_key(_pem("SIGN_KEY", settings.sign_key.get_secret_value()))
    chain = _read_chain(_pem("SIGN_CERT", settings.sign_cert))
    _check_chain(chain)
    if chain[0].public_key() != key.public_key():
        raise SettingsError(
            "SIGN_KEY does not fit the first certificate of SIGN_CERT: give the key that it was issued for, and let "
            "SIGN_CERT begin with the certificate that signs"
        )
    return _identity(chain, key, is_own=False)


def own_identity() -> Identity:
    """A root and a certificate that it issued, both new. A certificate that vouches for itself may not sign (C2PA)."""
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root_name, name = _own_name("root"), _own_name("own certificate")
    root = (
        _own_certificate(root_name, root_name, root_key, "key_cert_sign")
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(root_key, hashes.SHA256())
    )
    leaf = (
        _own_certificate(name, root_name, key, "digital_signature")
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([CLAIM_SIGNING, ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    return _identity([leaf, root], key, is_own=True)


_Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def _identity(chain: list[x509.Certificate], key: _Key, is_own: bool) -> Identity:
    return Identity(
        chain_pem=b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in chain),
        key_pem=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        algorithm=_algorithm(key),
        name=_name(chain[0]),
        valid_until=min(certificate.not_valid_after_utc for certificate in chain),
        is_own=is_own,
    )


def _own_name(part: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"{_OWN_NAME} ({part})"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{_OWN_NAME}, {part}"),
        ]
    )


def _own_certificate(
    name: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, usage: str
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    usages = dict.fromkeys(_USAGES, False) | {usage: True}
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # readers' clocks differ
        .not_valid_after(now + timedelta(days=_OWN_DAYS))
        .add_extension(x509.KeyUsage(**usages), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _pem(variable: str, value: str) -> bytes:
    """The PEM text that a variable holds or leads to. In one line, \\n may stand for the ends of the PEM's lines."""
    if "-----BEGIN" in value:
        return value.replace("\\n", "\n").encode()
    try:
        content = Path(value).read_bytes()
    except (OSError, ValueError) as error:  # the value is not shown: it may be the key in another format
        reason = error.strerror if isinstance(error, OSError) else "it is no path"
        raise SettingsError(
            f"{variable} is neither PEM text (-----BEGIN …) nor a file that can be read ({reason})"
        ) from error
    if b"-----BEGIN" not in content:
        raise SettingsError(f"{variable} names a file that is no PEM text: it must have a line -----BEGIN …")
    return content


def _read_key(pem: bytes) -> _Key:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError as error:
        raise SettingsError("SIGN_KEY is encrypted: give the key without a password") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SettingsError(f"SIGN_KEY cannot be read: give {_KEY_KINDS}, as PEM") from error
    _algorithm(key)
    assert isinstance(key, _Key)
    return key


def _algorithm(key: object) -> str:
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return _CURVES[key.curve.name]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= _LEAST_RSA_BITS:
        return "ps256"
    raise SettingsError(f"SIGN_KEY is of a kind that content credentials do not allow: give {_KEY_KINDS}")


def _read_chain(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise SettingsError("SIGN_CERT holds no certificate that can be read: give a chain of them, as PEM") from error


def _check_chain(chain: list[x509.Certificate]) -> None:
    now = datetime.now(UTC)
    for certificate in chain:
        which = f"SIGN_CERT: the certificate of {_name(certificate)}"
        if now >= certificate.not_valid_after_utc:
            raise SettingsError(f"{which} expired on {certificate.not_valid_after_utc:%Y-%m-%d}: get a new one")
        if now < certificate.not_valid_before_utc:
            since = f"{certificate.not_valid_before_utc:%Y-%m-%d}"
            raise SettingsError(f"{which} is not valid before {since}: wait, or set this machine's clock")
    if chain[0].issuer == chain[0].subject:
        raise SettingsError(
            "SIGN_CERT begins with a certificate that vouches for itself, which C2PA does not allow: begin with one "
            "that another certificate has issued, or leave SIGN_CERT and SIGN_KEY out"
        )
    for certificate, issuer in pairwise(chain):
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature) as error:
            raise SettingsError(
                f"SIGN_CERT: the certificate of {_name(certificate)} was not issued by the one after it: put the "
                "certificate that signs first, and after each the one that issued it"
            ) from error


def _name(certificate: x509.Certificate) -> str:
    for kind in (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME):
        for attribute in certificate.subject.get_attributes_for_oid(kind):
            return str(attribute.value)
    return certificate.subject.rfc4514_string() or "nobody"
