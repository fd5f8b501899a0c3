"""The policy as a table: who may have what signed with which key."""

from typing import Any

import msgspec
import pytest

from nitrosigner.trusted.enclave.permissions.permit import Permit
from nitrosigner.trusted.enclave.permissions.policy import Policy
from nitrosigner.trusted.signing import (
    authorization_fields,
    authorizations,
    ethereum_transactions,
    messages,
    transaction_fields,
    typed_data,
)
from nitrosigner.trusted.signing.addresses import Address
from nitrosigner.verdicts import Malformed, Refused
from nitrosigner.wire import api
from nitrosigner.wire.manifest import (
    Aws,
    Client,
    ClientLimits,
    Manifest,
    Network,
    Operation,
)

SENDER = Address(b"\x11" * 20)
ALLOWED = "0x" + "22" * 20
KEY = api.KeyDescription(
    name="hot",
    algorithm="secp256k1",
    kind="vault",
    public_key="0x",
    identity="0x" + "11" * 20,
    state="enabled",
    version=1,
    created=0,
)
CLIENT = Client(
    name="client",
    token_sha256=["00" * 32],
    operations=list(Operation),
    keys=["hot"],
)


def policy_for(client: Client) -> Policy:
    return Policy(
        Manifest(
            deployment="test",
            version=1,
            aws=Aws(
                region="eu-west-1",
                kms_key_arn="arn:aws:kms:eu-west-1:111122223333:key/a",
            ),
            networks=[
                Network(name="main", chain_id=1),
                Network(name="test", chain_id=5),
                Network(name="local", chain_id=31337),
            ],
            clients=[client],
        )
    )


def with_changes(**changes: Any) -> Client:
    return msgspec.structs.replace(CLIENT, **changes)


def with_limits(**limits: Any) -> Client:
    return with_changes(limits=ClientLimits(**limits))


def transaction(**fields: Any) -> Any:
    base = {
        "type": 2,
        "chainId": 1,
        "nonce": 0,
        "to": ALLOWED,
        "value": 1000,
        "gas": 21000,
        "maxFeePerGas": 10,
    }
    merged = {
        name: value for name, value in (base | fields).items() if value is not None
    }
    return transaction_fields.parse(merged, sender=SENDER)


LEGACY: dict[str, Any] = {"type": 0, "gasPrice": 10, "maxFeePerGas": None}
BLOB: dict[str, Any] = {
    "type": 3,
    "maxFeePerBlobGas": 1,
    "blobVersionedHashes": ["0x01" + "00" * 31] * 2,
}

GOOD = [
    ("plainly", CLIENT, {}),
    ("legacy with a chain", CLIENT, LEGACY),
    ("a pattern", with_changes(keys=["h*"]), {}),
    ("one character", with_changes(keys=["?ot"]), {}),
    ("a named network", with_changes(networks=["main"]), {}),
    ("the value at its ceiling", with_limits(max_value_wei="1000"), {}),
    ("the fee at its ceiling", with_limits(max_fee_wei="210000"), {}),
    (
        "the blobs' fee at its ceiling",
        with_limits(max_fee_wei=str(210000 + 2 * 131072)),
        BLOB,
    ),
    (
        "the destination",
        with_limits(destinations=[ALLOWED.upper().replace("X", "x")]),
        {},
    ),
    (
        "unprotected where allowed",
        with_changes(unprotected_legacy=True),
        {**LEGACY, "chainId": None},
    ),
    ("a contract's creation", CLIENT, {"to": None, "data": "0x6000"}),
]


@pytest.mark.parametrize(
    ("client", "fields"), [each[1:] for each in GOOD], ids=[each[0] for each in GOOD]
)
def test_what_is_allowed_gets_a_permit_for_its_own_hash(
    client: Any, fields: Any
) -> None:
    asked = transaction(**fields)
    permit = policy_for(client).transaction(client, KEY, asked)
    assert permit == Permit("hot", ethereum_transactions.signing_hash(asked))


