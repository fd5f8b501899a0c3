"""
An account whose key is in the enclave, where eth-account's `LocalAccount` is expected.

It is a subclass of `LocalAccount` for one reason: web3.py's signing middleware takes
nothing else. It holds no key; what would give one away says so instead.

Every answer is checked against the address before it is returned, so a signature that
is not this account's never gets out of here.
"""

from collections.abc import Mapping
from typing import Any, Final, NoReturn

import rlp
from eth_account import Account
from eth_account._utils.encode_typed_data.encoding_and_hashing import get_primary_type
from eth_account._utils.legacy_transactions import (
    encode_transaction,
    serializable_unsigned_transaction_from_dict,
)
from eth_account.datastructures import (
    SignedMessage,
    SignedSetCodeAuthorization,
    SignedTransaction,
)
from eth_account.messages import SignableMessage, encode_typed_data
from eth_account.signers.local import LocalAccount
from eth_account.typed_transactions.set_code_transaction import Authorization
from eth_keys.datatypes import Signature
from eth_utils.address import to_canonical_address, to_checksum_address
from eth_utils.crypto import keccak
from hexbytes import HexBytes

from nitrosigner.client.hexadecimal import bytes_of_hex
from nitrosigner.client.signer_client import SignerClient
from nitrosigner.verdicts import Code, Malformed, Refused, Undecided
from nitrosigner.wire.api import SignedMessageBody

_PERSONAL: Final = b"E"
"""EIP-191 version byte: the E of "Ethereum Signed Message"."""
_PERSONAL_HEADER: Final = b"thereum Signed Message:\n"
_DOMAIN_FIELDS: Final = {
    "name": "string",
    "version": "string",
    "chainId": "uint256",
    "verifyingContract": "address",
    "salt": "bytes32",
}


class NoPrivateKey(Refused, AttributeError):
    """Somebody asked a remote account for its private key."""

    def __init__(self) -> None:
        super().__init__(
            Code.NOT_ALLOWED,
            "a remote account has no private key: it never leaves the enclave",
            "sign with the account's methods",
        )


