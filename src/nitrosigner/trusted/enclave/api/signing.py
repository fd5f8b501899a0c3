"""
Signing: what is asked becomes a typed value, the policy judges it, a key signs it.

The way through is straight for a key of the vault: no task, no await. A key that KMS
opens takes the longer way, with the same steps.
"""

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias, TypeVar

import msgspec

from nitrosigner.trusted.enclave.api.calls import Call, find, read
from nitrosigner.trusted.enclave.api.routing import Route
from nitrosigner.trusted.enclave.audit import Facts
from nitrosigner.trusted.enclave.https.http_messages import Response, ok
from nitrosigner.trusted.enclave.permissions.permit import Permit
from nitrosigner.trusted.signing import (
    authorization_fields,
    authorizations,
    ethereum_transactions,
    json_values,
    transaction_fields,
    typed_data,
)
from nitrosigner.trusted.signing.addresses import Address, checksummed
from nitrosigner.trusted.signing.algorithms import Signature
from nitrosigner.trusted.signing.ethereum_transactions import (
    SignedTransaction,
    Transaction,
)
from nitrosigner.verdicts import Code, Malformed
from nitrosigner.wire import api
from nitrosigner.wire.api import PREFIX
from nitrosigner.wire.manifest import Operation

ETHEREUM: Final = "secp256k1"

_T = TypeVar("_T")
MaybeLater: TypeAlias = _T | Awaitable[_T]

_transaction: Final = msgspec.json.Decoder(api.SignTransaction)
_message: Final = msgspec.json.Decoder(api.SignMessage)
_typed_data: Final = msgspec.json.Decoder(api.SignTypedData)
_digest: Final = msgspec.json.Decoder(api.SignDigest)
_authorization: Final = msgspec.json.Decoder(api.SignAuthorization)
anything: Final = msgspec.json.Decoder()


class TransactionSigned(msgspec.Struct, frozen=True, gc=False):
    """A transaction, its signature, and what goes to the network."""

    transaction: Transaction
    signature: Signature
    encoded: SignedTransaction
    sender: str


def begin(
    call: Call, operation: Operation, identifier: str
) -> tuple[Facts, api.KeyDescription]:
    """
    Find the key, and make sure that the client may do this with it at all.

    So nobody has anything parsed that they could not have signed.

    Raises:
        Refused: The client, or the key, or no key.
    """
    facts = call.begin(operation)
    around = call.around
    around.policy.demand(call.client, operation)
    key = find(call, identifier, facts)
    around.policy.demand_key(call.client, key)
    if key.algorithm != ETHEREUM:
        raise Malformed(
            Code.MALFORMED_REQUEST,
            "this key's algorithm does not sign for Ethereum",
            f"use a key of {ETHEREUM}",
        )
    return facts, key


def use(
    call: Call, permit: Permit, facts: Facts, finish: Callable[[Signature], _T]
) -> MaybeLater[_T]:
    """
    Have the permit signed, and return what *finish* makes of the signature.

    Raises:
        Verdict: Nothing was signed.
    """
    around = call.around
    around.audit.demand()
    facts.digest = permit.message.hex()
    signature = around.keyring.sign_now(permit)
    if signature is None:
        return _use_later(call, permit, facts, finish)
    facts.outcome = "signed"
    return finish(signature)


async def _use_later(
    call: Call, permit: Permit, facts: Facts, finish: Callable[[Signature], _T]
) -> _T:
    signature = await call.around.keyring.sign(permit)
    facts.outcome = "signed"
    return finish(signature)


def transaction(
    call: Call,
    facts: Facts,
    key: api.KeyDescription,
    fields: object,
    finish: Callable[[TransactionSigned], _T],
    *,
    default_chain_id: int | None = None,
) -> MaybeLater[_T]:
    """
    Sign the transaction that *fields* describe.

    Raises:
        Verdict: It is malformed, or the policy or the key says no.
    """
    asked = transaction_fields.parse(
        fields, sender=_address(key), default_chain_id=default_chain_id
    )
    facts.chain_id = asked.chain_id
    facts.to = "" if asked.to is None else "0x" + asked.to.hex()
    facts.value = str(asked.value)
    permit = call.around.policy.transaction(call.client, key, asked)

    def finished(signature: Signature) -> _T:
        encoded = ethereum_transactions.signed(asked, signature)
        facts.hash = encoded.hash.hex()
        return finish(TransactionSigned(asked, signature, encoded, key.identity))

    return use(call, permit, facts, finished)


def message(
    call: Call,
    facts: Facts,
    key: api.KeyDescription,
    data: bytes,
    finish: Callable[[Permit, Signature], _T],
) -> MaybeLater[_T]:
    """
    Sign *data* as a message of EIP-191.

    Raises:
        Verdict: The policy or the key says no.
    """
    permit = call.around.policy.message(call.client, key, data)
    return use(call, permit, facts, lambda signature: finish(permit, signature))


