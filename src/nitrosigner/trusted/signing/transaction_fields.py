"""
From the JSON that clients send to a transaction: the names of JSON-RPC, and what
geth, web3.py, eth-account, ethers, viem and cast make of them.

Nothing is guessed and nothing is dropped: a field that we do not know, that the
transaction's type does not have, or that contradicts another is an error, because the
caller would believe it to be signed. `null` is the same as absent.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Literal, TypeAlias, TypeVar, get_args

from nitrosigner.trusted.signing import addresses, json_values
from nitrosigner.trusted.signing.addresses import Address
from nitrosigner.trusted.signing.authorization_fields import parse_signed
from nitrosigner.trusted.signing.authorizations import SignedAuthorization
from nitrosigner.trusted.signing.transaction_types import (
    MAX_ACCESS_LIST,
    MAX_AUTHORIZATIONS,
    MAX_BLOBS,
    AccessList,
    AccessListEntry,
    AccessListTransaction,
    BlobTransaction,
    DynamicFeeTransaction,
    LegacyTransaction,
    SetCodeTransaction,
    Transaction,
)
from nitrosigner.verdicts import Code, Malformed, Refused

_Kind: TypeAlias = Literal[0, 1, 2, 3, 4]
_T = TypeVar("_T")
_Fields: TypeAlias = Mapping[str, object]

# JSON-RPC writes 0x2, eth-account 2, viem's accounts eip1559.
_KIND_NAMES: Final = ("legacy", "eip2930", "eip1559", "eip4844", "eip7702")
_KINDS: Final[Mapping[object, _Kind]] = {
    spelling: kind
    for kind in get_args(_Kind)
    for spelling in (kind, f"{kind}", f"0x{kind}", f"0x0{kind}", _KIND_NAMES[kind])
}

_EVERY_KIND: Final = {
    *("type", "chainId", "from", "nonce", "to", "value"),
    # Two pairs of names for one thing each.
    *("gas", "gasLimit", "data", "input"),
}
_DYNAMIC_FEE: Final = _EVERY_KIND | {
    "maxFeePerGas",
    "maxPriorityFeePerGas",
    "accessList",
}
_NAMES: Final = (
    _EVERY_KIND | {"gasPrice"},
    _EVERY_KIND | {"gasPrice", "accessList"},
    _DYNAMIC_FEE,
    _DYNAMIC_FEE | {"maxFeePerBlobGas", "blobVersionedHashes"},
    _DYNAMIC_FEE | {"authorizationList"},
)
_ALL_NAMES: Final = frozenset().union(*_NAMES)

_SIDECAR: Final = frozenset(
    ("blobs", "sidecars", "sidecar", "commitments", "proofs", "kzg")
)

# What stands for "no recipient": eth-account and web3.py send an empty string.
_NOBODY: Final = (None, "", "0x")

_integer: Final = partial(json_values.integer, code=Code.MALFORMED_TRANSACTION)
_hex_bytes: Final = partial(json_values.hex_bytes, code=Code.MALFORMED_TRANSACTION)
_address: Final = partial(addresses.parse, code=Code.MALFORMED_TRANSACTION)


def parse(
    fields: object, *, sender: Address, default_chain_id: int | None = None
) -> Transaction:
    """
    Return the transaction that *fields* describe.

    `nonce`, `gas` and the fees are needed; `value`, `data`, `accessList` and
    `maxPriorityFeePerGas` are nothing when absent. Without `to` it makes a contract.
    Without `type` it is the type that has the fields that are there, as in geth.

    Args:
        fields: A JSON object as decoded, with the names of `eth_signTransaction`.
        sender: The address whose key will sign.
        default_chain_id: The chain that is meant when `chainId` is absent. None: it
            must be there, except in a legacy transaction, which is then one without
            replay protection (its `chain_id` is None).

    Raises:
        Malformed: A field is missing, unknown, out of range or contradicts another.
        Refused: `from` is not *sender*.
    """
    if type(fields) is not dict:
        raise _malformed("a transaction is not a JSON object")
    kind = _kind(fields)
    if not fields.keys() <= _NAMES[kind]:
        _check_other_names(fields, kind, sender, default_chain_id)
    get = fields.get

    if (origin := get("from")) is not None and _address(origin, name="from") != sender:
        raise _wrong_sender("from")

    chain_id = get("chainId")
    chain_id = default_chain_id if chain_id is None else _integer(chain_id, "chainId")

    to = get("to")
    recipient = None if to in _NOBODY else _address(to, name="to")
    nonce = _integer(_needed(fields, "nonce"), "nonce")
    gas = _one_of(fields, "gas", "gasLimit", _integer)
    if gas is None:
        raise _missing("gas")
    value = 0 if (given := get("value")) is None else _integer(given, "value")
    data = _one_of(fields, "data", "input", _hex_bytes) or b""

    if kind == 0:
        return LegacyTransaction(
            chain_id=chain_id,
            nonce=nonce,
            gas_price=_integer(_needed(fields, "gasPrice"), "gasPrice"),
            gas=gas,
            to=recipient,
            value=value,
            data=data,
        )
    if chain_id is None:
        raise _missing("chainId")
    listed = get("accessList")
    access_list = () if listed is None else _access_list(listed)
    if kind == 1:
        return AccessListTransaction(
            chain_id=chain_id,
            nonce=nonce,
            gas_price=_integer(_needed(fields, "gasPrice"), "gasPrice"),
            gas=gas,
            to=recipient,
            value=value,
            data=data,
            access_list=access_list,
        )
    tip = get("maxPriorityFeePerGas")
    max_priority_fee = 0 if tip is None else _integer(tip, "maxPriorityFeePerGas")
    max_fee = _integer(_needed(fields, "maxFeePerGas"), "maxFeePerGas")
    if kind == 2:
        return DynamicFeeTransaction(
            chain_id=chain_id,
            nonce=nonce,
            max_priority_fee_per_gas=max_priority_fee,
            max_fee_per_gas=max_fee,
            gas=gas,
            to=recipient,
            value=value,
            data=data,
            access_list=access_list,
        )
    if recipient is None:
        raise _malformed(
            "a transaction of this type cannot make a contract", "give `to`"
        )
    if kind == 3:
        return BlobTransaction(
            chain_id=chain_id,
            nonce=nonce,
            max_priority_fee_per_gas=max_priority_fee,
            max_fee_per_gas=max_fee,
            gas=gas,
            to=recipient,
            value=value,
            data=data,
            access_list=access_list,
            max_fee_per_blob_gas=_integer(
                _needed(fields, "maxFeePerBlobGas"), "maxFeePerBlobGas"
            ),
            blob_versioned_hashes=_blob_hashes(_needed(fields, "blobVersionedHashes")),
        )
    return SetCodeTransaction(
        chain_id=chain_id,
        nonce=nonce,
        max_priority_fee_per_gas=max_priority_fee,
        max_fee_per_gas=max_fee,
        gas=gas,
        to=recipient,
        value=value,
        data=data,
        access_list=access_list,
        authorization_list=_authorizations(_needed(fields, "authorizationList")),
    )


def _kind(fields: _Fields) -> _Kind:
    """Return the type that is named, or else the one that has these fields."""
    named = fields.get("type")
    if named is not None:
        # True and 1.0 would find the entry of 1, hence the look at the type.
        kind = _KINDS.get(named) if type(named) in (int, str) else None
        if kind is None:
            raise _malformed("type is unknown", "give 0x0, 0x1, 0x2, 0x3 or 0x4")
        return kind
    present = {name for name, value in fields.items() if value is not None}
    if "authorizationList" in present:
        return 4
    if not present.isdisjoint(("blobVersionedHashes", "maxFeePerBlobGas")):
        return 3
    if not present.isdisjoint(("maxFeePerGas", "maxPriorityFeePerGas")):
        return 2
    if "gasPrice" not in present:
        raise _malformed(
            "there are no fees",
            "give maxFeePerGas and maxPriorityFeePerGas, or gasPrice",
        )
    return 1 if "accessList" in present else 0


def _needed(fields: _Fields, name: str) -> object:
    value = fields.get(name)
    if value is None:
        raise _missing(name)
    return value


def _one_of(
    fields: _Fields, name: str, alias: str, read: Callable[[object, str], _T]
) -> _T | None:
    """Return what stands under *name* or *alias*; under both it must be the same."""
    given = fields.get(name)
    other = fields.get(alias)
    if other is None:
        return None if given is None else read(given, name)
    value = read(other, alias)
    if given is not None and read(given, name) != value:
        raise _malformed(f"{name} and {alias} contradict each other", "give one")
    return value


def _access_list(entries: object) -> AccessList:
    if not isinstance(entries, list) or len(entries) > MAX_ACCESS_LIST:
        raise _bad_access_list()
    return tuple([_access_list_entry(entry) for entry in entries])


def _access_list_entry(entry: object) -> AccessListEntry:
    if type(entry) is not dict or entry.keys() != {"address", "storageKeys"}:
        raise _bad_access_list()
    keys = entry["storageKeys"]
    if type(keys) is not list or len(keys) > MAX_ACCESS_LIST:
        raise _bad_access_list()
    return AccessListEntry(
        _address(entry["address"], name="an address in accessList"),
        tuple([_hex_bytes(key, "a storage key in accessList") for key in keys]),
    )


def _blob_hashes(hashes: object) -> tuple[bytes, ...]:
    if type(hashes) is not list or len(hashes) > MAX_BLOBS:
        raise _malformed(f"blobVersionedHashes is not a list of up to {MAX_BLOBS}")
    return tuple([_hex_bytes(each, "a blob's versioned hash") for each in hashes])


def _authorizations(tuples: object) -> tuple[SignedAuthorization, ...]:
    if type(tuples) is not list or len(tuples) > MAX_AUTHORIZATIONS:
        raise _malformed(
            f"authorizationList is not a list of up to {MAX_AUTHORIZATIONS}"
        )
    return tuple([parse_signed(each) for each in tuples])


def _check_other_names(
    fields: _Fields, kind: _Kind, sender: Address, default_chain_id: int | None
) -> None:
    """Look at the names that a transaction of this *kind* has no field for."""
    for name in fields.keys() - _NAMES[kind]:
        if name == "account":
            _check_account(fields["account"], sender)
        elif name == "chain":
            _check_chain(fields["chain"], fields.get("chainId", default_chain_id))
        elif name in _SIDECAR:
            raise _malformed(
                f"{name} belongs to the sidecar, which is not signed",
                "send blobVersionedHashes, and add the sidecar before broadcasting",
            )
        elif name not in _ALL_NAMES:
            raise _malformed(
                f"the field {json_values.quoted(name)} is unknown",
                "use the names of eth_signTransaction, and leave out what is not to "
                "be signed",
            )
        elif fields[name] is not None:
            raise _malformed(
                f"a transaction of type {kind} has no {name}",
                "leave it out, or give the type that has it",
            )


def _check_account(account: object, sender: Address) -> None:
    """An account of viem: an address, or an object that has one. It says who signs."""
    address = account.get("address") if isinstance(account, dict) else account
    if account is not None and _address(address, name="account") != sender:
        raise _wrong_sender("account")


def _check_chain(chain: object, chain_id: object) -> None:
    """A chain as viem describes it. Only its id matters, and it must agree."""
    if chain is None:
        return
    if not isinstance(chain, dict) or chain_id is None:
        raise _malformed("chain is no chain of viem, or there is no chainId beside it")
    if _integer(chain.get("id"), "chain.id") != _integer(chain_id, "chainId"):
        raise _malformed("chain and chainId contradict each other", "give one")


def _wrong_sender(name: str) -> Refused:
    return Refused(
        Code.WRONG_SENDER,
        f"`{name}` is not the address of the key that is to sign",
        f"leave `{name}` out, or name the key that has this address",
    )


def _missing(name: str) -> Malformed:
    return _malformed(f"{name} is missing", f"give {name}")


def _bad_access_list() -> Malformed:
    return _malformed(
        "accessList is not a list of objects with address and storageKeys",
        f"give up to {MAX_ACCESS_LIST} addresses and storage keys",
    )


def _malformed(message: str, hint: str = "") -> Malformed:
    return Malformed(Code.MALFORMED_TRANSACTION, message, hint)
