from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrosigner.trusted.signing import addresses, json_values, transaction_fields
from nitrosigner.trusted.signing.secp256k1 import ORDER
from nitrosigner.trusted.signing.transaction_types import (
    MAX_ACCESS_LIST,
    MAX_AUTHORIZATIONS,
    MAX_BLOBS,
    MAX_DATA,
    AccessListTransaction,
    BlobTransaction,
    DynamicFeeTransaction,
    LegacyTransaction,
    SetCodeTransaction,
    Transaction,
)
from nitrosigner.verdicts import Code, Malformed, Refused, Verdict

SENDER = addresses.parse("0x9d8A62f656a8d1615C1294fd71e9CFb3E4855A4F")
TO = "0xa5D3241A1591061F2a4bB69CA0215F66520E67cf"

# The transaction of the source documents, with its value in wei.
SOURCE_DOCUMENTS = {
    "value": 10**16,
    "to": TO,
    "nonce": 0,
    "type": 2,
    "chainId": 4,
    "gas": 100000,
    "maxFeePerGas": 100000000000,
    "maxPriorityFeePerGas": 3000000000,
}
LEGACY = {"nonce": 1, "gas": 21000, "gasPrice": 7, "to": TO, "chainId": 1}
AUTHORIZATION = {
    "chainId": "0x1",
    "address": TO,
    "nonce": "0x0",
    "yParity": "0x1",
    "r": "0x1",
    "s": "0x2",
}
BLOB = SOURCE_DOCUMENTS | {
    "type": 3,
    "maxFeePerBlobGas": 1,
    "blobVersionedHashes": ["0x01" + 31 * "ab"],
}
SET_CODE = SOURCE_DOCUMENTS | {"type": 4, "authorizationList": [AUTHORIZATION]}
ACCESS_LIST = [{"address": TO, "storageKeys": ["0x" + 64 * "0"]}]


def parse(fields: object, default_chain_id: int | None = None) -> Transaction:
    return transaction_fields.parse(
        fields, sender=SENDER, default_chain_id=default_chain_id
    )


def refusal(fields: object, default_chain_id: int | None = None) -> Verdict:
    with pytest.raises(Verdict) as caught:
        parse(fields, default_chain_id)
    return caught.value


def test_the_transaction_of_the_source_documents() -> None:
    assert parse(SOURCE_DOCUMENTS) == DynamicFeeTransaction(
        chain_id=4,
        nonce=0,
        max_priority_fee_per_gas=3 * 10**9,
        max_fee_per_gas=10**11,
        gas=100000,
        to=addresses.parse(TO),
        value=10**16,
        data=b"",
        access_list=(),
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (LEGACY, LegacyTransaction),
        (LEGACY | {"accessList": []}, AccessListTransaction),
        (LEGACY | {"accessList": ACCESS_LIST}, AccessListTransaction),
        (SOURCE_DOCUMENTS | {"type": None}, DynamicFeeTransaction),
        (BLOB | {"type": None}, BlobTransaction),
        (SET_CODE | {"type": None}, SetCodeTransaction),
    ],
)
def test_without_a_type_it_is_the_one_that_has_the_fields(
    fields: dict[str, Any], expected: type
) -> None:
    assert type(parse(fields)) is expected
    without = {name: value for name, value in fields.items() if name != "type"}
    assert type(parse(without)) is expected


@pytest.mark.parametrize("type_", [2, "2", "0x2", "0x02", "eip1559"])
def test_a_type_has_several_spellings(type_: object) -> None:
    assert parse(SOURCE_DOCUMENTS | {"type": type_}) == parse(SOURCE_DOCUMENTS)


@pytest.mark.parametrize(
    "type_", [True, 2.0, 5, -1, "5", "0x", "0x7f", "EIP1559", "", [], {}, "02"]
)
def test_a_type_that_is_none_is_refused(type_: object) -> None:
    verdict = refusal(SOURCE_DOCUMENTS | {"type": type_})
    assert (verdict.code, verdict.message) == (
        Code.MALFORMED_TRANSACTION,
        "type is unknown",
    )


@pytest.mark.parametrize("extra", [{}, {"type": 0}, {"type": "legacy"}])
def test_a_legacy_transaction_has_a_chain_only_if_there_is_one(
    extra: dict[str, Any],
) -> None:
    without = {k: v for k, v in LEGACY.items() if k != "chainId"} | extra
    for fields in (without, without | {"chainId": None}):
        transaction = parse(fields)
        assert isinstance(transaction, LegacyTransaction)
        assert transaction.chain_id is None
        with_default = parse(fields, default_chain_id=5)
        assert isinstance(with_default, LegacyTransaction)
        assert with_default.chain_id == 5