BAD = [
    ("nothing is allowed", with_changes(operations=[]), {}, "not_allowed"),
    (
        "everything else is allowed",
        with_changes(
            operations=[
                each for each in Operation if each is not Operation.SIGN_TRANSACTION
            ]
        ),
        {},
        "not_allowed",
    ),
    ("no key", with_changes(keys=[]), {}, "not_allowed"),
    ("another key", with_changes(keys=["cold"]), {}, "not_allowed"),
    ("a prefix is no pattern", with_changes(keys=["ho"]), {}, "not_allowed"),
    ("another case", with_changes(keys=["HOT"]), {}, "not_allowed"),
    ("a chain of nobody", CLIENT, {"chainId": 137}, "wrong_chain"),
    ("another network", with_changes(networks=["test"]), {}, "wrong_chain"),
    ("no network", with_changes(networks=[]), {}, "wrong_chain"),
    ("one wei too much", with_limits(max_value_wei="999"), {}, "over_limit"),
    ("no value at all", with_limits(max_value_wei="0"), {}, "over_limit"),
    ("one wei of fee too much", with_limits(max_fee_wei="209999"), {}, "over_limit"),
    (
        "the blobs' fee",
        with_limits(max_fee_wei=str(210000 + 2 * 131072 - 1)),
        BLOB,
        "over_limit",
    ),
    ("legacy fee", with_limits(max_fee_wei="209999"), LEGACY, "over_limit"),
    (
        "another destination",
        with_limits(destinations=["0x" + "33" * 20]),
        {},
        "over_limit",
    ),
    ("no destination", with_limits(destinations=[]), {}, "over_limit"),
    (
        "creation among destinations",
        with_limits(destinations=[ALLOWED]),
        {"to": None, "data": "0x6000"},
        "over_limit",
    ),
    ("unprotected", CLIENT, {**LEGACY, "chainId": None}, "not_allowed"),
    (
        "unprotected allowed does not allow chains",
        with_changes(unprotected_legacy=True),
        {**LEGACY, "chainId": 137},
        "wrong_chain",
    ),
]


@pytest.mark.parametrize(
    ("client", "fields", "code"),
    [each[1:] for each in BAD],
    ids=[each[0] for each in BAD],
)
def test_what_is_not_allowed_gets_none(client: Any, fields: Any, code: Any) -> None:
    with pytest.raises(Refused) as refused:
        policy_for(client).transaction(client, KEY, transaction(**fields))
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("state", "code"), [("disabled", "key_disabled"), ("deleted", "key_deleted")]
)
def test_only_an_enabled_key_signs(state: Any, code: Any) -> None:
    key = msgspec.structs.replace(KEY, state=state)
    policy = policy_for(CLIENT)
    document = typed_data.parse(
        {
            "types": {"A": []},
            "primaryType": "A",
            "domain": {"chainId": 1},
            "message": {},
        }
    )
    for judge, asked in (
        (policy.transaction, transaction()),
        (policy.message, b"hello"),
        (policy.typed_data, document),
        (policy.digest, bytes(32)),
        (policy.authorization, authorization_fields.parse(1, ALLOWED, 0)),
    ):
        with pytest.raises(Refused) as refused:
            judge(CLIENT, key, asked)  # type: ignore[operator]
        assert refused.value.code == code
        judge(CLIENT, KEY, asked)  # type: ignore[operator]


def test_no_operation_implies_another() -> None:
    document = typed_data.parse(
        {"types": {"A": []}, "primaryType": "A", "domain": {}, "message": {}}
    )
    asked: dict[Operation, Any] = {
        Operation.SIGN_TRANSACTION: ("transaction", transaction()),
        Operation.SIGN_MESSAGE: ("message", b"hello"),
        Operation.SIGN_TYPED_DATA: ("typed_data", document),
        Operation.SIGN_DIGEST: ("digest", bytes(32)),
        Operation.SIGN_AUTHORIZATION: (
            "authorization",
            authorization_fields.parse(1, ALLOWED, 0),
        ),
    }
    for allowed in asked:
        client = with_changes(operations=[allowed])
        policy = policy_for(client)
        for operation, (method, value) in asked.items():
            if operation is allowed:
                assert getattr(policy, method)(client, KEY, value).key == "hot"
                continue
            with pytest.raises(Refused) as refused:
                getattr(policy, method)(client, KEY, value)
            assert refused.value.code == "not_allowed"


