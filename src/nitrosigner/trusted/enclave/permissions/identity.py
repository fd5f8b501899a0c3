"""
Who is asking: a certificate proved in the handshake, or a token.

A credential that is shown must be good. A request that shows a bad token is refused
even on a connection whose certificate is known, and so is one whose certificate and
token belong to two clients: nobody shall be served as somebody they did not mean to be.

No credential at all is 401, a bad one 403: some clients show theirs only when asked.
"""

import base64
import binascii
import hashlib
import hmac
import ssl
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from nitrosigner.verdicts import Code, Refused
from nitrosigner.wire.manifest import Client, Manifest

MAX_CREDENTIAL: Final = 512
"""Bytes of an Authorization header that are looked at."""
_UNAUTHORIZED: Final = 401


class Identities:
    """The manifest's clients, by what they can prove."""

    def __init__(self, manifest: Manifest) -> None:
        self._by_certificate: dict[bytes, Client] = {}
        self._by_token: list[tuple[bytes, Client]] = []
        self.certificates: list[str] = []
        """PEM of every client certificate: the listener's trust anchors."""
        for client in manifest.clients:
            for pem in client.certificates:
                certificate = x509.load_pem_x509_certificate(pem.encode())
                der = certificate.public_bytes(serialization.Encoding.DER)
                self._by_certificate[hashlib.sha256(der).digest()] = client
                self.certificates.append(ssl.DER_cert_to_PEM_cert(der))
            self._by_token += [
                (bytes.fromhex(digest), client) for digest in client.token_sha256
            ]

    def of_certificate(self, der: bytes) -> Client | None:
        """Return whose certificate *der* is. The handshake proved its key."""
        shown = hashlib.sha256(der).digest()
        found = None
        for digest, client in self._by_certificate.items():
            if hmac.compare_digest(digest, shown):
                found = client
        return found

    def of_token(self, token: bytes) -> Client | None:
        """Return whose *token* it is. Every entry is compared, whichever matches."""
        shown = hashlib.sha256(token).digest()
        found = None
        for digest, client in self._by_token:
            if hmac.compare_digest(digest, shown):
                found = client
        return found


class Caller:
    """
    What one connection has shown so far.

    After a refusal the connection is closed: each guess at a token costs a handshake.
    Tokens hold 256 random bits, so that saves work, not secrets.
    """

    __slots__ = ("_authorization", "_certified", "_client", "_identities", "_shown")

    def __init__(self, identities: Identities, certificate: bytes | None) -> None:
        """
        Begin with the handshake's *certificate* (DER), if there was one.

        A certificate that is not a client's (one that a listed certificate issued,
        say) opens no more than none.
        """
        self._identities = identities
        self._shown = certificate is not None
        self._certified = (
            None if certificate is None else identities.of_certificate(certificate)
        )
        self._authorization: bytes | None = None
        self._client: Client | None = None

    def authenticate(self, authorization: bytes | None) -> Client:
        """
        Return the client that asks.

        Raises:
            Refused: Nobody we know (UNAUTHENTICATED).
        """
        if authorization is None:
            if self._certified is None:
                raise Refused(
                    Code.UNAUTHENTICATED,
                    "this needs a client that the manifest knows",
                    "show a client certificate (--cert, --key) or a token "
                    "(--token-file, Authorization: Bearer …)",
                    status=None if self._shown else _UNAUTHORIZED,
                )
            return self._certified
        # A keep-alive connection shows the same header with every request.
        if self._client is not None and authorization == self._authorization:
            return self._client
        client = self._of_authorization(authorization)
        if self._certified is not None and client is not self._certified:
            raise Refused(
                Code.UNAUTHENTICATED,
                "the certificate and the token belong to two clients",
                "show one credential",
            )
        self._authorization, self._client = authorization, client
        return client

    def known(self, authorization: bytes | None) -> Client | None:
        """
        Return the client that asks, or None if no credential is shown at all.

        Raises:
            Refused: A credential is shown and it is bad.
        """
        if authorization is None and self._certified is None:
            return None
        return self.authenticate(authorization)

    def _of_authorization(self, header: bytes) -> Client:
        token = _token(header)
        client = None if token is None else self._identities.of_token(token)
        if client is None:
            raise Refused(
                Code.UNAUTHENTICATED,
                "the token is not one that the manifest knows",
                "check the token file; a new token needs a new signed manifest",
            )
        return client


def _token(header: bytes) -> bytes | None:
    """Return the token in an Authorization header, or None if there is none."""
    if len(header) > MAX_CREDENTIAL:
        return None
    scheme, _, rest = header.partition(b" ")
    rest = rest.strip()
    match scheme.lower():
        case b"bearer":
            return rest
        case b"basic":
            # For clients that only know https://user:password@host. The user name
            # says nothing here: the token alone says who it is.
            try:
                return base64.b64decode(rest, validate=True).partition(b":")[2]
            except binascii.Error:
                return None
        case _:
            return None
