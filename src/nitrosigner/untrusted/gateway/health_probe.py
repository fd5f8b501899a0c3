"""
The probe: asks the signer how it is, as a caller would, and turns that into metrics.

It has no credential and believes nothing: it says what whoever answered said, and when
the certificate that was shown ends. The load balancer asks every instance; this asks by
the name and through the network that callers use.
"""

import json
import os
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from http.client import HTTPException, HTTPSConnection
from typing import Any, Final
from urllib.parse import urlsplit

from cryptography import x509

NAMESPACE: Final = "nitrosigner"
READY: Final = "SignerReady"
DAYS_LEFT: Final = "CertificateDaysLeft"
KEYS: Final = "KeysLoaded"
SECONDS: Final = 10.0
MAX_BODY: Final = 64 * 1024
_DAY: Final = 24 * 3600.0


def probe(url: str, now: datetime) -> dict[str, float]:
    """Return metrics by name. Without an answer there is only `SignerReady` 0."""
    parts = urlsplit(url)
    # Nothing secret is sent and nothing is believed: there is no one to verify for.
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    connection = HTTPSConnection(
        parts.hostname or "", parts.port or 443, timeout=SECONDS, context=unverified
    )
    try:
        connection.connect()
        der: bytes = connection.sock.getpeercert(binary_form=True) or b""
        certificate = x509.load_der_x509_certificate(der)
        left = (certificate.not_valid_after_utc - now).total_seconds() / _DAY
        connection.request("GET", "/healthcheck")
        answer = connection.getresponse()
        body = json.loads(answer.read(MAX_BODY))
        return {
            READY: float(answer.status == 200 and body["status"] == "UP"),
            DAYS_LEFT: left,
            KEYS: float(body["keys_loaded"]),
        }
    except (OSError, HTTPException, ValueError, KeyError, TypeError):
        return {READY: 0.0}
    finally:
        connection.close()


def report(
    metrics: Mapping[str, float], *, stack: str, milliseconds: int
) -> dict[str, Any]:
    """Return one line in CloudWatch's embedded metric format."""
    return {
        "_aws": {
            "Timestamp": milliseconds,
            "CloudWatchMetrics": [
                {
                    "Namespace": NAMESPACE,
                    "Dimensions": [["stack"]],
                    "Metrics": [{"Name": name, "Unit": "None"} for name in metrics],
                }
            ],
        },
        "stack": stack,
        **metrics,
    }


def handler(event: object, context: object) -> None:
    """Answer the schedule. This is the function's entry point."""
    del event, context
    metrics = probe(os.environ["SIGNER_URL"], datetime.now(UTC))
    line = report(
        metrics,
        stack=os.environ["STACK"],
        milliseconds=time.time_ns() // 1_000_000,
    )
    print(json.dumps(line))  # noqa: T201  # Lambda's log
