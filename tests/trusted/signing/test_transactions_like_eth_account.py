"""
Every transaction that we sign, eth-account signs to the same bytes.

The generator favours the edges of RLP (0, 127, 128, 55 and 56 bytes, no zeros ahead),
and writes each request in one of the spellings that clients use, so what is compared
is the way of a request from its JSON to the raw transaction.
"""

from collections.abc import Iterator
from random import Random
from typing import Any

import msgspec
import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount
from hypothesis import given
from hypothesis import strategies as st

from nitrosigner.trusted.signing import (
    addresses,
    authorization_fields,
    authorizations,
    transaction_fields,
)
from nitrosigner.trusted.signing.ethereum_transactions import (
    SignedTransaction,
    signed,
    signing_hash,
)
from nitrosigner.trusted.signing.secp256k1 import ORDER, Secp256k1
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.trusted.signing.transaction_types import MAX_CHAIN_ID

CASES_FOR_EACH_TYPE = 4000
EDGES = (0, 1, 2, 127, 128, 129, 255, 256, 257, 65535, 65536, 2**32, 2**63 - 37)
SIZES = (0, 0, 1, 1, 2, 31, 32, 33, 54, 55, 56, 57, 68, 255, 256, 257, 1000)


def number(random: Random, most: int, least: int = 0) -> int:
    if random.random() < 0.4:
        return min(max(random.choice((*EDGES, most, most - 1)), least), most)
    return min(
        max(random.getrandbits(random.randint(1, most.bit_length() or 1)), least), most
    )


def text(random: Random, data: bytes) -> str:
    return "0x" + (data.hex() if random.random() < 0.7 else data.hex().upper())


def address(random: Random) -> bytes:
    kind = random.random()
    if kind < 0.1:
        return bytes(20)
    return bytes(10) + random.randbytes(10) if kind < 0.2 else random.randbytes(20)


def access_list(random: Random) -> list[dict[str, Any]]:
    return [
        {
            "address": "0x" + address(random).hex(),
            "storageKeys": [
                "0x" + random.randbytes(random.choice((0, 1, 32))).hex().zfill(64)
                for _ in range(random.choice((0, 1, 2, 3)))
            ],
        }
        for _ in range(random.choice((0, 0, 1, 2, 5)))
    ]


