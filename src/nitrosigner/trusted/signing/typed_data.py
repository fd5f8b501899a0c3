"""
Typed data, EIP-712, with the semantics of MetaMask's version 4, made strict.

As in version 4: arrays of every kind, structs in structs, recursive types; a struct
that is null or absent is 32 zero bytes (which ends a recursion); the domain's fields
are hashed in the order in which `EIP712Domain` declares them, or in the EIP's order if
nothing does; `primaryType` may be `EIP712Domain` itself.

Stricter, because a caller would believe it to be signed: a member that no type
declares is refused, where MetaMask leaves it out; so is a missing one that is no
struct, a domain that does not have exactly the declared members, a wrong length of
`T[n]`, and every value that wallets convert in different ways (`typed_data_atoms`).
"""

from typing import Final, final

import msgspec

from nitrosigner.trusted.signing import addresses, json_values, typed_data_types
from nitrosigner.trusted.signing.addresses import Address
from nitrosigner.trusted.signing.json_values import quoted
from nitrosigner.trusted.signing.keccak import keccak_256
from nitrosigner.trusted.signing.typed_data_atoms import malformed
from nitrosigner.trusted.signing.typed_data_types import (
    Array,
    Atom,
    FieldType,
    StructReference,
    StructType,
    StructTypes,
)
from nitrosigner.verdicts import Code, Malformed

MAX_DEPTH: Final = 48
"""Values in values: 32 dimensions of an array, and structs around them."""

MAX_VALUES: Final = 8192
"""In one document; encoding that many addresses takes some 50 milliseconds."""

_DOMAIN: Final = "EIP712Domain"
_DOMAIN_FIELDS: Final = {
    "name": "string",
    "version": "string",
    "chainId": "uint256",
    "verifyingContract": "address",
    "salt": "bytes32",
}
_NO_STRUCT: Final = bytes(32)
_ABSENT: Final = object()


class Domain(msgspec.Struct, frozen=True, kw_only=True):
    """Who will accept the signature. What is None is not part of it: any will do."""

    name: str | None
    version: str | None
    chain_id: int | None
    verifying_contract: Address | None
    salt: bytes | None


class TypedData(msgspec.Struct, frozen=True, kw_only=True):
    """A document that was found valid, as its hashes and what a policy may ask for."""

    domain: Domain
    primary_type: str
    domain_separator: bytes
    message_hash: bytes
    """32 bytes; empty if the domain itself is what is signed."""


def parse(document: object) -> TypedData:
    """
    Return the typed data that *document* describes.

    Args:
        document: A JSON object as decoded: types, primaryType, domain and message.

    Raises:
        Malformed: It is not exactly what its types say, or passes a limit.
    """
    if type(document) is not dict or document.keys() != {
        "types",
        "primaryType",
        "domain",
        "message",
    }:
        raise malformed(
            "typed data is not an object of types, primaryType, domain and message"
        )
    types = dict(typed_data_types.parse(document["types"]))
    domain = document["domain"]
    if type(domain) is not dict:
        raise malformed("`domain` is not an object")
    # ethers and viem write null, or leave it out, where there is none.
    domain = {name: value for name, value in domain.items() if value is not None}
    types[_DOMAIN] = _domain_type(types.get(_DOMAIN), domain)
    primary_type = document["primaryType"]
    if type(primary_type) is not str or primary_type not in types:
        raise malformed("`primaryType` is not one of `types`")
    encoder = _Encoder(types)
    separator = encoder.hash_struct(_DOMAIN, domain, "domain", MAX_DEPTH)
    message = document["message"]
    if primary_type != _DOMAIN:
        message_hash = encoder.hash_struct(primary_type, message, "message", MAX_DEPTH)
    elif message == {}:
        message_hash = b""
    else:
        raise malformed(
            "`message` is not empty, and the domain alone would be signed",
            "give {} as the message of primaryType EIP712Domain",
        )
    return TypedData(
        domain=_domain(domain),
        primary_type=primary_type,
        domain_separator=separator,
        message_hash=message_hash,
    )


