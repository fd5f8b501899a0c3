import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrosigner.trusted.signing import addresses, typed_data, typed_data_types
from nitrosigner.trusted.signing.keccak import keccak_256
from nitrosigner.trusted.signing.secp256k1 import Secp256k1
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.trusted.signing.typed_data import Domain
from nitrosigner.verdicts import Code, Malformed

VECTORS = Path(__file__).parent / "vectors"
MAIL: dict[str, Any] = msgspec.json.decode((VECTORS / "eip_712_mail.json").read_bytes())
METAMASK: list[dict[str, Any]] = msgspec.json.decode(
    (VECTORS / "eip_712_metamask.json").read_bytes()
)["vectors"]

ADDRESS = "0xcd2a3d9f938e13cd947ec05abc7fe734df8dd826"


def digest(document: object) -> str:
    return typed_data.digest(typed_data.parse(document)).hex()


def refusal(document: object) -> Malformed:
    with pytest.raises(Malformed) as caught:
        typed_data.parse(document)
    return caught.value


def with_field(kind: str, value: Any) -> dict[str, Any]:
    return {
        "types": {"T": [{"name": "x", "type": kind}]},
        "primaryType": "T",
        "domain": {},
        "message": {"x": value},
    }


def with_types(types: Any) -> dict[str, Any]:
    return {"types": types, "primaryType": "T", "domain": {}, "message": {}}


