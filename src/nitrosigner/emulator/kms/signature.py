"""
AWS Signature Version 4, from the side that checks it.

The signature is recomputed over what arrived: the raw header values and the body, not
over what a library would have sent. Whatever the request says about itself that is
not covered by the signature is refused.

Source: AWS General Reference, "Signature Version 4 signing process".
"""

import datetime as dt
import hashlib
import hmac
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from nitrosigner.emulator.kms.errors import KmsError

MAX_SKEW: Final = dt.timedelta(minutes=5)
_AUTHORIZATION: Final = re.compile(
    r"AWS4-HMAC-SHA256 +Credential=([^/,\s]{1,128})/([0-9]{8})/([^/,\s]*)/([^/,\s]*)/"
    r"([^/,\s]*), *SignedHeaders=([a-z0-9;_-]+), *Signature=([0-9a-f]{64})\Z"
)
_INVALID: Final = "InvalidSignatureException"
_MISMATCH: Final = (
    "The request signature we calculated does not match the signature you provided. "
    "Check your AWS Secret Access Key and signing method. Consult the service "
    "documentation for details."
)


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came off the wire."""

    method: str
    path: str
    headers: Sequence[tuple[str, str]]
    """Names in any case; repeated where they were repeated."""
    body: bytes

    def values(self, name: str) -> list[str]:
        """Return every value of the header *name* (lower case), as it arrived."""
        return [value for key, value in self.headers if key.lower() == name]

    def one(self, name: str) -> str | None:
        """Return the only value of *name*, or None. Repeated headers are refused."""
        values = self.values(name)
        if len(values) > 1:
            raise KmsError("IncompleteSignatureException", f"Repeated header '{name}'.")
        return values[0].strip() if values else None


@dataclass(frozen=True, slots=True)
class Claim:
    """Who a request says it is from, before anybody believed it."""

    access_key_id: str
    token: str | None
    scope: str
    stamp: str
    signed: tuple[str, ...]
    signature: str


def read_claim(
    request: Received, *, region: str, service: str, now: dt.datetime
) -> Claim:
    """
    Read the Authorization header and hold its scope and time against ours.

    Raises:
        KmsError: Absent, incomplete, scoped to something else, or too old or early.
    """
    header = request.one("authorization")
    if header is None:
        raise KmsError(
            "MissingAuthenticationTokenException", "Missing Authentication Token"
        )
    match = _AUTHORIZATION.match(header)
    stamp = request.one("x-amz-date")
    if match is None or stamp is None:
        raise KmsError(
            "IncompleteSignatureException",
            "Authorization header requires existence of 'Credential', 'SignedHeaders' "
            "and 'Signature' parameters and either a 'X-Amz-Date' or a 'Date' header.",
        )
    key, day, in_region, in_service, terminator, names, signature = match.groups()
    if in_region != region:
        raise KmsError(_INVALID, "Credential should be scoped to a valid region.")
    if in_service != service:
        raise KmsError(
            _INVALID, f"Credential should be scoped to correct service: '{service}'."
        )
    if terminator != "aws4_request" or not stamp.startswith(f"{day}T"):
        raise KmsError(_INVALID, _MISMATCH)
    _check_time(stamp, now)
    signed = tuple(names.split(";"))
    _check_coverage(request, signed)
    return Claim(
        access_key_id=key,
        token=request.one("x-amz-security-token"),
        scope=f"{day}/{in_region}/{in_service}/{terminator}",
        stamp=stamp,
        signed=signed,
        signature=signature,
    )


def _check_time(stamp: str, now: dt.datetime) -> None:
    try:
        at = dt.datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=dt.UTC)
    except ValueError:
        raise KmsError(
            "IncompleteSignatureException",
            "Date must be in ISO-8601 'basic format'.",
        ) from None
    if abs(now - at) > MAX_SKEW:
        word = "expired" if at < now else "not yet current"
        raise KmsError(
            _INVALID, f"Signature {word}: {stamp} against {now:%Y%m%dT%H%M%SZ}"
        )


def _check_coverage(request: Received, signed: tuple[str, ...]) -> None:
    if list(signed) != sorted(set(signed)):
        raise KmsError(_INVALID, _MISMATCH)
    arrived = {name.lower() for name, _ in request.headers}
    must = {"host", "x-amz-date", "x-amz-target"}
    must |= {name for name in arrived if name.startswith("x-amz-")}
    for name in sorted(must - set(signed)):
        raise KmsError(
            _INVALID,
            f"'{name}' must be a 'SignedHeader' in the AWS Authorization.",
        )


def check(
    request: Received, claim: Claim, secret_of: Callable[[str, str | None], str]
) -> None:
    """
    Recompute the signature with the secret of the claimed access key.

    Raises:
        KmsError: It is another one, or *secret_of* knows no such credentials.
    """
    secret = secret_of(claim.access_key_id, claim.token)
    body_hash = hashlib.sha256(request.body).hexdigest()
    lines = []
    for name in claim.signed:
        values = request.values(name)
        if not values:
            raise KmsError(_INVALID, _MISMATCH)
        joined = ",".join(re.sub(r" +", " ", value.strip()) for value in values)
        lines.append(f"{name}:{joined}\n")
    # KMS has one path and no query, so the canonical forms of both are constants.
    canonical = "\n".join(
        (request.method, "/", "", "".join(lines), ";".join(claim.signed), body_hash)
    )
    digest = hashlib.sha256(canonical.encode("latin-1")).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{claim.stamp}\n{claim.scope}\n{digest}"
    key = f"AWS4{secret}".encode()
    for part in claim.scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    expected = hmac.digest(key, text.encode(), "sha256").hex()
    if not hmac.compare_digest(expected, claim.signature):
        raise KmsError(_INVALID, _MISMATCH)
