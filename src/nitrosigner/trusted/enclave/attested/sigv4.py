"""
AWS Signature Version 4, for the one kind of request that this program makes.

`POST /` without a query, over HTTPS. Every header that is sent is signed.
Source: "Create a signed AWS API request", AWS IAM user guide.
"""

import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

_ALGORITHM: Final = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class AccessKey:
    """Credentials of the instance role. The parent knows them too."""

    identifier: str
    secret: str = field(repr=False)
    session_token: str = field(repr=False)


def signed_headers(
    *,
    host: str,
    headers: Mapping[str, str],
    body: bytes,
    access_key: AccessKey,
    region: str,
    service: str,
    now: float,
) -> dict[str, str]:
    """
    Return every header to send with `POST /`: *headers*, and what authorizes them.

    Args:
        host: The value of the Host header.
        headers: Further headers; values without line breaks or runs of spaces.
        body: The whole body.
        access_key: Whose request it is.
        region: As `eu-central-1`.
        service: As `kms`.
        now: Unix seconds, UTC. AWS takes about five minutes of difference.
    """
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    to_send = {name.lower(): value.strip() for name, value in headers.items()}
    to_send["host"] = host
    to_send["x-amz-date"] = moment
    if access_key.session_token:
        to_send["x-amz-security-token"] = access_key.session_token

    names = ";".join(sorted(to_send))
    lines = "".join(f"{name}:{to_send[name]}\n" for name in sorted(to_send))
    body_digest = hashlib.sha256(body).hexdigest()
    canonical = f"POST\n/\n\n{lines}\n{names}\n{body_digest}"

    scope = f"{moment[:8]}/{region}/{service}/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = f"{_ALGORITHM}\n{moment}\n{scope}\n{digest}"

    key = f"AWS4{access_key.secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    to_send["authorization"] = (
        f"{_ALGORITHM} Credential={access_key.identifier}/{scope}, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    return to_send