def test_the_default_chain_is_for_those_who_name_none() -> None:
    assert parse(SOURCE_DOCUMENTS, default_chain_id=9).chain_id == 4
    without = {k: v for k, v in SOURCE_DOCUMENTS.items() if k != "chainId"}
    assert parse(without, default_chain_id=9).chain_id == 9
    assert refusal(without).message == "chainId is missing"


@pytest.mark.parametrize(
    "name", ["nonce", "gas", "maxFeePerGas", "chainId", "maxFeePerBlobGas"]
)
def test_what_must_be_there_is_asked_for_by_name(name: str) -> None:
    for missing in (
        {k: v for k, v in BLOB.items() if k != name},
        BLOB | {name: None},
    ):
        verdict = refusal(missing)
        assert verdict.message == f"{name} is missing"
        assert verdict.code is Code.MALFORMED_TRANSACTION


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        (LEGACY | {"type": 0, "gasPrice": None}, "gasPrice"),
        (LEGACY | {"type": 1, "gasPrice": None}, "gasPrice"),
        (BLOB | {"blobVersionedHashes": None}, "blobVersionedHashes"),
        (SET_CODE | {"authorizationList": None}, "authorizationList"),
    ],
)
def test_a_type_needs_its_own_fields(fields: dict[str, Any], name: str) -> None:
    assert refusal(fields).message == f"{name} is missing"


def test_no_fees_at_all_are_asked_for() -> None:
    fields = {k: v for k, v in LEGACY.items() if k != "gasPrice"}
    assert refusal(fields).message == "there are no fees"


@pytest.mark.parametrize(
    "name", ["value", "data", "input", "accessList", "maxPriorityFeePerGas", "from"]
)
def test_what_may_be_absent_may_be_null(name: str) -> None:
    without = {k: v for k, v in SOURCE_DOCUMENTS.items() if k != name}
    assert parse(without | {name: None}) == parse(without)


@pytest.mark.parametrize(
    "name",
    [
        *("value", "nonce", "gas", "chainId"),
        *("maxFeePerGas", "maxPriorityFeePerGas", "maxFeePerBlobGas"),
    ],
)
@pytest.mark.parametrize(
    "value",
    [
        *(0.01, 1.0, 1e18, True, False, "", "0x", "0xg", "-1", "+1", " 1", "1 "),
        *("1_0", "0x1_0", "0x 1", "0x-1", "0x0x1", "1.0", "1e3", "٣", "0x٣", "0X1"),
        *("0b1", [], {}, [1], b"\x01", 81 * "1", "0x" + 79 * "0", "one", "\n1"),
    ],
    ids=repr,
)
def test_what_is_no_whole_number_is_refused(name: str, value: object) -> None:
    verdict = refusal(BLOB | {name: value})
    assert isinstance(verdict, Malformed)
    assert verdict.code is Code.MALFORMED_TRANSACTION
    assert verdict.message.startswith(f"{name} is ")
    if isinstance(value, float):
        assert verdict.message == f"{name} is a float"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"chainId": 0}, "chainId is out of range"),
        ({"chainId": 2**63 - 36}, "chainId is out of range"),
        ({"nonce": -1}, "nonce is out of range"),
        ({"nonce": 2**64 - 1}, "nonce is out of range"),
        ({"gas": 2**64}, "gas is out of range"),
        ({"gas": -1}, "gas is out of range"),
        ({"value": 2**256}, "value is out of range"),
        ({"value": -1}, "value is out of range"),
        ({"maxFeePerGas": str(2**256)}, "maxFeePerGas is out of range"),
        ({"maxPriorityFeePerGas": -1}, "maxPriorityFeePerGas is out of range"),
        (
            {"maxPriorityFeePerGas": 10**11 + 1},
            "maxPriorityFeePerGas is higher than maxFeePerGas",
        ),
        ({"to": None}, "there is neither `to` nor `data`"),
        ({"to": "", "data": "0x"}, "there is neither `to` nor `data`"),
    ],
)
def test_what_is_out_of_bounds_is_refused(fields: dict[str, Any], message: str) -> None:
    assert refusal(SOURCE_DOCUMENTS | fields).message == message


@pytest.mark.parametrize("fee", [-1, str(2**256)])
def test_a_fee_for_blobs_has_bounds_too(fee: object) -> None:
    message = refusal(BLOB | {"maxFeePerBlobGas": fee}).message
    assert message == "maxFeePerBlobGas is out of range"