def authorization(random: Random) -> dict[str, Any]:
    return {
        "chainId": number(random, MAX_CHAIN_ID),
        "address": "0x" + address(random).hex(),
        "nonce": number(random, 2**64 - 2),
        "yParity": random.randrange(2),
        "r": number(random, ORDER - 1, 1),
        "s": number(random, ORDER // 2, 1),
    }


def fields_of(random: Random, kind: str) -> dict[str, Any]:
    """Return a transaction as eth-account takes it: numbers, bytes, hex."""
    fields: dict[str, Any] = {
        "nonce": number(random, 2**64 - 2),
        "gas": number(random, 2**64 - 1),
        "to": address(random),
        "value": number(random, 2**256 - 1),
        "data": random.randbytes(random.choice(SIZES)),
    }
    if random.random() < 0.1:
        fields["data"] = bytes([random.choice((0, 1, 127, 128, 255))])
    if kind not in ("blob", "set code") and random.random() < 0.1:
        fields |= {"to": b"", "data": fields["data"] or b"\x60"}
    if kind != "unprotected":
        fields["chainId"] = number(random, MAX_CHAIN_ID, 1)
    if kind in ("unprotected", "legacy", "access list"):
        fields["gasPrice"] = number(random, 2**256 - 1)
    else:
        fields["maxFeePerGas"] = number(random, 2**256 - 1)
        fields["maxPriorityFeePerGas"] = number(random, fields["maxFeePerGas"])
    if kind == "access list" or (
        kind not in ("unprotected", "legacy") and random.random() < 0.5
    ):
        fields["accessList"] = access_list(random)
    if kind == "blob":
        fields["maxFeePerBlobGas"] = number(random, 2**256 - 1)
        fields["blobVersionedHashes"] = [
            "0x01" + random.randbytes(31).hex() for _ in range(random.randint(1, 6))
        ]
    if kind == "set code":
        fields["authorizationList"] = [
            authorization(random) for _ in range(random.randint(1, 4))
        ]
    return fields


TYPES = {
    "unprotected": (0, "0x0", "0", "legacy"),
    "legacy": (0, "0x0", "0", "legacy"),
    "access list": (1, "0x1", "1", "eip2930"),
    "dynamic fee": (2, "0x2", "2", "eip1559"),
    "blob": (3, "0x3", "3", "eip4844"),
    "set code": (4, "0x4", "4", "eip7702"),
}


def spelling(random: Random, value: Any) -> Any:
    if isinstance(value, int):
        return random.choice((value, hex(value), str(value), f"0x{value:064x}"))
    if isinstance(value, bytes):
        return text(random, value)
    if isinstance(value, list):
        return [spelling(random, each) for each in value]
    if isinstance(value, dict):
        return {name: spelling(random, each) for name, each in value.items()}
    return value


def request(
    random: Random, kind: str, fields: dict[str, Any], sender: str
) -> dict[str, Any]:
    """Return the same transaction as one of our clients could write it in JSON."""
    spelled = {name: spelling(random, value) for name, value in fields.items()}
    if not fields["to"]:
        spelled["to"] = random.choice((None, "", "0x"))
        if spelled["to"] is None and random.random() < 0.5:
            del spelled["to"]
    elif random.random() < 0.5:
        spelled["to"] = addresses.checksummed(fields["to"])
    if random.random() < 0.3:
        spelled["gasLimit"] = spelling(random, fields["gas"])
        if random.random() < 0.5:
            del spelled["gas"]
    if random.random() < 0.3:
        spelled["input"] = text(random, fields["data"])
        if random.random() < 0.5:
            del spelled["data"]
    if random.random() < 0.5 or (kind == "access list" and not fields["accessList"]):
        spelled["type"] = random.choice(TYPES[kind])
    if random.random() < 0.5:
        spelled["from"] = random.choice((sender, sender.lower()))
    for absent in ("gasPrice", "maxFeePerGas", "maxPriorityFeePerGas", "accessList"):
        if absent not in fields and random.random() < 0.1:
            spelled[absent] = None
    names = list(spelled)
    random.shuffle(names)
    # Through JSON and back, since that is what the enclave gets.
    body = msgspec.json.encode({name: spelled[name] for name in names})
    decoded: dict[str, Any] = msgspec.json.decode(body)
    return decoded


def sign(
    secp256k1: Secp256k1, key: bytes, spelled: dict[str, Any]
) -> SignedTransaction:
    with SecretBytes(bytearray(key)) as secret:
        sender = addresses.parse(secp256k1.identity(secp256k1.public_key(secret)))
        transaction = transaction_fields.parse(spelled, sender=sender)
        signature = secp256k1.sign(secret, signing_hash(transaction))
    return signed(transaction, signature)


def accounts(random: Random) -> Iterator[LocalAccount]:
    while True:
        account = Account.from_key(random.randrange(1, ORDER).to_bytes(32, "big"))
        yield from [account] * 100


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", TYPES)
def test_eth_account_signs_the_same_bytes(secp256k1: Secp256k1, kind: str) -> None:
    random = Random(f"seed of {kind}")
    account = accounts(random)
    for _ in range(CASES_FOR_EACH_TYPE):
        signer = next(account)
        fields = fields_of(random, kind)
        spelled = request(random, kind, fields, signer.address)
        # Of its own accord eth-account says 1 when there is an access list.
        expected = signer.sign_transaction(
            fields
            if kind in ("legacy", "unprotected")
            else fields | {"type": TYPES[kind][0]}
        )
        ours = sign(secp256k1, bytes(signer.key), spelled)
        assert ours.raw == bytes(expected.raw_transaction), spelled
        assert ours.hash == bytes(expected.hash), spelled


@given(st.randoms(use_true_random=False), st.sampled_from(sorted(TYPES)))
def test_whatever_hypothesis_finds_is_the_same_too(
    secp256k1: Secp256k1, random: Random, kind: str
) -> None:
    account = Account.from_key(random.randrange(1, ORDER).to_bytes(32, "big"))
    fields = fields_of(random, kind)
    spelled = request(random, kind, fields, account.address)
    expected = account.sign_transaction(
        fields
        if kind in ("legacy", "unprotected")
        else fields | {"type": TYPES[kind][0]}
    )
    assert sign(secp256k1, bytes(account.key), spelled).raw == bytes(
        expected.raw_transaction
    )


def test_authorizations_are_signed_as_eth_account_signs_them(
    secp256k1: Secp256k1,
) -> None:
    random = Random(7702)
    for _ in range(500):
        account = Account.from_key(random.randrange(1, ORDER).to_bytes(32, "big"))
        unsigned = authorization(random)
        unsigned = {name: unsigned[name] for name in ("chainId", "address", "nonce")}
        expected = account.sign_authorization(dict(unsigned))
        ours = authorization_fields.parse(
            *(spelling(random, value) for value in unsigned.values())
        )
        digest = authorizations.signing_hash(ours)
        assert digest == bytes(expected.authorization_hash)
        with SecretBytes(bytearray(account.key)) as secret:
            tuple_ = authorizations.signed(ours, secp256k1.sign(secret, digest))
        assert (tuple_.y_parity, tuple_.r, tuple_.s) == (
            expected.y_parity,
            expected.r,
            expected.s,
        )
        assert (
            addresses.checksummed(authorizations.authority(tuple_)) == account.address
        )
