"""
One HTTPS connection pool to one signer, and what may travel over it.

Nothing that identifies the caller is sent before the other end is known: either its
certificate comes from the given authority, or an attestation document vouched for the
very certificate (a *pin*). With neither, a request is refused here, unless it is the
one that asks for the attestation document and carries no credential.
"""

import contextlib
import errno
import hashlib
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn, final

import urllib3
from urllib3.connection import HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationParseError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)

from nitrosigner.verdicts import Code, Malformed, Refused, Undecided

MAX_RESPONSE: Final = 8 << 20
"""Bytes of an answer's body that we read. A full page of keys has about 400 kB; a batch
of 10,000 signatures 3 MB."""
CONNECT_TIMEOUT: Final = 5.0
READ_TIMEOUT: Final = 30.0
"""Seconds for a whole answer. A signature that needs KMS takes most of them."""
GET_ATTEMPTS: Final = 3
PINNED_ATTEMPTS: Final = 8
"""Connections that are tried until one ends in an attested enclave: a load balancer
may have others to choose from."""
_CHUNK: Final = 64 * 1024

_CERTIFICATE_ALERTS: Final = frozenset(
    {
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        "TLSV1_ALERT_ACCESS_DENIED",
        "TLSV1_ALERT_UNKNOWN_CA",
    }
)
"""OpenSSL's names of the alerts that refuse a client certificate (RFC 8446 §6.2)."""


class CertificateChanged(Refused):
    """The other end shows a certificate that no attestation document vouched for."""


@final
class Token:
    """A bearer token. It does not print."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        if not (0 < len(text) <= 512 and text.isascii() and text.isprintable()):
            raise Malformed(
                Code.USAGE,
                "the token is not one line of printable ASCII",
                "use the token file that came with the client",
            )
        if any(character.isspace() for character in text):
            raise Malformed(Code.USAGE, "the token has white space in it")
        self._text = text

    @property
    def authorization(self) -> str:
        """The value of the `Authorization` header. Do not log."""
        return f"Bearer {self._text}"

    def __repr__(self) -> str:
        return "<Token>"

    def __reduce__(self) -> NoReturn:
        msg = "a token is not serialized"
        raise TypeError(msg)


@dataclass(frozen=True, slots=True)
class Credentials:
    """How a client identifies itself: a certificate, a token, or both."""

    certificate: Path | None = None
    """PEM; may hold the private key too."""
    key: Path | None = None
    token: Token | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP answer."""

    status: int
    content_type: str
    body: bytes


class _Connection(HTTPSConnection):
    """Checks the certificate before the first byte of a request is sent."""

    inspect: Callable[[bytes], None]

    def connect(self) -> None:
        super().connect()
        socket = self.sock
        der = socket.getpeercert(binary_form=True)  # type: ignore[union-attr]  # TLS always
        try:
            self.inspect(der or b"")
        except Refused:
            self.close()
            raise
        # urllib3 would warn of a connection that no authority vouches for. The pin
        # does, or the request carries nothing that needs vouching.
        self.is_verified = True