def test_the_bounds_themselves_are_inside() -> None:
    parse(
        SOURCE_DOCUMENTS
        | {
            "chainId": 2**63 - 37,
            "nonce": 2**64 - 2,
            "gas": 2**64 - 1,
            "value": str(2**256 - 1),
            "maxFeePerGas": str(2**256 - 1),
            "maxPriorityFeePerGas": str(2**256 - 1),
            "data": "0x" + MAX_DATA * "00",
        }
    )


@pytest.mark.parametrize("fields", [LEGACY, LEGACY | {"accessList": []}])
def test_a_gas_price_has_bounds_too(fields: dict[str, Any]) -> None:
    for price in (-1, 2**256):
        assert refusal(fields | {"gasPrice": price}).message == (
            "gasPrice is out of range"
        )


@pytest.mark.parametrize("fields", [BLOB, SET_CODE])
@pytest.mark.parametrize("to", [None, "", "0x"])
def test_blobs_and_set_code_cannot_make_a_contract(
    fields: dict[str, Any], to: str | None
) -> None:
    verdict = refusal(fields | {"to": to, "data": "0x60"})
    assert "cannot make a contract" in verdict.message


@pytest.mark.parametrize(
    "to",
    [*(0, False, [], {}, "0x0", "0x00", TO[:-1], TO + "0", TO[2:], TO.swapcase())],
    ids=repr,
)
def test_a_recipient_that_is_no_address_is_refused(to: object) -> None:
    verdict = refusal(SOURCE_DOCUMENTS | {"to": to, "data": "0x60"})
    assert verdict.code is Code.MALFORMED_TRANSACTION
    assert verdict.message in {
        "to is not 0x and 40 hex digits",
        "the checksum of to is wrong",
    }


@pytest.mark.parametrize(
    "data", ["", "00", "0x0", "0xzz", "0x 00", "0x00 00", "0X00", 0, True, [], b"\0"]
)
@pytest.mark.parametrize("name", ["data", "input"])
def test_data_that_is_no_hex_is_refused(name: str, data: object) -> None:
    assert refusal(SOURCE_DOCUMENTS | {name: data}).message == (
        f"{name} is not bytes in hex"
    )


@pytest.mark.parametrize("size", [MAX_DATA + 1, json_values.MAX_HEX_BYTES + 1])
def test_data_that_is_too_long_is_refused_as_that(size: int) -> None:
    verdict = refusal(SOURCE_DOCUMENTS | {"data": "0x" + size * "00"})
    assert verdict.code is Code.TOO_LARGE


def test_two_names_of_one_thing_must_say_the_same() -> None:
    cast = SOURCE_DOCUMENTS | {"input": "0xAb", "data": "0xab", "gasLimit": "0x186a0"}
    assert parse(cast).data == b"\xab"
    assert parse(SOURCE_DOCUMENTS | {"input": "0xab"}).data == b"\xab"
    assert refusal(cast | {"input": "0xac"}).message == (
        "data and input contradict each other"
    )
    assert refusal(cast | {"input": "0x"}).message == (
        "data and input contradict each other"
    )
    assert refusal(cast | {"gasLimit": 1}).message == (
        "gas and gasLimit contradict each other"
    )


def test_the_sender_is_compared_in_any_case() -> None:
    text = addresses.checksummed(SENDER)
    for spelled in (text, text.lower(), "0x" + text[2:].upper()):
        assert parse(SOURCE_DOCUMENTS | {"from": spelled}) == parse(SOURCE_DOCUMENTS)


def test_another_sender_is_refused() -> None:
    verdict = refusal(SOURCE_DOCUMENTS | {"from": TO})
    assert isinstance(verdict, Refused)
    assert verdict.code is Code.WRONG_SENDER
    assert refusal(SOURCE_DOCUMENTS | {"account": TO}).code is Code.WRONG_SENDER
    verdict = refusal(SOURCE_DOCUMENTS | {"account": {"address": TO, "type": "json"}})
    assert verdict.code is Code.WRONG_SENDER


@pytest.mark.parametrize("origin", ["", "0x", 5, [], {}, TO[:-1], TO.swapcase()])
def test_a_sender_that_is_no_address_is_malformed(origin: object) -> None:
    for name in ("from", "account"):
        verdict = refusal(SOURCE_DOCUMENTS | {name: origin})
        assert verdict.code is Code.MALFORMED_TRANSACTION