@pytest.mark.parametrize("domain", [{}, {"chainId": 1}, {"chainId": "0x1"}])
def test_typed_data_for_an_allowed_chain_or_for_none_is_signed(domain: Any) -> None:
    document = typed_data.parse(
        {"types": {"A": []}, "primaryType": "A", "domain": domain, "message": {}}
    )
    permit = policy_for(CLIENT).typed_data(CLIENT, KEY, document)
    assert permit.message == typed_data.digest(document)


@pytest.mark.parametrize("chain_id", [0, 137, 2**255])
def test_typed_data_for_another_chain_is_refused(chain_id: Any) -> None:
    document = typed_data.parse(
        {
            "types": {"A": []},
            "primaryType": "A",
            "domain": {"chainId": str(chain_id)},
            "message": {},
        }
    )
    with pytest.raises(Refused) as refused:
        policy_for(CLIENT).typed_data(CLIENT, KEY, document)
    assert refused.value.code == "wrong_chain"


def test_a_message_is_hashed_with_its_prefix() -> None:
    permit = policy_for(CLIENT).message(CLIENT, KEY, b"hello")
    assert permit.message == messages.personal_message_digest(b"hello")


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_digest_of_another_size_is_malformed(size: Any) -> None:
    with pytest.raises(Malformed):
        policy_for(CLIENT).digest(CLIENT, KEY, bytes(size))


@pytest.mark.parametrize(
    ("client", "chain_id", "address", "code"),
    [
        (CLIENT, 0, ALLOWED, "wrong_chain"),
        (with_changes(unprotected_legacy=True), 0, ALLOWED, "wrong_chain"),
        (CLIENT, 137, ALLOWED, "wrong_chain"),
        (with_changes(networks=["test"]), 1, ALLOWED, "wrong_chain"),
        (with_limits(destinations=[ALLOWED]), 1, "0x" + "33" * 20, "over_limit"),
        (with_limits(destinations=[ALLOWED]), 1, "0x" + "00" * 20, "over_limit"),
    ],
)
def test_an_authorization_is_bound_to_a_chain_and_an_address(
    client: Any, chain_id: Any, address: Any, code: Any
) -> None:
    asked = authorization_fields.parse(chain_id, address, 0)
    with pytest.raises(Refused) as refused:
        policy_for(client).authorization(client, KEY, asked)
    assert refused.value.code == code


def test_an_authorization_for_every_chain_is_refused_by_name() -> None:
    asked = authorization_fields.parse(0, ALLOWED, 0)
    with pytest.raises(Refused, match="every chain"):
        policy_for(CLIENT).authorization(CLIENT, KEY, asked)


def test_an_allowed_authorization_gets_a_permit_for_its_own_hash() -> None:
    client = with_limits(destinations=[ALLOWED])
    asked = authorization_fields.parse(1, ALLOWED, 0)
    permit = policy_for(client).authorization(client, KEY, asked)
    assert permit.message == authorizations.signing_hash(asked)


def test_the_default_chain_is_the_first_that_the_client_may_use() -> None:
    assert policy_for(CLIENT).default_chain(CLIENT) == 1
    client = with_changes(networks=["local", "test"])
    assert policy_for(client).default_chain(client) == 5
    nowhere = with_changes(networks=[])
    with pytest.raises(Refused):
        policy_for(nowhere).default_chain(nowhere)


def test_a_destination_that_is_no_address_does_not_boot() -> None:
    with pytest.raises(Malformed):
        policy_for(with_limits(destinations=["0x" + "zz" * 20]))


def test_only_the_policy_makes_permits() -> None:
    from pathlib import Path

    source = Path(__file__).parents[4] / "src/nitrosigner"
    makers = {
        path.name
        for path in source.rglob("*.py")
        if "Permit(" in path.read_text() and "trusted/enclave" in str(path)
    }
    # permit.py defines it; the validator's guard has a Permit of its own.
    assert makers - {"permit.py", "slashing_guard.py"} == {"policy.py"}