def mail(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    document = copy.deepcopy(MAIL)
    change(document)
    return document


def test_the_example_of_eip_712(secp256k1: Secp256k1) -> None:
    parsed = typed_data.parse(MAIL)
    assert parsed.domain_separator.hex() == (
        "f2cee375fa42b42143804025fc449deafd50cc031ca257e0b194a650a912090f"
    )
    assert parsed.message_hash.hex() == (
        "c52c0ee5d84264471806290a3f2c4cecfc5490626bf912d01f240d7a274b371e"
    )
    assert digest(MAIL) == (
        "be609aee343fb3c4b28e1df9e632fca64fcfaede20f02e86244efddf30957bd2"
    )
    with SecretBytes(bytearray(keccak_256(b"cow"))) as secret:
        signature = secp256k1.sign(secret, typed_data.digest(parsed))
    assert signature.hex() == (
        "4355c47d63924e8a72e509b65029052eb6c299d53a04e167c5775fd466751c9d"
        "07299936d304c153f6443dfa05f40ff007d72911b6f72307f996231605b91562"
        "01"
    )


@pytest.mark.parametrize("vector", METAMASK, ids=lambda vector: vector["digest"][:8])
def test_metamask_has_the_same_digests(vector: dict[str, Any]) -> None:
    assert digest(vector["document"]) == vector["digest"]


def test_a_policy_sees_whom_a_signature_is_for() -> None:
    parsed = typed_data.parse(MAIL)
    assert parsed.primary_type == "Mail"
    assert parsed.domain == Domain(
        name="Ether Mail",
        version="1",
        chain_id=1,
        verifying_contract=addresses.Address(20 * b"\xcc"),
        salt=None,
    )


@pytest.mark.parametrize("chain_id", [31337, "31337", "0x7a69"])
def test_the_chain_is_one_number_however_it_is_written(chain_id: object) -> None:
    document = mail(lambda document: document["domain"].update(chainId=chain_id))
    assert typed_data.parse(document).domain.chain_id == 31337


def test_what_the_domain_does_not_say_is_none() -> None:
    document = with_field("uint8", 1)
    expected = Domain(
        name=None, version=None, chain_id=None, verifying_contract=None, salt=None
    )
    assert typed_data.parse(document).domain == expected
    nulls = document | {"domain": {"name": None, "chainId": None}}
    assert typed_data.parse(nulls) == typed_data.parse(document)


def test_the_domain_alone_is_signed_without_a_message() -> None:
    document = mail(
        lambda document: document.update(primaryType="EIP712Domain", message={})
    )
    separator = typed_data.parse(document).domain_separator
    assert digest(document) == keccak_256(b"\x19\x01" + separator).hex()
    verdict = refusal(document | {"message": {"contents": "?"}})
    assert "`message` is not empty" in verdict.message


@pytest.mark.parametrize(
    "document",
    [
        *(None, [], "", "{}", 0, {}, MAIL | {"more": 1}),
        *({k: v for k, v in MAIL.items() if k != name} for name in MAIL),
        *(MAIL | {name: None} for name in MAIL),
        *(MAIL | {name: []} for name in MAIL),
        *(MAIL | {name: "Mail"} for name in MAIL if name != "primaryType"),
        *(MAIL | {"primaryType": each} for each in ("mail", "uint8", "Mail[]", "", 1)),
    ],
    ids=lambda value: repr(value)[-50:],
)
def test_a_document_of_another_form_is_refused(document: object) -> None:
    assert refusal(document).code is Code.MALFORMED_TYPED_DATA


@pytest.mark.parametrize(
    "types",
    [
        *({"T": {}}, {"T": None}, {"T": ["x"]}, {"T": [{}]}, {"T": [{"name": "x"}]}),
        {"T": [{"name": "x", "type": "uint8", "more": 1}]},
        {"T": [{"name": "x", "type": "uint8"}, {"name": "x", "type": "int8"}]},
        *({"T": [{"name": n, "type": "bool"}]} for n in ("", "a b", "1a", 1, "a,b")),
        *({"T": [{"name": n, "type": "bool"}]} for n in ("é", "a)", 129 * "a", "a\n")),
        *({"T": [], n: []} for n in ("", "a b", "1a", "a,b", "a(", "é", 129 * "a")),
        *({"T": [], n: []} for n in ("uint256", "bytes", "bytes7", "T[]", "a\n")),
        {"T": [{"name": "x", "type": "$a"}], "$a": []},
        {"T": [], "a:b": [{"name": "x", "type": "T[]"}]},
    ],
    ids=lambda value: repr(value)[:60],
)
def test_types_of_another_form_are_refused(types: dict[str, Any]) -> None:
    verdict = refusal(with_types(types))
    assert verdict.code is Code.MALFORMED_TYPED_DATA
    # The empty message is not what is wrong.
    assert "is missing" not in verdict.message


@pytest.mark.parametrize(
    "kind",
    [
        *("", "Unknown", "Unknown[]", "uint7", "uint264", "uint08", "uint0", "int0"),
        *("bytes0", "bytes33", "bytes01", "byte", "fixed128x18", "function", "Uint8"),
        *("uint8[0]", "uint8[01]", "uint8[-1]", "uint8[ ]", "uint8[", "uint8]", "[]"),
        *("uint8[][", "uint8 []", " uint8", "uint8\n", "uint8[1000000]", "T,U", 5),
        *(None, ["uint8"], "t", "uint8[٣]", "address payable", "mapping(a=>b)"),
    ],
    ids=repr,
)
def test_a_type_that_is_none_is_refused(kind: Any) -> None:
    assert refusal(with_field(kind, 1)).code is Code.MALFORMED_TYPED_DATA


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("uint8", (-1, 256, "256", "-1", "0x100", "", "0x", 1.0, True, None, "1_0")),
        ("uint256", (2**256, str(2**256), "0x1" + 64 * "0", 1e18, [1], {}, "٣")),
        ("int8", (-129, 128, "-129", "128", "-", "--1", "-0x1", "- 1", False, 0.5)),
        ("int256", (2**255, -(2**255) - 1, str(-(2**255) - 1), "-" + 90 * "1")),
        ("bool", (0, 1, "true", "false", "", None, [], "0x1")),
        ("address", (ADDRESS[:-1], ADDRESS[2:], "", 0, None, ADDRESS[:-1] + "Q", "0x")),
        ("address", (ADDRESS.replace("c", "C"), int(ADDRESS, 16), [ADDRESS])),
        ("bytes", ("", "text", "0x0", "0x 00", 0, None, [0], "00", True)),
        ("bytes4", ("0x", "0x000000", "0x0000000000", "abcd", 0, None, "0x0000000g")),
        ("bytes32", ("0x" + 62 * "0", "0x" + 66 * "0")),
        ("string", (None, 0, True, [], {}, "\ud800")),
        ("uint8[]", (None, 0, {}, "[]", "0x01", [None], [256], [[1]])),
        ("uint8[2]", ([], [1], [1, 2, 3], None, {"0": 1, "1": 2})),
        ("uint8[2][]", ([1], [[1]], [[1, 2], [1]])),
        ("uint8[][2]", ([[]], [[], [], []], [1, 2])),
        ("T", (1, "", [], False, 0, {"y": 1})),
        ("T[]", ([1], [[]], [{"y": 1}])),
    ],
)
def test_a_value_that_does_not_fit_its_type_is_refused(
    kind: str, values: tuple[Any, ...]
) -> None:
    for value in values:
        assert refusal(with_field(kind, value)).code is Code.MALFORMED_TYPED_DATA


