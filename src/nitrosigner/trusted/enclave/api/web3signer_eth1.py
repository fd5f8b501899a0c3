"""
The `eth1` routes of Web3Signer, as its clients know them.

`sign` hashes what it is given and signs the hash, without a prefix. Whoever may do
that can sign any transaction, so it needs `sign_digest`, and no ceiling holds.
"""

from typing import Final

import msgspec

from nitrosigner.trusted.enclave.api import signing
from nitrosigner.trusted.enclave.api.calls import Call, read
from nitrosigner.trusted.enclave.api.keys import visible
from nitrosigner.trusted.enclave.api.routing import Route
from nitrosigner.trusted.enclave.api.signing import ETHEREUM, MaybeLater, begin
from nitrosigner.trusted.enclave.https.http_messages import TEXT, Response, ok
from nitrosigner.trusted.signing import json_values
from nitrosigner.trusted.signing.algorithms import PublicKey
from nitrosigner.trusted.signing.keccak import keccak_256
from nitrosigner.trusted.signing.secp256k1 import uncompressed
from nitrosigner.verdicts import Code, Malformed
from nitrosigner.wire import api
from nitrosigner.wire.api import PREFIX
from nitrosigner.wire.manifest import Operation

MAX_PUBLIC_KEYS: Final = 10_000
POINT_SIZE: Final = 64
"""Bytes of an uncompressed public key without its first byte, 0x04."""

_sign: Final = msgspec.json.Decoder(api.Eth1Sign)


async def public_keys(call: Call) -> Response:
    """GET publicKeys: `0x` and 64 bytes each, without the 0x04 before them."""
    facts = call.begin(Operation.LIST_KEYS)
    call.around.policy.demand(call.client, Operation.LIST_KEYS)
    page = await visible(call, "", MAX_PUBLIC_KEYS)
    call.facts.remove(facts)
    return ok(
        [
            "0x" + uncompressed(PublicKey(bytes.fromhex(key.public_key[2:])))[1:].hex()
            for key in page.keys
            if key.state == "enabled" and key.algorithm == ETHEREUM
        ]
    )


def sign(call: Call) -> MaybeLater[Response]:
    """POST sign/{key}: r ‖ s ‖ v in hex, as text."""
    facts, key = begin(call, Operation.SIGN_DIGEST, _identifier(call.identifier))
    body = read(_sign, call.request.body)
    data = json_values.hex_bytes(body.data, "data", Code.MALFORMED_MESSAGE)
    permit = call.around.policy.digest(call.client, key, keccak_256(data))
    return signing.use(
        call,
        permit,
        facts,
        lambda signature: Response(
            200, signing.recoverable(signature).encode(), content_type=TEXT
        ),
    )


def _identifier(text: str) -> str:
    """Return the address of a public key, or *text* if it is none."""
    digits = text.removeprefix("0x")
    if len(digits) == 2 * POINT_SIZE + 2 and digits.startswith("04"):
        digits = digits[2:]
    if len(digits) != 2 * POINT_SIZE:
        return text
    try:
        point = bytes.fromhex(digits)
    except ValueError:
        point = b""
    if len(point) != POINT_SIZE:
        raise Malformed(Code.MALFORMED_REQUEST, "the public key is not hex")
    return "0x" + keccak_256(point)[12:].hex()


ROUTES: Final = (
    Route("GET", f"{PREFIX}/eth1/publicKeys", public_keys),
    Route("POST", f"{PREFIX}/eth1/sign/{{key}}", sign),
)
