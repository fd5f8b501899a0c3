"""From the JSON that clients send to an EIP-7702 authorization, unsigned and signed."""

from functools import partial
from typing import Final

from nitrosigner.trusted.signing import addresses, json_values
from nitrosigner.trusted.signing.authorizations import (
    Authorization,
    SignedAuthorization,
)
from nitrosigner.verdicts import Code, Malformed

_SIGNED: Final = frozenset(("chainId", "address", "nonce", "yParity", "v", "r", "s"))

_PARITY_OF_V: Final = {0: 0, 1: 1, 27: 0, 28: 1}

_integer: Final = partial(json_values.integer, code=Code.MALFORMED_TRANSACTION)


def parse(chain_id: object, address: object, nonce: object) -> Authorization:
    """
    Return the authorization that is to be signed.

    Raises:
        Malformed: A value is missing, no number, no address, or out of range.
    """
    return Authorization(
        chain_id=_integer(chain_id, "an authorization's chainId"),
        address=addresses.parse(
            address, Code.MALFORMED_TRANSACTION, "an authorization's address"
        ),
        nonce=_integer(nonce, "an authorization's nonce"),
    )


def parse_signed(fields: object) -> SignedAuthorization:
    """
    Return the tuple that *fields* describe: one item of `authorizationList`.

    viem sends `v` beside `yParity`; older senders send `v` alone (0, 1, 27 or 28).

    Raises:
        Malformed: A field is missing, unknown, out of range or contradicts another.
    """
    if type(fields) is not dict:
        raise _malformed("an authorization is not a JSON object")
    if not fields.keys() <= _SIGNED:
        name = json_values.quoted(next(iter(fields.keys() - _SIGNED)))
        raise _malformed(f"an authorization has an unknown field {name}")
    get = fields.get
    return SignedAuthorization(
        authorization=parse(get("chainId"), get("address"), get("nonce")),
        y_parity=_parity(get("yParity"), get("v")),
        r=_integer(get("r"), "an authorization's r"),
        s=_integer(get("s"), "an authorization's s"),
    )


def _parity(y_parity: object, v: object) -> int:
    if v is None:
        return _integer(y_parity, "an authorization's yParity")
    parity = _PARITY_OF_V.get(_integer(v, "an authorization's v"))
    if parity is None:
        raise _malformed("an authorization's v is not 0, 1, 27 or 28")
    if y_parity is not None and parity != _integer(
        y_parity, "an authorization's yParity"
    ):
        raise _malformed("an authorization's v and yParity contradict each other")
    return parity


def _malformed(message: str) -> Malformed:
    return Malformed(
        Code.MALFORMED_TRANSACTION,
        message,
        "an authorization has chainId, address, nonce, yParity, r and s",
    )