@pytest.mark.parametrize("kind", ["uint8", "string", "bytes", "uint8[]", "T[]"])
def test_only_a_struct_may_be_absent(kind: str) -> None:
    document = with_field(kind, None)
    document["message"] = {}
    assert refusal(document).message == "'x' is missing"


def test_a_struct_that_is_absent_is_the_same_as_null() -> None:
    document = with_field("T", None)
    assert digest(document | {"message": {}}) == digest(document)
    assert digest(document | {"message": {"x": {}}}) != digest(document)


def test_what_no_type_declares_is_refused_and_named() -> None:
    for document in (
        mail(lambda document: document["message"].update(cc="Eve")),
        mail(lambda document: document["message"]["to"].update(cc="Eve")),
        mail(lambda document: document["domain"].update(cc="Eve")),
    ):
        assert "'cc'" in refusal(document).message


@pytest.mark.parametrize(
    "field",
    [
        {"name": "chainId", "type": "uint8"},
        {"name": "chainId", "type": "string"},
        {"name": "salt", "type": "string"},
        {"name": "owner", "type": "address"},
        {"name": "name", "type": "string[]"},
    ],
    ids=str,
)
def test_a_domain_has_only_the_fields_of_the_eip(field: dict[str, str]) -> None:
    document = with_field("uint8", 1)
    document["types"]["EIP712Domain"] = [field]
    document["domain"] = {field["name"]: 1}
    assert "EIP712Domain cannot have" in refusal(document).message


def test_the_domain_has_what_its_type_declares_no_more_and_no_less() -> None:
    assert "'chainId' is missing" in (
        refusal(mail(lambda document: document["domain"].pop("chainId"))).message
    )
    assert "'salt'" in (
        refusal(
            mail(lambda document: document["domain"].update(salt="0x" + 64 * "0"))
        ).message
    )
    undeclared = mail(lambda document: document["types"].pop("EIP712Domain"))
    assert digest(undeclared) == digest(MAIL)
    assert "EIP712Domain" not in undeclared["types"]
    assert "'owner'" in refusal(undeclared | {"domain": {"owner": 1}}).message


def test_each_limit_is_a_limit() -> None:
    assert digest(with_types({f"A{n}": [] for n in range(63)} | {"T": []}))
    field = {"name": "x", "type": "bool"}
    long = 120 * "x"
    deep: Any = None
    for _ in range(typed_data.MAX_DEPTH):
        deep = {"x": deep}
    shallow = deep["x"]["x"]
    too_large = (
        with_types({f"A{n}": [] for n in range(64)} | {"T": []}),
        with_types({"T": [field | {"name": f"x{n}"} for n in range(129)]}),
        with_types(
            {
                f"T{n}": [field | {"name": f"{long}{m}"} for m in range(128)]
                for n in range(3)
            }
            | {"T": []}
        ),
        with_field("uint8" + 33 * "[]", []),
        with_field("uint8[]", typed_data.MAX_VALUES * [1]),
        with_field("T", deep),
    )
    for document in too_large:
        assert refusal(document).code is Code.TOO_LARGE
    assert digest(with_field("uint8" + 32 * "[]", []))
    assert digest(with_field("uint8[]", (typed_data.MAX_VALUES - 1) * [1]))
    assert digest(with_field("T", shallow))
    assert typed_data_types.MAX_TYPES == 64


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from([ADDRESS, "Person", "Mail", "uint8", "Mail[]", "EIP712Domain"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "type", "from", "to", "wallet", "x"]), inner
        )
    ),
    max_leaves=10,
)


@given(
    st.dictionaries(st.sampled_from(sorted(MAIL)), JSON, max_size=2),
    st.dictionaries(st.sampled_from(["Mail", "Person", "EIP712Domain"]), JSON),
    st.dictionaries(st.sampled_from(["from", "to", "contents", "x"]), JSON),
)
def test_anything_else_gets_a_verdict_or_a_digest(
    top: dict[str, Any], types: dict[str, Any], message: dict[str, Any]
) -> None:
    document = MAIL | {
        "types": MAIL["types"] | types,
        "message": MAIL["message"] | message,
    }
    try:
        assert len(digest(document | top)) == 64
    except Malformed as verdict:
        code = verdict.code
    else:
        return
    assert code in {Code.MALFORMED_TYPED_DATA, Code.TOO_LARGE}
