"""
The type system of EIP-712: what `types` may say, and the hash of a struct type.

A type's hash covers its text and that of every type it refers to, so two documents that
read alike to a person but differ in one name sign different things. Names are kept as
they were written, and what could make `encodeType` ambiguous is not a name.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import msgspec

from nitrosigner.trusted.signing import typed_data_atoms
from nitrosigner.trusted.signing.json_values import quoted
from nitrosigner.trusted.signing.keccak import keccak_256
from nitrosigner.trusted.signing.typed_data_atoms import malformed
from nitrosigner.verdicts import Code, Malformed

MAX_TYPES: Final = 64
MAX_FIELDS: Final = 128
"""In one struct."""

MAX_TYPES_TEXT: Final = 32 * 1024
"""Characters in all names and types together: each type's hash may cover them all."""

MAX_DIMENSIONS: Final = 32
"""Of an array. Seaport's bulk orders have up to 24."""

# Solidity's identifiers, and the colon that Hyperliquid's types have. Never a comma,
# a parenthesis or a space: they separate the parts of `encodeType`.
# MetaMask does not find a type of which the name has `$` or `:` when it looks for what
# a type refers to, and hashes less text than the others do: see `_check_references`.
_TYPE_NAME: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_$:]{0,127}")
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_]+")
_FIELD_NAME: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]{0,127}")
_FIELD_TYPE: Final = re.compile(
    r"([A-Za-z0-9_$:]{1,128})((?:\[(?:[1-9][0-9]{0,5})?\])*)"
)
_DIMENSION: Final = re.compile(r"\[([0-9]*)\]")


class Atom(msgspec.Struct, frozen=True):
    """A value of one 32 byte word, or hashed to one."""

    encode: Callable[[object, str], bytes]


class StructReference(msgspec.Struct, frozen=True):
    """A struct, by name; it is in the same `StructTypes`."""

    name: str


class Array(msgspec.Struct, frozen=True):
    """A list of items, of any length if *length* is None."""

    item: "FieldType"
    length: int | None


FieldType: TypeAlias = Atom | StructReference | Array


class Field(msgspec.Struct, frozen=True):
    """One member of a struct."""

    name: str
    text: str
    """Its type as it was written."""
    type: FieldType


class StructType(msgspec.Struct, frozen=True):
    """A struct's members in order."""

    name: str
    fields: tuple[Field, ...]
    field_names: frozenset[str]
    refers_to: frozenset[str]
    """Names of the structs that its members are made of."""

    def text(self) -> str:
        """Return it as `encodeType` writes one type."""
        members = ",".join([f"{field.text} {field.name}" for field in self.fields])
        return f"{self.name}({members})"


StructTypes: TypeAlias = Mapping[str, StructType]


def parse(types: object) -> StructTypes:
    """
    Return the struct types that *types* declare.

    Args:
        types: Name → list of `{"name": …, "type": …}`.

    Raises:
        Malformed: A name is no identifier or is taken twice, a type is unknown, or
            there is more of it than the limits above.
    """
    if type(types) is not dict:
        raise malformed("`types` is not an object")
    if len(types) > MAX_TYPES:
        raise _too_large(f"`types` has more than {MAX_TYPES} types")
    structs = {name: _struct(name, members, types) for name, members in types.items()}
    if sum(len(struct.text()) for struct in structs.values()) > MAX_TYPES_TEXT:
        raise _too_large(f"`types` has more than {MAX_TYPES_TEXT} characters")
    for each in structs.values():
        _check_references(each)
    return structs


def type_hash(name: str, types: StructTypes) -> bytes:
    """Return the hash of the struct *name* and all that it refers to, 32 bytes."""
    found = {name}
    waiting = [name]
    while waiting:
        new = types[waiting.pop()].refers_to - found
        found |= new
        waiting.extend(new)
    ordered = [name, *sorted(found - {name})]
    return keccak_256("".join([types[each].text() for each in ordered]).encode())


def struct(name: str, members: Mapping[str, str]) -> StructType:
    """Return a struct of atoms that no caller declared, such as a derived domain."""
    declared = [{"name": each, "type": kind} for each, kind in members.items()]
    return _struct(name, declared, {})


def _struct(name: object, members: object, types: Mapping[str, object]) -> StructType:
    if type(name) is not str or not _TYPE_NAME.fullmatch(name):
        raise malformed(f"the type name {quoted(name)} is not an identifier")
    if name in typed_data_atoms.ENCODERS:
        raise malformed(f"the type name {quoted(name)} is taken")
    if type(members) is not list:
        raise malformed(f"the type {quoted(name)} is not a list of fields")
    if len(members) > MAX_FIELDS:
        raise _too_large(f"the type {quoted(name)} has more than {MAX_FIELDS} fields")
    fields = tuple([_field(member, name, types) for member in members])
    field_names = frozenset([field.name for field in fields])
    if len(field_names) < len(fields):
        raise malformed(f"the type {quoted(name)} has two fields of one name")
    return StructType(
        name,
        fields,
        field_names,
        frozenset([base for field in fields if (base := _base(field.type))]),
    )


def _field(member: object, struct_name: str, types: Mapping[str, object]) -> Field:
    if type(member) is not dict or member.keys() != {"name", "type"}:
        raise malformed(
            f"a field of the type {quoted(struct_name)} is not a name and a type"
        )
    name, text = member["name"], member["type"]
    if type(name) is not str or not _FIELD_NAME.fullmatch(name):
        raise malformed(f"the field name {quoted(name)} is not an identifier")
    if type(text) is not str or not (match := _FIELD_TYPE.fullmatch(text)):
        raise malformed(f"{quoted(text)} is not a type")
    base, dimensions = match[1], _DIMENSION.findall(match[2])
    if len(dimensions) > MAX_DIMENSIONS:
        raise _too_large(f"{quoted(text)} has more than {MAX_DIMENSIONS} dimensions")
    kind: FieldType
    if encoder := typed_data_atoms.ENCODERS.get(base):
        kind = Atom(encoder)
    elif base in types:
        kind = StructReference(base)
    else:
        raise malformed(f"the type {quoted(base)} is unknown", "declare it in `types`")
    for length in dimensions:
        kind = Array(kind, int(length) if length else None)
    return Field(name, text, kind)


def _check_references(struct: StructType) -> None:
    others = struct.refers_to - {struct.name}
    for name in (struct.name, *others) if others else ():
        if not _PLAIN_NAME.fullmatch(name):
            raise malformed(
                f"{quoted(name)} refers to a type, or is referred to, which wallets "
                "hash differently",
                "use letters, digits and _ in the names of such types",
            )


def _base(kind: FieldType) -> str | None:
    while isinstance(kind, Array):
        kind = kind.item
    return kind.name if isinstance(kind, StructReference) else None


def _too_large(message: str) -> Malformed:
    return Malformed(Code.TOO_LARGE, message)
