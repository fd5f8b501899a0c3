from random import Random
from typing import Any

import pytest
import rlp as independent_rlp

from nitrosigner.trusted.signing import addresses
from nitrosigner.trusted.signing import secp256k1 as curve
from nitrosigner.trusted.signing.algorithms import Signature
from nitrosigner.trusted.signing.authorizations import (
    Authorization,
    SignedAuthorization,
)
from nitrosigner.trusted.signing.ethereum_transactions import (
    AccessListEntry,
    AccessListTransaction,
    BlobTransaction,
    DynamicFeeTransaction,
    LegacyTransaction,
    SetCodeTransaction,
    Transaction,
    max_cost_wei,
    max_fee_wei,
    signed,
    signing_hash,
)
from nitrosigner.trusted.signing.keccak import keccak_256
from nitrosigner.trusted.signing.secp256k1 import Secp256k1
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Malformed

TO = addresses.Address(20 * b"\x35")
COMMON: dict[str, Any] = {
    "nonce": 9,
    "gas": 21000,
    "to": TO,
    "value": 10**18,
    "data": b"",
}
DYNAMIC: dict[str, Any] = COMMON | {
    "chain_id": 1,
    "max_priority_fee_per_gas": 2,
    "max_fee_per_gas": 100,
    "access_list": (),
}
LEGACY = LegacyTransaction(chain_id=1, gas_price=20 * 10**9, **COMMON)
TUPLE = SignedAuthorization(
    authorization=Authorization(chain_id=0, address=TO, nonce=0), y_parity=0, r=1, s=1
)
EVERY_TYPE: tuple[Transaction, ...] = (
    LegacyTransaction(chain_id=None, gas_price=20 * 10**9, **COMMON),
    LEGACY,
    AccessListTransaction(chain_id=1, gas_price=20 * 10**9, access_list=(), **COMMON),
    DynamicFeeTransaction(**DYNAMIC),
    BlobTransaction(
        max_fee_per_blob_gas=3, blob_versioned_hashes=(b"\x01" + bytes(31),), **DYNAMIC
    ),
    SetCodeTransaction(authorization_list=(TUPLE,), **DYNAMIC),
)


def test_the_example_of_eip_155(secp256k1: Secp256k1) -> None:
    assert signing_hash(LEGACY).hex() == (
        "daf5a779ae972f972197303d7b574746c7ef83eadac0f2791ad23db92e4c8e53"
    )
    with SecretBytes(bytearray(32 * b"\x46")) as secret:
        signature = secp256k1.sign(secret, signing_hash(LEGACY))
    assert signed(LEGACY, signature).raw.hex() == (
        "f86c098504a817c800825208943535353535353535353535353535353535353535880de0b6b3"
        "a76400008025a028ef61340bd939bc2195fe537567866003e1a15d3c71ff63e1590620aa6362"
        "76a067cbe9d8997f761aecb703304b3800ccf555c9f3dc64214b297fb1966a3b6d83"
    )


@pytest.mark.parametrize("transaction", EVERY_TYPE)
def test_who_signed_can_be_recovered(
    secp256k1: Secp256k1, transaction: Transaction
) -> None:
    with SecretBytes(bytearray(32 * b"\x46")) as secret:
        public_key = secp256k1.public_key(secret)
        signature = secp256k1.sign(secret, signing_hash(transaction))
    assert curve.recover(signing_hash(transaction), signature) == public_key
    result = signed(transaction, signature)
    assert result.hash == keccak_256(result.raw)
    # And the payload is one canonical list.
    payload = result.raw if result.raw[0] > 4 else result.raw[1:]
    assert isinstance(independent_rlp.decode(payload), list)


def test_no_two_transactions_share_what_is_signed() -> None:
    assert len({signing_hash(each) for each in EVERY_TYPE}) == len(EVERY_TYPE)


@pytest.mark.parametrize("zeros", range(33))
def test_r_and_s_lose_the_zeros_ahead_of_them(zeros: int) -> None:
    number = bytes(zeros) + Random(zeros).randbytes(32 - zeros)
    for transaction in EVERY_TYPE:
        raw = signed(transaction, Signature(number + number + b"\x01")).raw
        items = independent_rlp.decode(raw if raw[0] > 4 else raw[1:])
        assert [*items][-2:] == 2 * [number.lstrip(b"\0")]


def test_the_most_that_a_transaction_can_cost() -> None:
    fees = [max_fee_wei(each) for each in EVERY_TYPE]
    gas_price = 21000 * 20 * 10**9
    dynamic = 21000 * 100
    assert fees == [
        *(gas_price, gas_price, gas_price),
        *(dynamic, dynamic + 131072 * 3, dynamic),
    ]
    for each, fee in zip(EVERY_TYPE, fees, strict=True):
        assert max_cost_wei(each) == fee + 10**18


def test_each_blob_costs() -> None:
    many = BlobTransaction(
        max_fee_per_blob_gas=3,
        blob_versioned_hashes=6 * (b"\x01" + bytes(31),),
        **DYNAMIC,
    )
    assert max_fee_wei(many) == 21000 * 100 + 6 * 131072 * 3


@pytest.mark.parametrize("transaction", EVERY_TYPE)
def test_a_transaction_does_not_change(transaction: Transaction) -> None:
    with pytest.raises(AttributeError):
        transaction.value = 0  # type: ignore[misc]
    assert hash(transaction)


@pytest.mark.parametrize("size", [0, 19, 21, 32])
def test_an_address_that_is_not_20_bytes_is_in_no_transaction(size: int) -> None:
    wrong = addresses.Address(bytes(size))
    with pytest.raises(Malformed, match="20 bytes"):
        LegacyTransaction(chain_id=1, gas_price=0, **COMMON | {"to": wrong})
    with pytest.raises(Malformed, match="20 bytes"):
        AccessListEntry(wrong, ())
    with pytest.raises(Malformed, match="20 bytes"):
        Authorization(chain_id=1, address=wrong, nonce=0)
    with pytest.raises(Malformed, match="32 bytes"):
        AccessListEntry(TO, (bytes(size if size != 32 else 33),))
