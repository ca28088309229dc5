"""Who signs: what operators may set, what is refused with a sentence, and the chain that the worker makes itself."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, rsa

from infinitetalk.contract.settings import Settings, SettingsError
from infinitetalk.marking.certificates import identity_of, own_identity
from tests.support.certificates import KEYS, Chain, key_pem, make_chain, self_signed

GOOD, OTHER = make_chain(), make_chain()
ALGORITHMS = {"P-256": "es256", "P-384": "es384", "P-521": "es512", "Ed25519": "ed25519", "RSA": "ps256"}


def settings_of(certificates: str, key: str) -> Settings:
    return Settings.from_env({"SIGN_CERT": certificates, "SIGN_KEY": key})


@pytest.mark.parametrize("kind", KEYS)
def test_every_kind_of_key_that_c2pa_allows_is_taken(kind: str) -> None:
    chain = make_chain(kind)
    identity = identity_of(settings_of(chain.certificates, chain.key))
    assert identity.algorithm == ALGORITHMS[kind]
    assert (identity.name, identity.is_own, identity.is_expired) == ("Example Films", False, False)
    assert identity.chain_pem.decode() == chain.certificates


def test_pem_comes_as_text_in_one_line_or_as_a_path(tmp_path: Path) -> None:
    (tmp_path / "chain.pem").write_text(GOOD.certificates)
    (tmp_path / "key.pem").write_text(GOOD.key)
    plain = identity_of(settings_of(GOOD.certificates, GOOD.key))
    in_one_line = (text.replace("\n", "\\n") for text in (GOOD.certificates, GOOD.key))
    assert identity_of(settings_of(*in_one_line)) == plain
    assert identity_of(settings_of(str(tmp_path / "chain.pem"), str(tmp_path / "key.pem"))) == plain
    assert GOOD.key.splitlines()[1] not in repr(plain)


def reversed_chain(chain: Chain) -> str:
    parts = chain.certificates.split("-----BEGIN")[1:]
    return "".join("-----BEGIN" + part for part in reversed(parts))


EXPIRED = make_chain(starts=timedelta(days=-9), ends=timedelta(days=-2))
EARLY = make_chain(starts=timedelta(days=2))
BAD = {
    "a path that leads nowhere": (("/nowhere/chain.pem", GOOD.key), "SIGN_CERT is neither PEM text"),
    "a key that is no PEM": ((GOOD.certificates, "c2VjcmV0"), "SIGN_KEY is neither PEM text"),
    "a key of another": ((GOOD.certificates, OTHER.key), "SIGN_KEY does not fit the first certificate"),
    "a damaged key": ((GOOD.certificates, GOOD.key[:80]), "SIGN_KEY cannot be read"),
    "a certificate as key": ((GOOD.certificates, GOOD.root), "SIGN_KEY cannot be read"),
    "a key as certificate": ((GOOD.key, GOOD.key), "SIGN_CERT holds no certificate"),
    "a damaged certificate": ((GOOD.certificates[:200], GOOD.key), "SIGN_CERT holds no certificate"),
    "a key with a password": ((GOOD.certificates, key_pem(KEYS["P-256"](), b"secret")), "SIGN_KEY is encrypted"),
    "a short key": ((GOOD.certificates, key_pem(rsa.generate_private_key(65537, 1024))), "SIGN_KEY is of a kind"),
    "an old kind of key": ((GOOD.certificates, key_pem(dsa.generate_private_key(1024))), "SIGN_KEY is of a kind"),
    "an expired certificate": ((EXPIRED.certificates, EXPIRED.key), "the certificate of Example Films expired on"),
    "a certificate of tomorrow": ((EARLY.certificates, EARLY.key), "is not valid before"),
    "the wrong order": ((reversed_chain(GOOD), GOOD.key), "was not issued by the one after it"),
    "another's issuer": ((GOOD.certificates + OTHER.root, GOOD.key), "was not issued by the one after it"),
    "a self-signed one": ((self_signed().certificates, self_signed().key), "vouches for itself"),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_cannot_sign_is_refused_with_a_sentence_that_shows_no_key(bad: str) -> None:
    given, told = BAD[bad]
    with pytest.raises(SettingsError) as refused:
        identity_of(settings_of(*given))
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
    assert given[1][:20].strip("-") not in str(refused.value).replace("-----BEGIN …", "")


def test_a_file_that_is_no_pem_is_named_by_its_variable(tmp_path: Path) -> None:
    (tmp_path / "key.der").write_bytes(b"\x30\x82")
    with pytest.raises(SettingsError, match="SIGN_KEY names a file that is no PEM text"):
        identity_of(settings_of(GOOD.certificates, str(tmp_path / "key.der")))


def test_the_own_chain_is_new_each_time_and_lasts_longer_than_its_videos_need() -> None:
    first, second = own_identity(), identity_of(Settings())
    assert first.is_own and second.is_own
    assert first.key_pem != second.key_pem
    leaf, root = x509.load_pem_x509_certificates(first.chain_pem)
    leaf.verify_directly_issued_by(root)
    assert leaf.issuer != leaf.subject
    assert first.valid_until > datetime.now(UTC) + timedelta(days=3000)