def test_what_viem_hands_to_an_account_is_taken() -> None:
    sender = addresses.checksummed(SENDER)
    viem = SOURCE_DOCUMENTS | {
        "type": "eip1559",
        "gasPrice": None,
        "account": {"address": sender, "type": "local", "source": "custom"},
        "chain": {"id": 4, "name": "Rinkeby", "nativeCurrency": {"decimals": 18}},
        "accessList": None,
        "maxFeePerBlobGas": None,
        "from": sender.lower(),
    }
    assert parse(viem) == parse(SOURCE_DOCUMENTS)
    assert parse(viem | {"account": sender, "chain": None}) == parse(SOURCE_DOCUMENTS)
    assert parse(viem | {"account": None}) == parse(SOURCE_DOCUMENTS)


def test_a_chain_of_viem_must_agree_with_the_chain_id() -> None:
    assert refusal(SOURCE_DOCUMENTS | {"chain": {"id": 5}}).message == (
        "chain and chainId contradict each other"
    )
    without = {k: v for k, v in SOURCE_DOCUMENTS.items() if k != "chainId"}
    assert parse(without | {"chain": {"id": 7}}, default_chain_id=7).chain_id == 7
    for chain in ({}, {"id": None}, {"id": 4.0}, "rinkeby", 4, []):
        assert refusal(SOURCE_DOCUMENTS | {"chain": chain}).code is (
            Code.MALFORMED_TRANSACTION
        )
    assert refusal(without | {"chain": {"id": 4}}).code is Code.MALFORMED_TRANSACTION


@pytest.mark.parametrize(
    "name", ["gaz", "Value", "valeu", "v", "hash", "chainid", "", "gas ", 300 * "x"]
)
@pytest.mark.parametrize("value", [1, None])
def test_an_unknown_field_is_named(name: str, value: object) -> None:
    message = refusal(SOURCE_DOCUMENTS | {name: value}).message
    assert message.startswith(f"the field '{name[:40]}")
    assert len(message) < 90


@pytest.mark.parametrize("name", ["\n", "\x1b[31m", "\u202e", "💥"])
def test_what_an_error_repeats_is_printable_ascii(name: str) -> None:
    message = refusal(SOURCE_DOCUMENTS | {name: 1}).message
    assert message.isascii()
    assert message.isprintable()


@pytest.mark.parametrize("name", ["blobs", "sidecars", "commitments", "proofs", "kzg"])
def test_a_sidecar_is_left_to_who_broadcasts(name: str) -> None:
    verdict = refusal(BLOB | {name: []})
    assert "sidecar" in verdict.message
    assert "blobVersionedHashes" in verdict.hint


@pytest.mark.parametrize(
    ("fields", "extra"),
    [
        (SOURCE_DOCUMENTS, {"gasPrice": 1}),
        (LEGACY, {"type": 0, "maxFeePerGas": 1}),
        (LEGACY, {"type": 0, "accessList": []}),
        (LEGACY, {"type": 1, "maxPriorityFeePerGas": 1}),
        (SOURCE_DOCUMENTS, {"authorizationList": [AUTHORIZATION]}),
        (SOURCE_DOCUMENTS, {"blobVersionedHashes": BLOB["blobVersionedHashes"]}),
        (BLOB, {"authorizationList": [AUTHORIZATION]}),
        (SET_CODE, {"maxFeePerBlobGas": 1}),
    ],
)
def test_a_field_of_another_type_is_refused(
    fields: dict[str, Any], extra: dict[str, Any]
) -> None:
    message = refusal(fields | extra).message
    assert message.startswith("a transaction of type ")
    assert message.endswith(next(name for name in extra if name != "type"))


@pytest.mark.parametrize(
    "access_list",
    [
        *("", 0, {}, False, "0x", [TO], [[TO, []]], [{}], [{"address": TO}]),
        [{"address": TO, "storageKeys": None}],
        [{"address": TO, "storageKeys": {}}],
        [{"address": TO, "storageKeys": [], "more": 1}],
        [{"address": TO, "storageKeys": ["0x00"]}],
        [{"address": TO, "storageKeys": ["0x" + 66 * "0"]}],
        [{"address": TO, "storageKeys": [0]}],
        [{"address": "0x", "storageKeys": []}],
        [{"address": None, "storageKeys": []}],
    ],
    ids=repr,
)
def test_an_access_list_of_another_form_is_refused(access_list: object) -> None:
    verdict = refusal(SOURCE_DOCUMENTS | {"accessList": access_list})
    assert verdict.code is Code.MALFORMED_TRANSACTION