class RemoteAccount(LocalAccount):
    """Signs as `eth_account.Account` would, with a key that this process never sees."""

    def __init__(self, client: SignerClient, key: str) -> None:
        """
        Bind to the key called *key*, by name or address.

        Raises:
            Refused: There is no such key, or the client may not see it.
            Malformed: The key is not for Ethereum accounts.
        """
        # LocalAccount.__init__ would want the private key.
        description = client.key(key)
        if description.algorithm != "secp256k1":
            raise Malformed(
                Code.MALFORMED_REQUEST,
                f"{description.name} is a {description.algorithm} key; an Ethereum "
                "account has a secp256k1 one",
            )
        self._client: Final = client
        self._name: Final = description.name
        self._address = to_checksum_address(description.identity)

    @property
    def key(self) -> NoReturn:
        """There is none."""
        raise NoPrivateKey

    def encrypt(self, *_: object, **__: object) -> NoReturn:
        """There is nothing to encrypt."""
        raise NoPrivateKey

    def __bytes__(self) -> NoReturn:
        raise NoPrivateKey

    def __repr__(self) -> str:
        return f"<RemoteAccount {self.address} ({self._name})>"

    def sign_transaction(
        self, transaction_dict: Mapping[str, Any], blobs: object = None
    ) -> SignedTransaction:
        """
        Sign a transaction. Ints, bytes and hex are taken as eth-account does.

        Raises:
            TypeError, ValueError: eth-account's own, for what it would not encode.
            Malformed: The enclave would not; or *blobs* are given (send them beside).
            Refused: The policy has it so, or `from` or the chain does not fit.
        """
        if blobs is not None:
            raise Malformed(
                Code.MALFORMED_TRANSACTION,
                "blobs do not go through the signer",
                "name their blobVersionedHashes, and add the sidecar when you send it",
            )
        unsigned = serializable_unsigned_transaction_from_dict(
            {
                name: value
                for name, value in transaction_dict.items()
                if name != "from" and value is not None
            }
        )
        answer = self._client.sign_transaction(self._name, transaction_dict)
        raw = bytes_of_hex(answer.raw)
        if raw is None:
            _not_ours()
        v, r, s = _signature_of(raw)
        try:
            # The same fields with that signature must be the same bytes, and the
            # signature ours: then the enclave signed what was asked, and nothing else.
            expected = encode_transaction(unsigned, vrs=(v, r, s))
            sender = Account.recover_transaction(raw)
        except Exception:  # noqa: BLE001  # many libraries' errors; all mean the same
            _not_ours()
        digest = keccak(raw)
        if (raw, sender, bytes_of_hex(answer.hash)) != (expected, self.address, digest):
            _not_ours()
        return SignedTransaction(
            raw_transaction=HexBytes(raw), hash=HexBytes(digest), r=r, s=s, v=v
        )

    def sign_message(self, signable_message: SignableMessage) -> SignedMessage:
        """
        Sign what `eth_account.messages` has encoded.

        A personal message (`encode_defunct`) goes to the enclave as its text. Typed
        data has only hashes left in a `SignableMessage`, and those the enclave signs
        only for a client that may sign digests: use `sign_typed_data` instead.

        Raises:
            Refused: The policy has it so; for hashes, with that advice.
        """
        header, body = bytes(signable_message.header), bytes(signable_message.body)
        expected = _PERSONAL_HEADER + str(len(body)).encode()
        digest = keccak(b"\x19" + bytes(signable_message.version) + header + body)
        if signable_message.version == _PERSONAL and header == expected:
            return self._checked(self._client.sign_message(self._name, body), digest)
        try:
            return self.unsafe_sign_hash(digest)
        except Refused as refusal:
            if refusal.code != Code.NOT_ALLOWED:
                raise
            raise Refused(
                Code.NOT_ALLOWED,
                "this encoded message holds hashes only, and this client may not have "
                "digests signed",
                "give the message itself: account.sign_typed_data(full_message=…)",
            ) from None

    def sign_typed_data(
        self,
        domain_data: dict[str, Any] | None = None,
        message_types: dict[str, Any] | None = None,
        message_data: dict[str, Any] | None = None,
        full_message: dict[str, Any] | None = None,
    ) -> SignedMessage:
        """
        Sign EIP-712 typed data, given as eth-account takes it.

        Raises:
            ValueError: eth-account's own, for data that it would not encode.
            Malformed: The enclave would not.
            Refused: The policy has it so.
        """
        encoded = encode_typed_data(
            domain_data, message_types, message_data, full_message
        )
        digest = keccak(b"\x19" + encoded.version + encoded.header + encoded.body)
        if full_message is None:
            full_message = {
                "domain": domain_data or {},
                "types": message_types or {},
                "message": message_data or {},
            }
        complete = _complete_typed_data(full_message)
        return self._checked(self._client.sign_typed_data(self._name, complete), digest)

    def unsafe_sign_hash(self, message_hash: bytes) -> SignedMessage:
        """Sign 32 bytes of unknown meaning. Needs the permission `sign_digest`."""
        digest = bytes(HexBytes(message_hash))
        return self._checked(self._client.sign_digest(self._name, digest), digest)

    # What LocalAccount declares is not what it returns.
    def sign_authorization(  # type: ignore[override]
        self, authorization: Mapping[str, Any]
    ) -> SignedSetCodeAuthorization:
        """Sign an EIP-7702 authorization: `chainId`, `address`, `nonce`."""
        try:
            chain_id, nonce = authorization["chainId"], authorization["nonce"]
            address = to_canonical_address(authorization["address"])
            unsigned = Authorization(chain_id, address, nonce)
            digest = unsigned.hash()
        except (KeyError, TypeError, ValueError, rlp.exceptions.RLPException):
            raise Malformed(
                Code.MALFORMED_TRANSACTION,
                "an authorization has chainId, address and nonce",
            ) from None
        answer = self._client.sign_authorization(
            self._name,
            chain_id=chain_id,
            address=to_checksum_address(address),
            nonce=nonce,
        )
        try:
            y_parity, r, s = (int(n, 16) for n in (answer.y_parity, answer.r, answer.s))
        except ValueError:
            _not_ours()
        signature = self._own_signature(digest, y_parity, r, s)
        return SignedSetCodeAuthorization(
            chain_id=chain_id,
            address=address,
            nonce=nonce,
            y_parity=y_parity,
            r=r,
            s=s,
            signature=signature,
            authorization_hash=HexBytes(digest),
        )

    def _checked(self, answer: SignedMessageBody, digest: bytes) -> SignedMessage:
        signature = bytes_of_hex(answer.signature) or b""
        if len(signature) != 65:
            _not_ours()
        r, s = (int.from_bytes(part) for part in (signature[:32], signature[32:64]))
        v = signature[64]
        self._own_signature(digest, v - 27, r, s)
        return SignedMessage(
            message_hash=HexBytes(digest), r=r, s=s, v=v, signature=HexBytes(signature)
        )

    def _own_signature(self, digest: bytes, y_parity: int, r: int, s: int) -> Signature:
        try:
            signature = Signature(vrs=(y_parity, r, s))
            public_key = signature.recover_public_key_from_msg_hash(digest)
        except Exception:  # noqa: BLE001  # many libraries' errors; all mean the same
            _not_ours()
        if public_key.to_checksum_address() != self.address:
            _not_ours()
        return signature


def _signature_of(raw: bytes) -> tuple[int, int, int]:
    """Return v, r, s: the last three fields of every type of transaction."""
    # EIP-2718: a first byte below 0xc0 is the type, and the fields follow it.
    body = raw[1:] if raw[:1] < b"\xc0" else raw
    try:
        *_, v, r, s = rlp.decode(body)
        return int.from_bytes(v), int.from_bytes(r), int.from_bytes(s)
    except (rlp.exceptions.RLPException, TypeError, ValueError):
        _not_ours()


def _complete_typed_data(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return *message* with what eth-account leaves to be guessed."""
    types = dict(message["types"])
    domain = dict(message.get("domain") or {})
    if "EIP712Domain" not in types:
        types["EIP712Domain"] = [
            {"name": name, "type": kind}
            for name, kind in _DOMAIN_FIELDS.items()
            if name in domain
        ]
    primary = message.get("primaryType") or get_primary_type(
        {name: fields for name, fields in types.items() if name != "EIP712Domain"}
    )
    return {
        "types": types,
        "primaryType": primary,
        "domain": domain,
        "message": dict(message["message"]),
    }


def _not_ours() -> NoReturn:
    raise Undecided(
        Code.INTERNAL,
        "the signer's answer does not fit the request: nothing was returned",
        "do not send anything signed; verify the signer again",
    ) from None
