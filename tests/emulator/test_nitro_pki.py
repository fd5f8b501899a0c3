"""The emulated PKI: AWS's layout, a root that lasts, and nothing that passes for AWS."""

import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from nitrosigner.attestation.document import Document
from nitrosigner.attestation.errors import UntrustedDocument
from nitrosigner.attestation.trust_anchors import AWS_NITRO_ROOT_G1
from nitrosigner.attestation.verify import unverified_document, verify
from nitrosigner.emulator import nitro_pki
from nitrosigner.emulator.nitro_pki import NitroPki, stored_trust_anchor
from nitrosigner.emulator.nsm import EmulatedNsm

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
VECTOR = Path(__file__).parents[2] / "../shared/vectors/attestation/production-2021.bin"


def _document(pki: NitroPki, now: datetime = NOW) -> bytes:
    pcrs = dict.fromkeys(range(3), b"\x01" * 48)
    return EmulatedNsm(pki, pcrs, lambda: now).attest(nonce=b"n")


def test_its_documents_are_verified_like_real_ones() -> None:
    pki = NitroPki.new(NOW)
    attestation = verify(_document(pki), anchors=[pki.trust_anchor], now=NOW)
    assert attestation.emulated
    assert attestation.anchor.name == "emulated.nitro-enclaves"


def test_nobody_who_trusts_aws_alone_takes_them() -> None:
    pki = NitroPki.new(NOW)
    with pytest.raises(UntrustedDocument, match="root certificate is not one"):
        verify(_document(pki), anchors=[AWS_NITRO_ROOT_G1], now=NOW)


def test_the_root_survives_a_restart(tmp_path: Path) -> None:
    first = NitroPki.open(tmp_path / "emulator", NOW)
    second = NitroPki.open(tmp_path / "emulator", NOW + timedelta(days=400))
    assert first.trust_anchor == second.trust_anchor
    assert first.instance_id == second.instance_id
    assert stored_trust_anchor(tmp_path / "emulator") == first.trust_anchor
    later = NOW + timedelta(days=400)
    verify(_document(second, later), anchors=[first.trust_anchor], now=later)


def test_the_root_key_is_for_its_owner_only(tmp_path: Path) -> None:
    NitroPki.open(tmp_path / "emulator", NOW)
    key = tmp_path / "emulator" / nitro_pki.ROOT_KEY_FILE
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700


def test_two_at_once_make_one_root(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        opened = list(
            pool.map(lambda _: NitroPki.open(tmp_path / "emulator", NOW), range(16))
        )
    assert len({pki.trust_anchor for pki in opened}) == 1


def test_a_root_that_died_between_key_and_certificate_is_completed(
    tmp_path: Path,
) -> None:
    NitroPki.open(tmp_path, NOW)
    (tmp_path / nitro_pki.ROOT_FILE).unlink()
    again = NitroPki.open(tmp_path, NOW)
    assert stored_trust_anchor(tmp_path) == again.trust_anchor


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    NitroPki.open(tmp_path / "one", NOW)
    NitroPki.open(tmp_path / "two", NOW)
    (tmp_path / "one" / nitro_pki.ROOT_FILE).unlink()
    (tmp_path / "two" / nitro_pki.ROOT_FILE).rename(
        tmp_path / "one" / nitro_pki.ROOT_FILE
    )
    with pytest.raises(ValueError, match="another key"):
        NitroPki.open(tmp_path / "one", NOW)


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (tmp_path / nitro_pki.ROOT_KEY_FILE).write_bytes(key)
    with pytest.raises(ValueError, match="another kind"):
        NitroPki.open(tmp_path, NOW)


def test_documents_hold_for_days_because_certificates_are_issued_again() -> None:
    pki = NitroPki.new(NOW)
    now = NOW

    nsm = EmulatedNsm(pki, dict.fromkeys(range(3), b"\x01" * 48), lambda: now)
    for hours in range(0, 24 * 30, 7):
        now = NOW + timedelta(hours=hours)
        verify(nsm.attest(), anchors=[pki.trust_anchor], now=now)


def _shape(certificate: x509.Certificate) -> object:
    lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return {
        "extensions": {
            (extension.oid.dotted_string, extension.critical)
            for extension in certificate.extensions
            # Where to fetch revocations: there are none to fetch.
            if not isinstance(extension.value, x509.CRLDistributionPoints)
        },
        "constraints": certificate.extensions.get_extension_for_class(
            x509.BasicConstraints
        ).value,
        "usage": certificate.extensions.get_extension_for_class(x509.KeyUsage).value,
        "version": certificate.version,
        "signature": certificate.signature_algorithm_oid,
        "key": getattr(certificate.public_key(), "curve").name,  # noqa: B009  # any key
        # Lifetimes of zone certificates vary in AWS's PKI.
        "days": 6 if 5 <= lifetime.days <= 6 else lifetime.days,
    }


def test_its_certificates_have_the_shape_of_real_ones() -> None:
    if not VECTOR.exists():
        pytest.skip("the real documents (../shared/vectors) are not on this machine")

    def shapes(document: Document) -> list[object]:
        return [_shape(x509.load_der_x509_certificate(der)) for der in document.chain]

    real = shapes(unverified_document(VECTOR.read_bytes()))
    ours = shapes(unverified_document(_document(NitroPki.new(NOW))))
    assert ours[1:] == real[1:]
    for name in ("extensions", "constraints", "usage", "signature", "key"):
        assert ours[0][name] == real[0][name]  # type: ignore[index]


def test_no_name_in_it_claims_to_be_aws() -> None:
    for authority in NitroPki.new(NOW).chain(NOW):
        assert "OU=NOT AWS" in authority.certificate.subject.rfc4514_string()
