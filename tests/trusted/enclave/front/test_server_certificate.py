"""The certificates, judged by other programs."""

import asyncio
import hashlib
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store

from nitrosigner.trusted.enclave.https import server_certificate
from nitrosigner.trusted.enclave.vault.sealed_singles import Single
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Code, Refused, Undecided
from nitrosigner.wire.manifest import AcceptedManifest, Aws, Manifest, Network

NAMES = ["localhost", "127.0.0.1", "::1", "signer.internal", "*.example.org"]
DAY = 24 * 3600


class Clock:
    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


def accepted() -> AcceptedManifest:
    return AcceptedManifest(
        manifest=Manifest(
            deployment="test",
            version=1,
            aws=Aws(
                region="eu-west-1",
                kms_key_arn="arn:aws:kms:eu-west-1:111122223333:key/a",
            ),
            networks=[Network(name="main", chain_id=1)],
            clients=[],
            tls_names=NAMES,
        ),
        digest="00" * 32,
        administrator="00" * 32,
    )


class Singles:
    """A sealed store in memory, which can lose a race or be away."""

    def __init__(self) -> None:
        self.record: tuple[int, bytes, bytes] | None = None
        self.rival: tuple[bytes, bytes] | None = None
        self.failure: Exception | None = None
        self.handed_out: list[SecretBytes] = []

    async def read(self, purpose: str) -> Single | None:
        assert purpose == "tls"
        if self.record is None:
            return None
        version, public, secret = self.record
        buffer = SecretBytes(bytearray(secret))
        self.handed_out.append(buffer)
        return Single(version, public, buffer)

    async def write(
        self, purpose: str, *, expected: int, public: bytes, secret: SecretBytes
    ) -> int:
        assert (purpose, expected) == ("tls", 0)
        if self.failure is not None:
            raise self.failure
        self.handed_out.append(secret)
        if self.rival is not None:
            self.record = (1, *self.rival)
        if self.record is not None:
            raise Refused(Code.VERSION_CONFLICT, "somebody was first")
        self.record = (1, public, bytes(secret.buffer))
        return 1


def open_identity(singles: Singles) -> server_certificate.TlsIdentity:
    return asyncio.run(
        server_certificate.open_identity(
            singles=singles, accepted=accepted(), clock=Clock()
        )
    )


def test_the_authority_is_made_once_and_the_leaf_at_each_boot() -> None:
    singles = Singles()
    first, second = open_identity(singles), open_identity(singles)
    assert first.authority == second.authority
    assert first.certificate != second.certificate
    assert bytes(first.key.buffer) != bytes(second.key.buffer)


def test_every_buffer_that_held_the_authoritys_key_is_wiped() -> None:
    singles = Singles()
    open_identity(singles)
    open_identity(singles)
    assert singles.handed_out
    assert all(not any(each.buffer) for each in singles.handed_out)


def test_who_loses_the_race_takes_the_winners_authority() -> None:
    certificate, secret = server_certificate.new_authority("test", time.time())
    singles = Singles()
    singles.rival = (certificate, bytes(secret.buffer))
    assert open_identity(singles).authority == certificate


def test_a_store_that_is_away_is_undecided() -> None:
    singles = Singles()
    singles.failure = Undecided(Code.STORAGE_UNAVAILABLE, "away")
    with pytest.raises(Undecided):
        open_identity(singles)


def test_a_key_of_another_authority_is_refused() -> None:
    certificate, _ = server_certificate.new_authority("test", time.time())
    _, other = server_certificate.new_authority("test", time.time())
    with pytest.raises(Refused) as refused:
        server_certificate.issue(certificate, other, NAMES, time.time())
    assert refused.value.code == "record_untrusted"


def test_the_key_is_wiped_when_openssl_has_it_and_does_not_print() -> None:
    identity = open_identity(Singles())
    assert b"PRIVATE KEY" in identity.key.buffer
    assert "PRIVATE" not in repr(identity)
    server_certificate.server_context(identity, [])
    assert not any(identity.key.buffer)


