"""
Bring a TLS certificate and its private key into the enclave, from a PKCS#12 file.

As `import_key`: the key is wrapped to the import key that a *verified* attestation
document vouches for, and bound to the very certificate. The enclave checks it all
again; what is sorted out here is what a PKCS#12 file leaves open: the order of its
certificates, and the root, which most files lack.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import pkcs12

from nitrosigner.client.import_key import check_same_signer
from nitrosigner.client.signer_client import SignerClient
from nitrosigner.client.verification import Proof
from nitrosigner.verdicts import Code, Malformed, Refused
from nitrosigner.wire import api, import_wrapping

MAX_CHAIN: Final = 6
MAX_GIVEN: Final = 200
"""Certificates to look for issuers in: a company's whole bundle."""

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class TlsFile:
    """What a PKCS#12 file held: the chain in order, and the key. The key prints not."""

    chain: tuple[x509.Certificate, ...]
    """The server's certificate first, the self-signed root last."""
    key: Key

    @property
    def sha256(self) -> str:
        """Of the server's certificate, hex."""
        der = self.chain[0].public_bytes(serialization.Encoding.DER)
        return hashlib.sha256(der).hexdigest()


def read_pkcs12(
    data: bytes, password: str, more: Sequence[x509.Certificate] = ()
) -> TlsFile:
    """
    Open a PKCS#12 file and put its certificates in order.

    Args:
        data: The file.
        password: Its password; may be empty.
        more: Certificates of authorities that the file may lack.

    Raises:
        Refused: The password is wrong, or the file is damaged: PKCS#12 does not tell.
        Malformed: It holds no certificate with its key, or a root is missing.
    """
    try:
        opened = pkcs12.load_pkcs12(data, password.encode() or None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Refused(
            Code.WRONG_PASSWORD,
            "the PKCS#12 file does not open: the password is wrong, or it is damaged",
            "openssl pkcs12 -info -noout -in FILE says which",
        ) from None
    if opened.cert is None or not isinstance(opened.key, Key):
        raise Malformed(
            Code.MALFORMED_KEY,
            "the PKCS#12 file holds no certificate with a P-256, P-384, Ed25519 or RSA "
            "key",
            "openssl pkcs12 -export -inkey KEY -in CERT -certfile CHAIN makes one",
        )
    others = [each.certificate for each in opened.additional_certs]
    chain = _in_order(opened.cert.certificate, [*others, *more][:MAX_GIVEN])
    return TlsFile(chain, opened.key)


def import_certificate(
    client: SignerClient, proof: Proof, file: TlsFile
) -> api.ServerTls:
    """
    Import *file*; new connections are shown it from now on.

    Args:
        client: The client that *proof* was obtained with.
        proof: What `verification.verify` returned, in this run of the enclave.
        file: What `read_pkcs12` returned.

    Raises:
        Refused: The enclave that was verified is not the one that answers, or it
            refused; what was shown before is shown still.
    """
    check_same_signer(client, proof)
    info = import_wrapping.tls_info(
        deployment=proof.statement.deployment, certificate=file.sha256
    )
    secret = bytearray(
        file.key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    try:
        wrapped = import_wrapping.wrap(secret, proof.import_key, info)
    finally:
        secret[:] = bytes(len(secret))
    pem = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in file.chain)
    shown = client.import_wrapped_tls(
        api.ImportTls(
            certificates=pem.decode(), wrapped_key=base64.b64encode(wrapped).decode()
        )
    )
    if shown.sha256 != file.sha256:
        raise Refused(
            Code.KEY_MISMATCH,
            "the enclave says that it shows another certificate",
            "nitrosigner tls show says which",
        )
    return shown


def _in_order(
    leaf: x509.Certificate, others: Sequence[x509.Certificate]
) -> tuple[x509.Certificate, ...]:
    chain = [leaf]
    while chain[-1].issuer != chain[-1].subject:
        issuer = next((one for one in others if _issued(chain[-1], one)), None)
        if issuer is None or len(chain) == MAX_CHAIN:
            raise Malformed(
                Code.MALFORMED_REQUEST,
                "the issuer of one certificate is missing: "
                f"{chain[-1].issuer.rfc4514_string()}",
                "give the authority's certificates, root included: --chain FILE",
            )
        chain.append(issuer)
    return tuple(chain)


def _issued(issued: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        issued.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
