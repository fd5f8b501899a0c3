"""
Who am I talking to: the attestation document, the authority, the manifest.

The document needs no credential, because it is what a client checks before it trusts
us with one. The NSM takes milliseconds for it, so strangers share a small rate; and it
is asked in a thread, so that nobody's signature waits.
"""

import asyncio
import base64
from typing import Final

from nitrosigner.trusted.enclave.api.calls import Call
from nitrosigner.trusted.enclave.api.keys import query
from nitrosigner.trusted.enclave.api.routing import Route
from nitrosigner.trusted.enclave.https.http_messages import JSON, PEM, Response, ok
from nitrosigner.verdicts import Code, Malformed
from nitrosigner.wire import api
from nitrosigner.wire.api import PREFIX

MIN_NONCE: Final = 8
MAX_NONCE: Final = 64
"""Bytes. Fewer could repeat; more has no use."""


async def attestation(call: Call) -> Response:
    """GET attestation."""
    nonce = _nonce(query(call, "nonce").get("nonce", ""))
    around = call.around
    around.attestation_rate.take(known=call.caller is not None)
    async with around.attesting:
        document = await asyncio.to_thread(
            around.world.nsm.attest,
            public_key=around.keyring.import_public_key,
            user_data=around.statement,
            nonce=nonce,
        )
    manifest = b"" if call.caller is None else around.payload
    return ok(
        api.AttestationBody(
            document=base64.b64encode(document).decode(),
            manifest=base64.b64encode(manifest).decode(),
        )
    )


def authority(call: Call) -> Response:
    """
    GET ca: what to trust, once the attestation document has been checked.

    The root comes first; those between it and the server's follow, downwards.
    """
    return Response(200, call.around.tls.authority_pem, content_type=PEM)


def manifest(call: Call) -> Response:
    """GET manifest: the payload as the administrator signed it."""
    return Response(200, call.around.payload, content_type=JSON)


def _nonce(text: str) -> bytes:
    digits = text.removeprefix("0x")
    try:
        nonce = bytes.fromhex(digits) if digits.isalnum() else b""
    except ValueError:
        nonce = b""
    if not MIN_NONCE <= len(nonce) <= MAX_NONCE:
        raise Malformed(
            Code.MALFORMED_REQUEST,
            f"the nonce is not {MIN_NONCE} to {MAX_NONCE} bytes in hex",
            "ask for attestation?nonce= and random bytes of your own",
        )
    return nonce


ROUTES: Final = (
    Route("GET", f"{PREFIX}/attestation", attestation, public=True),
    Route("GET", f"{PREFIX}/ca", authority, public=True),
    Route("GET", f"{PREFIX}/manifest", manifest),
)