def typed(
    call: Call,
    facts: Facts,
    key: api.KeyDescription,
    document: object,
    finish: Callable[[Permit, Signature], _T],
) -> MaybeLater[_T]:
    """
    Sign typed data of EIP-712, given as decoded JSON.

    Raises:
        Verdict: It is malformed, or the policy or the key says no.
    """
    asked = typed_data.parse(document)
    facts.chain_id = asked.domain.chain_id
    if asked.domain.verifying_contract is not None:
        facts.to = "0x" + asked.domain.verifying_contract.hex()
    permit = call.around.policy.typed_data(call.client, key, asked)
    return use(call, permit, facts, lambda signature: finish(permit, signature))


def recoverable(signature: Signature) -> str:
    """Return r ‖ s ‖ v in hex, with the v (27, 28) that messages carry."""
    return f"0x{signature[:64].hex()}{signature[64] + 27:02x}"


# --- routes ---------------------------------------------------------------------------


def sign_transaction(call: Call) -> MaybeLater[Response]:
    """POST sign/transaction."""
    facts, key = begin(call, Operation.SIGN_TRANSACTION, call.identifier)
    body = read(_transaction, call.request.body)
    fields = read(anything, body.transaction)
    return transaction(call, facts, key, fields, _transaction_body)


def _transaction_body(signed: TransactionSigned) -> Response:
    return ok(
        api.SignedTransactionBody(
            raw="0x" + signed.encoded.raw.hex(),
            hash="0x" + signed.encoded.hash.hex(),
            sender=signed.sender,
        )
    )


def sign_message(call: Call) -> MaybeLater[Response]:
    """POST sign/message."""
    facts, key = begin(call, Operation.SIGN_MESSAGE, call.identifier)
    body = read(_message, call.request.body)
    if (body.text is None) == (body.data is None):
        raise Malformed(
            Code.MALFORMED_MESSAGE,
            "a message is either `text` or `data`",
            "give `text` for words, `data` for bytes in hex, not both",
        )
    if body.text is not None:
        data = body.text.encode()
    else:
        data = json_values.hex_bytes(body.data, "data", Code.MALFORMED_MESSAGE)
    return message(call, facts, key, data, _message_body(key))


def sign_typed_data(call: Call) -> MaybeLater[Response]:
    """POST sign/typed-data."""
    facts, key = begin(call, Operation.SIGN_TYPED_DATA, call.identifier)
    body = read(_typed_data, call.request.body)
    document = read(anything, body.typed_data)
    return typed(call, facts, key, document, _message_body(key))


def sign_digest(call: Call) -> MaybeLater[Response]:
    """POST sign/digest."""
    facts, key = begin(call, Operation.SIGN_DIGEST, call.identifier)
    body = read(_digest, call.request.body)
    digest = json_values.hex_bytes(body.digest, "digest", Code.MALFORMED_REQUEST)
    permit = call.around.policy.digest(call.client, key, digest)
    finish = _message_body(key)
    return use(call, permit, facts, lambda signature: finish(permit, signature))


def sign_authorization(call: Call) -> MaybeLater[Response]:
    """POST sign/authorization."""
    facts, key = begin(call, Operation.SIGN_AUTHORIZATION, call.identifier)
    body = read(_authorization, call.request.body)
    asked = authorization_fields.parse(body.chain_id, body.address, body.nonce)
    facts.chain_id = asked.chain_id
    facts.to = "0x" + asked.address.hex()
    permit = call.around.policy.authorization(call.client, key, asked)

    def finish(signature: Signature) -> Response:
        signed = authorizations.signed(asked, signature)
        return ok(
            api.SignedAuthorizationBody(
                chain_id=hex(asked.chain_id),
                address=checksummed(asked.address),
                nonce=hex(asked.nonce),
                y_parity=hex(signed.y_parity),
                r=hex(signed.r),
                s=hex(signed.s),
            )
        )

    return use(call, permit, facts, finish)


def _message_body(key: api.KeyDescription) -> Callable[[Permit, Signature], Response]:
    return lambda permit, signature: ok(
        api.SignedMessageBody(
            signature=recoverable(signature),
            digest="0x" + permit.message.hex(),
            sender=key.identity,
        )
    )


def _address(key: api.KeyDescription) -> Address:
    return Address(bytes.fromhex(key.identity[2:]))


ROUTES: Final = (
    Route("POST", f"{PREFIX}/keys/{{key}}/sign/transaction", sign_transaction),
    Route("POST", f"{PREFIX}/keys/{{key}}/sign/message", sign_message),
    Route("POST", f"{PREFIX}/keys/{{key}}/sign/typed-data", sign_typed_data),
    Route("POST", f"{PREFIX}/keys/{{key}}/sign/digest", sign_digest),
    Route("POST", f"{PREFIX}/keys/{{key}}/sign/authorization", sign_authorization),
)