def digest(typed_data: TypedData) -> bytes:
    """Return the digest that is signed, 32 bytes."""
    return keccak_256(
        b"\x19\x01" + typed_data.domain_separator + typed_data.message_hash
    )


def _domain_type(declared: StructType | None, domain: dict[str, object]) -> StructType:
    """Return the domain's type: as declared, else what the domain has."""
    if declared is None:
        declared = typed_data_types.struct(
            _DOMAIN,
            {name: kind for name, kind in _DOMAIN_FIELDS.items() if name in domain},
        )
    for field in declared.fields:
        if _DOMAIN_FIELDS.get(field.name) != field.text:
            raise malformed(
                f"{_DOMAIN} cannot have {quoted(field.text)} {quoted(field.name)}",
                "it has name, version, chainId, verifyingContract and salt",
            )
    return declared


def _domain(domain: dict[str, object]) -> Domain:
    """Return the members of a *domain* that has been encoded, so each one is valid."""
    code = Code.MALFORMED_TYPED_DATA
    chain_id = domain.get("chainId")
    contract = domain.get("verifyingContract")
    salt = domain.get("salt")
    return Domain(
        name=_text(domain.get("name")),
        version=_text(domain.get("version")),
        chain_id=None
        if chain_id is None
        else json_values.integer(chain_id, "chainId", code),
        verifying_contract=None
        if contract is None
        else addresses.parse(contract, code),
        salt=None if salt is None else json_values.hex_bytes(salt, "salt", code),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


@final
class _Encoder:
    """Encodes the values of one document, and counts them."""

    __slots__ = ("_hashes", "_left", "_types")

    def __init__(self, types: StructTypes) -> None:
        self._types = types
        self._hashes: dict[str, bytes] = {}
        self._left = MAX_VALUES

    def hash_struct(
        self, type_name: str, value: object, name: str, depth: int
    ) -> bytes:
        """Return `hashStruct` of *value*, 32 bytes."""
        kind = self._types[type_name]
        if type(value) is not dict:
            raise malformed(
                f"{quoted(name)} is not an object of type {quoted(type_name)}"
            )
        if not value.keys() <= kind.field_names:
            extra = quoted(next(iter(value.keys() - kind.field_names)))
            raise malformed(
                f"{quoted(name)} has {extra}, unknown to its type {quoted(type_name)}",
                "declare it in `types`, or leave it out: it would not be signed",
            )
        type_hash = self._hashes.get(type_name)
        if type_hash is None:
            type_hash = typed_data_types.type_hash(type_name, self._types)
            self._hashes[type_name] = type_hash
        words = [type_hash]
        for field in kind.fields:
            member = value.get(field.name, _ABSENT)
            words.append(self._word(field.type, member, field.name, depth - 1))
        return keccak_256(b"".join(words))

    def _word(self, kind: FieldType, value: object, name: str, depth: int) -> bytes:
        """Return the 32 bytes that stand for *value* in what contains it."""
        self._left -= 1
        if self._left < 0:
            raise Malformed(
                Code.TOO_LARGE, f"typed data has more than {MAX_VALUES} values"
            )
        if depth < 0:
            raise Malformed(
                Code.TOO_LARGE, f"typed data is nested deeper than {MAX_DEPTH}"
            )
        match kind:
            case StructReference():
                if value is None or value is _ABSENT:
                    return _NO_STRUCT
                return self.hash_struct(kind.name, value, name, depth)
            case _ if value is _ABSENT:
                raise malformed(f"{quoted(name)} is missing")
            case Atom():
                return kind.encode(value, name)
            case Array():
                return self._array(kind, value, name, depth)

    def _array(self, kind: Array, value: object, name: str, depth: int) -> bytes:
        if type(value) is not list:
            raise malformed(f"{quoted(name)} is not a list")
        if kind.length is not None and len(value) != kind.length:
            raise malformed(f"{quoted(name)} does not have {kind.length} items")
        item = kind.item
        return keccak_256(
            b"".join([self._word(item, each, name, depth - 1) for each in value])
        )