def test_the_extensions_are_what_strict_verifiers_want() -> None:
    identity = open_identity(Singles())
    authority = x509.load_der_x509_certificate(identity.authority)
    leaf = x509.load_der_x509_certificate(identity.certificate)

    def extension(certificate: x509.Certificate, kind: Any) -> Any:
        return certificate.extensions.get_extension_for_class(kind)

    assert extension(authority, x509.BasicConstraints).critical
    assert extension(authority, x509.BasicConstraints).value == x509.BasicConstraints(
        ca=True, path_length=0
    )
    usage = extension(authority, x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.digital_signature
    assert extension(leaf, x509.BasicConstraints).value.ca is False
    usage = extension(leaf, x509.KeyUsage)
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    assert list(extension(leaf, x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.SERVER_AUTH
    ]
    assert (
        extension(leaf, x509.AuthorityKeyIdentifier).value.key_identifier
        == extension(authority, x509.SubjectKeyIdentifier).value.digest
    )
    names = extension(leaf, x509.SubjectAlternativeName).value
    assert len(list(names)) == len(NAMES)
    now = time.time()
    assert leaf.not_valid_before_utc.timestamp() < now - DAY / 2
    assert now + 364 * DAY - 60 < leaf.not_valid_after_utc.timestamp() < now + 366 * DAY
    assert identity.not_after == int(leaf.not_valid_after_utc.timestamp())
    assert leaf.serial_number != authority.serial_number
    assert isinstance(leaf.public_key(), ec.EllipticCurvePublicKey)


@pytest.mark.parametrize("name", ["localhost", "signer.internal", "a.example.org"])
def test_the_web_pki_verifier_of_rust_accepts_it(name: Any) -> None:
    # pyca's verifier is written in Rust and implements the CA/B Forum's profile.
    identity = open_identity(Singles())
    authority = x509.load_der_x509_certificate(identity.authority)
    leaf = x509.load_der_x509_certificate(identity.certificate)
    verifier = (
        PolicyBuilder()
        .store(Store([authority]))
        .build_server_verifier(x509.DNSName(name))
    )
    assert verifier.verify(leaf, []) == [leaf, authority]


@pytest.mark.parametrize("tool", ["openssl", "node", "java"])
def test_other_programs_accept_it(
    patient_front: Any, tmp_path: Path, tool: Any
) -> None:
    front = patient_front
    program = shutil.which(tool)
    if program is None:
        pytest.skip(f"{tool} is not installed")
    if tool == "openssl":
        leaf = tmp_path / "leaf.pem"
        leaf.write_bytes(
            x509.load_der_x509_certificate(front.leaf).public_bytes(
                serialization.Encoding.PEM
            )
        )
        command = [
            program,
            "verify",
            "-x509_strict",
            "-purpose",
            "sslserver",
            "-verify_hostname",
            "localhost",
            "-CAfile",
            str(front.ca),
            str(leaf),
        ]
    elif tool == "node":
        script = (
            "require('https').get({host:'127.0.0.1',servername:'localhost',"
            f"port:{front.port},path:'/upcheck',"
            f"ca:require('fs').readFileSync('{front.ca}')}},"
            "r=>r.on('data',d=>process.stdout.write(d)))"
        )
        command = [program, "-e", script]
    else:
        source = tmp_path / "Ask.java"
        source.write_text(JAVA)
        command = [program, str(source), str(front.ca), str(front.port)]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=100, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "OK" in result.stdout


JAVA = """
import java.io.*; import java.net.*; import java.net.http.*; import java.nio.file.*;
import java.security.*; import java.security.cert.*; import javax.net.ssl.*;
public class Ask { public static void main(String[] a) throws Exception {
  var ca = CertificateFactory.getInstance("X.509")
      .generateCertificate(new FileInputStream(a[0]));
  var store = KeyStore.getInstance(KeyStore.getDefaultType());
  store.load(null); store.setCertificateEntry("ca", ca);
  var trust = TrustManagerFactory.getInstance("PKIX"); trust.init(store);
  var tls = SSLContext.getInstance("TLS");
  tls.init(null, trust.getTrustManagers(), null);
  var client = HttpClient.newBuilder().sslContext(tls).build();
  var uri = URI.create("https://localhost:" + a[1] + "/upcheck");
  System.out.println(client.send(HttpRequest.newBuilder(uri).build(),
      HttpResponse.BodyHandlers.ofString()).body());
}}
"""


def test_what_is_presented_is_what_the_statement_names(front: Any) -> None:
    with front.connect(None) as connection:
        presented = connection.getpeercert(binary_form=True)
    assert hashlib.sha256(presented).digest() == hashlib.sha256(front.leaf).digest()