def test_an_access_list_is_bounded_in_sum() -> None:
    keys = (MAX_ACCESS_LIST // 2 - 1) * ["0x" + 64 * "0"]
    two = [{"address": TO, "storageKeys": keys}, {"address": TO, "storageKeys": keys}]
    parse(SOURCE_DOCUMENTS | {"accessList": two})
    more = [*two, {"address": TO, "storageKeys": []}]
    verdict = refusal(SOURCE_DOCUMENTS | {"accessList": more})
    assert verdict.code is Code.TOO_LARGE
    for much in (
        (MAX_ACCESS_LIST + 1) * [{}],
        [{"address": TO, "storageKeys": (MAX_ACCESS_LIST + 1) * [""]}],
    ):
        assert isinstance(refusal(SOURCE_DOCUMENTS | {"accessList": much}), Malformed)


@pytest.mark.parametrize(
    "hashes",
    [
        *([], {}, "", 0, ["0x"], [1], [None], ["0x00" + 31 * "ab"]),
        *(["0x02" + 31 * "ab"], ["0x01" + 30 * "ab"], ["0x01" + 32 * "ab"]),
        (MAX_BLOBS + 1) * BLOB["blobVersionedHashes"],
    ],
)
def test_blob_hashes_of_another_form_are_refused(hashes: object) -> None:
    verdict = refusal(BLOB | {"blobVersionedHashes": hashes})
    assert verdict.code is Code.MALFORMED_TRANSACTION


@pytest.mark.parametrize(
    "tuples",
    [
        *([], {}, "", 0, [[]], [None], [{}], (MAX_AUTHORIZATIONS + 1) * [{}]),
        [AUTHORIZATION | {"more": 1}],
        *([AUTHORIZATION | {name: None}] for name in AUTHORIZATION),
        *([AUTHORIZATION | {name: 1.0}] for name in AUTHORIZATION),
        [AUTHORIZATION | {"yParity": 2}],
        [AUTHORIZATION | {"yParity": 27}],
        [AUTHORIZATION | {"v": 29}],
        [AUTHORIZATION | {"v": 27}],
        [AUTHORIZATION | {"r": 0}],
        [AUTHORIZATION | {"r": str(ORDER)}],
        [AUTHORIZATION | {"s": 0}],
        [AUTHORIZATION | {"s": str(ORDER // 2 + 1)}],
        [AUTHORIZATION | {"nonce": str(2**64 - 1)}],
        [AUTHORIZATION | {"chainId": -1}],
        [AUTHORIZATION | {"chainId": str(2**63)}],
        [AUTHORIZATION | {"address": "0x"}],
    ],
    ids=lambda value: repr(value)[:60],
)
def test_authorizations_of_another_form_are_refused(tuples: object) -> None:
    verdict = refusal(SET_CODE | {"authorizationList": tuples})
    assert verdict.code is Code.MALFORMED_TRANSACTION


@pytest.mark.parametrize("parity", [0, 1])
def test_the_parity_of_an_authorization_may_be_called_v(parity: int) -> None:
    expected = parse(
        SET_CODE | {"authorizationList": [AUTHORIZATION | {"yParity": parity}]}
    )
    without = {k: v for k, v in AUTHORIZATION.items() if k != "yParity"}
    for v in (parity, 27 + parity, hex(27 + parity)):
        for more in ({}, {"yParity": parity}):
            tuples = [without | {"v": v} | more]
            assert parse(SET_CODE | {"authorizationList": tuples}) == expected


@pytest.mark.parametrize("fields", [None, [], "", 0, "{}", [SOURCE_DOCUMENTS]])
def test_what_is_no_object_is_refused(fields: object) -> None:
    assert refusal(fields).message == "a transaction is not a JSON object"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=10)
    | st.sampled_from(["0x", "0x0", "0x1", TO, TO.lower(), "0x" + 64 * "0", "eip1559"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(
    st.sampled_from([LEGACY, SOURCE_DOCUMENTS, BLOB, SET_CODE]),
    st.dictionaries(
        st.sampled_from(
            sorted(
                {*BLOB, *SET_CODE, *LEGACY, "accessList", "data", "input", "gasLimit"}
                | {"from", "account", "chain", "blobs", "foo"}
            )
        ),
        JSON,
        max_size=3,
    ),
)
def test_anything_else_gets_a_verdict_or_a_transaction(
    fields: dict[str, Any], changes: dict[str, Any]
) -> None:
    try:
        parse(msgspec.json.decode(msgspec.json.encode(fields | changes)))
    except Verdict as verdict:
        code = verdict.code
    else:
        return
    assert code in {Code.MALFORMED_TRANSACTION, Code.TOO_LARGE, Code.WRONG_SENDER}