class Transport:
    """Requests to one signer. Thread-safe, as urllib3's pools are."""

    def __init__(
        self,
        url: str,
        *,
        ca: Path | None = None,
        credentials: Credentials | None = None,
        connect_timeout: float = CONNECT_TIMEOUT,
        read_timeout: float = READ_TIMEOUT,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Prepare; nothing is sent yet.

        Args:
            url: `https://host[:port]`, nothing behind it.
            ca: PEM of the authority that issues the signer's certificates. None: no
                request may be made until a certificate is pinned.
            credentials: Who we are.
            connect_timeout: Seconds.
            read_timeout: Seconds for a whole answer.
            monotonic: The clock for them.

        Raises:
            Malformed: The URL or one of the files is unusable.
        """
        self._host, self._port = _parse(url)
        self.url: Final = f"https://{_bracketed(self._host)}:{self._port}"
        self._ca = ca
        self._credentials = credentials or Credentials()
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._monotonic = monotonic
        self._pins: frozenset[str] = frozenset()
        self._ssl_context = _context(ca)
        _load_credentials(self._ssl_context, self._credentials)
        self._pool = self._new_pool(self._ssl_context, self._check_pin)

    @property
    def trusted(self) -> bool:
        """Whether requests may be made: an authority or a pin is there."""
        return bool(self._ca or self._pins)

    @property
    def pins(self) -> frozenset[str]:
        """SHA-256 of the DER certificates that are accepted. Empty: none needed."""
        return self._pins

    def pin(self, fingerprint: str) -> None:
        """
        Accept only certificates that are pinned, from now on, and this is one.

        Args:
            fingerprint: SHA-256 of the DER certificate, lower-case hex.
        """
        self._pins |= {fingerprint}
        # Connections that are open were made under the old rule.
        self._pool.close()
        self._pool = self._new_pool(self._ssl_context, self._check_pin)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """
        Send a request with our credentials and return the answer, whatever its status.

        GETs are tried again after any network failure; everything else only if the
        connection could not be made, because then nothing was sent.

        Raises:
            Refused: The other end is not who it has to be.
            Undecided: No answer.
        """
        if not self.trusted:
            raise Refused(
                Code.CERTIFICATE_UNTRUSTED,
                "nothing is known that this signer's certificate could be checked with",
                "name the signer's CA file, or verify its attestation first",
            )
        sent = {"accept": "application/json", **(headers or {})}
        if self._credentials.token is not None:
            sent["authorization"] = self._credentials.token.authorization
        return self._send(self._pool, method, path, body, sent)

    def request_unverified(self, path: str) -> tuple[Answer, bytes]:
        """
        GET without credentials from whoever answers, on a connection of its own.

        Returns the answer and the DER certificate of the connection that it came
        over: what an attestation document must vouch for.
        """
        seen: list[bytes] = []
        pool = self._new_pool(_context(), seen.append)
        try:
            answer = self._send(pool, "GET", path, None, {"accept": "application/json"})
        finally:
            pool.close()
        # One answer can come over several connections only by a retry; the last one
        # carried it.
        return answer, seen[-1]

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()

    def _check_pin(self, der: bytes) -> None:
        if self._pins and hashlib.sha256(der).hexdigest() not in self._pins:
            raise CertificateChanged(
                Code.CERTIFICATE_UNTRUSTED,
                "the signer shows another certificate than the attested one",
                "after a restart an enclave has a new certificate: verify it again",
            )

    def _new_pool(
        self, context: ssl.SSLContext, inspect: Callable[[bytes], None]
    ) -> urllib3.HTTPSConnectionPool:
        pool = urllib3.HTTPSConnectionPool(
            self._host,
            self._port,
            maxsize=16,
            block=False,
            timeout=urllib3.Timeout(
                connect=self._connect_timeout, read=self._read_timeout
            ),
            ssl_context=context,
        )
        kind = type("_Connection", (_Connection,), {"inspect": staticmethod(inspect)})
        pool.ConnectionCls = kind
        return pool

    def _send(
        self,
        pool: urllib3.HTTPSConnectionPool,
        method: str,
        path: str,
        body: bytes | None,
        headers: dict[str, str],
    ) -> Answer:
        if body is not None:
            headers = {"content-type": "application/json", **headers}
        attempts = GET_ATTEMPTS if method == "GET" else 2
        for attempt in range(1, attempts + 1):
            try:
                return self._attested(pool, method, path, body, headers)
            except (SSLError, ssl.SSLError) as error:
                self._tls_failed(error)
            except (NewConnectionError, ConnectTimeoutError, NameResolutionError):
                if attempt == attempts:
                    self._unreachable()
            except ReadTimeoutError:
                raise Undecided(
                    Code.SIGNER_UNREACHABLE,
                    f"{self.url} did not answer within {self._read_timeout:g} seconds",
                    "ask again later; nitrosigner doctor says what the signer waits on",
                ) from None
            except (HTTPError, OSError):
                if method != "GET" or attempt == attempts:
                    self._broken()
        raise AssertionError  # pragma: no cover  # every attempt returns or raises

    def _attested(
        self,
        pool: urllib3.HTTPSConnectionPool,
        method: str,
        path: str,
        body: bytes | None,
        headers: dict[str, str],
    ) -> Answer:
        for _ in range(PINNED_ATTEMPTS - 1):
            # Whoever shows another certificate was sent nothing.
            with contextlib.suppress(CertificateChanged):
                return self._once(pool, method, path, body, headers)
        return self._once(pool, method, path, body, headers)

    def _once(
        self,
        pool: urllib3.HTTPSConnectionPool,
        method: str,
        path: str,
        body: bytes | None,
        headers: dict[str, str],
    ) -> Answer:
        deadline = self._monotonic() + self._read_timeout
        response = pool.urlopen(
            method,
            path,
            body=body,
            headers=headers,
            retries=False,
            redirect=False,
            preload_content=False,
            decode_content=False,
        )
        whole = False
        try:
            received = bytearray()
            while chunk := response.read1(_CHUNK, decode_content=False):
                received += chunk
                if len(received) > MAX_RESPONSE:
                    raise Undecided(
                        Code.INTERNAL,
                        "the signer's answer is longer than any that its API knows",
                        "check that the URL is a nitrosigner's",
                    )
                if self._monotonic() > deadline:
                    # Bytes that drip keep a socket's own timeout from ending it.
                    raise Undecided(
                        Code.SIGNER_UNREACHABLE,
                        "the signer's answer came too slowly",
                        "ask again later",
                    )
            whole = True
        finally:
            if whole:
                response.release_conn()
            else:
                with contextlib.suppress(HTTPError, OSError):
                    response.close()
        return Answer(
            status=response.status,
            content_type=response.headers.get("content-type", ""),
            body=bytes(received),
        )

    def _tls_failed(self, error: Exception) -> NoReturn:
        reason = error.args[0] if isinstance(error, SSLError) and error.args else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise Refused(
                Code.CERTIFICATE_UNTRUSTED,
                f"the certificate of {self.url} is not from the given authority, "
                "or not for this name",
                "check the URL and the CA file, or start from: nitrosigner verify URL",
            ) from None
        if getattr(reason, "reason", None) in _CERTIFICATE_ALERTS:
            raise Refused(
                Code.UNAUTHENTICATED,
                "the signer does not know this client certificate, or it has expired",
                "a new certificate needs a new signed manifest; or use a token",
            ) from None
        raise Undecided(
            Code.SIGNER_UNREACHABLE,
            f"no TLS connection to {self.url} came about",
            "the enclave may be starting: nitrosigner doctor says where it stands",
        ) from None

    def _unreachable(self) -> NoReturn:
        raise Undecided(
            Code.SIGNER_UNREACHABLE,
            f"nothing answers at {self.url}",
            "check the URL, and that the signer runs: nitrosigner up, or nitrosigner "
            "doctor",
        ) from None

    def _broken(self) -> NoReturn:
        raise Undecided(
            Code.SIGNER_UNREACHABLE,
            f"the connection to {self.url} broke before an answer came",
            # A signer that does not know a certificate ends the handshake; on the way
            # through a relay its alert can get lost.
            "the signer may not know this client certificate: see nitrosigner doctor"
            if self._credentials.certificate is not None
            else "ask again; nitrosigner doctor says where the signer stands",
        ) from None


def _parse(url: str) -> tuple[str, int]:
    hint = "it looks like https://signer.internal or https://127.0.0.1:8443"
    try:
        parsed = urllib3.util.parse_url(url)
    except LocationParseError:
        raise Malformed(Code.USAGE, "the signer's URL cannot be read", hint) from None
    if parsed.scheme != "https" or not parsed.host:
        raise Malformed(Code.USAGE, "the signer's URL must start with https://", hint)
    if parsed.path not in (None, "/") or parsed.query or parsed.fragment or parsed.auth:
        raise Malformed(
            Code.USAGE, "the signer's URL is a scheme, a host and a port only", hint
        )
    return parsed.host.strip("[]"), parsed.port or 443


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _context(ca: Path | None = None) -> ssl.SSLContext:
    """Without *ca*: take any certificate; `_Connection.inspect` decides."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        context.load_verify_locations(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise Malformed(
            Code.USAGE,
            f"the CA file {ca} {_why(error, 'holds no PEM certificate')}",
            "give the signer's CA file; nitrosigner verify URL --save-ca FILE makes it",
        ) from None
    return context


def _load_credentials(context: ssl.SSLContext, credentials: Credentials) -> None:
    if credentials.certificate is None:
        if credentials.key is not None:
            raise Malformed(
                Code.USAGE,
                "a client key without its certificate",
                "give the certificate file too",
            )
        return

    def no_password() -> str:
        # Without this OpenSSL would prompt on the terminal, even in a daemon.
        msg = "encrypted"
        raise ValueError(msg)

    try:
        context.load_cert_chain(
            credentials.certificate, credentials.key, password=no_password
        )
    except ValueError:
        raise Malformed(
            Code.USAGE,
            "the client's private key is encrypted",
            "give an unencrypted PEM file with mode 0600",
        ) from None
    except (OSError, ssl.SSLError) as error:
        named = credentials.key or credentials.certificate
        raise Malformed(
            Code.USAGE,
            f"the client credential {credentials.certificate} with {named} "
            f"{_why(error, 'is not a PEM certificate and its private key')}",
            "a certificate file needs its key: give both, or one PEM that holds both",
        ) from None


def _why(error: OSError, otherwise: str) -> str:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return "does not exist"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "may not be read by this user"
    if error.errno == errno.EISDIR:
        return "is a folder"
    return otherwise
