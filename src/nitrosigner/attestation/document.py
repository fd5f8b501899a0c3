"""
The attestation document: its syntax, as nsm-api's attestation_process.md §2.2 has it.

Where that text contradicts real documents or itself, this reader takes what the
device does: absent optional fields come as explicit nulls, and 1024 bytes are allowed
for `user_data` and `nonce` (the CDDL and the device's own test say 1024, the prose
512). Where it leaves room that the device never uses, this reader doesn't: registers
are 48 bytes, because the only digest is SHA384.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final

from nitrosigner.attestation import strict_cbor
from nitrosigner.attestation.errors import MalformedDocument
from nitrosigner.attestation.measurements import PCR_COUNT, PCR_SIZE

MAX_CERTIFICATE: Final = 1024
"""Bytes of DER."""
MAX_CERTIFICATES: Final = 8
"""In `cabundle`. Real documents have four; each costs one signature check."""
MAX_FIELD: Final = 1024
"""Bytes of `public_key`, `user_data` and `nonce`."""
MAX_MODULE_ID: Final = 256

_MANDATORY: Final = frozenset(
    {"module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"}
)
_OPTIONAL: Final = frozenset({"public_key", "user_data", "nonce"})
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MILLISECOND: Final = 253_402_300_799_999
"""The end of the year 9999, the last that `datetime` can tell."""


@dataclass(frozen=True, slots=True)
class Document:
    """
    What a document says. Whether it is true, only `verify` can tell.

    `chain` runs from the root to the certificate that signed the document, in DER.
    """

    module_id: str
    timestamp: datetime
    pcrs: Mapping[int, bytes]
    chain: tuple[bytes, ...]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None


def parse(payload: bytes) -> Document:
    """
    Read the payload of a COSE_Sign1.

    Raises:
        MalformedDocument: Says which field is at fault.
    """
    fields = strict_cbor.decode(payload, "the attestation document")
    if not isinstance(fields, Mapping):
        raise MalformedDocument("an attestation document is a map")
    if unknown := fields.keys() - _MANDATORY - _OPTIONAL:
        raise MalformedDocument(
            f"an attestation document has no such field ({len(unknown)} unknown)"
        )
    if missing := _MANDATORY - fields.keys():
        raise MalformedDocument(f"{min(missing)} is missing from the document")
    if fields["digest"] != "SHA384":
        raise MalformedDocument("the document's digest is not SHA384")
    cabundle = fields["cabundle"]
    if not isinstance(cabundle, tuple) or not 1 <= len(cabundle) <= MAX_CERTIFICATES:
        raise MalformedDocument(f"cabundle holds 1 to {MAX_CERTIFICATES} certificates")
    return Document(
        module_id=_module_id(fields["module_id"]),
        timestamp=_timestamp(fields["timestamp"]),
        pcrs=_pcrs(fields["pcrs"]),
        chain=tuple(map(_certificate, (*cabundle, fields["certificate"]))),
        public_key=_optional(fields, "public_key", least=1),
        user_data=_optional(fields, "user_data", least=0),
        nonce=_optional(fields, "nonce", least=0),
    )


def _module_id(value: strict_cbor.Value) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_MODULE_ID:
        raise MalformedDocument("module_id is not a text of sensible length")
    # It is shown to people and written to logs.
    if not (value.isascii() and value.isprintable()):
        raise MalformedDocument("module_id holds unprintable characters")
    return value


def _timestamp(value: strict_cbor.Value) -> datetime:
    if not isinstance(value, int) or not 0 < value <= _LAST_MILLISECOND:
        raise MalformedDocument("timestamp is not a time in milliseconds since 1970")
    return _EPOCH + timedelta(milliseconds=value)


def _pcrs(value: strict_cbor.Value) -> Mapping[int, bytes]:
    if not isinstance(value, Mapping) or not 1 <= len(value) <= PCR_COUNT:
        raise MalformedDocument(f"pcrs is not a map of 1 to {PCR_COUNT} registers")
    pcrs: dict[int, bytes] = {}
    for index, register in value.items():
        if not isinstance(index, int) or not 0 <= index < PCR_COUNT:
            raise MalformedDocument(f"a PCR's index is not from 0 to {PCR_COUNT - 1}")
        if not isinstance(register, bytes) or len(register) != PCR_SIZE:
            raise MalformedDocument(f"PCR{index} is not {PCR_SIZE} bytes")
        pcrs[index] = register
    return MappingProxyType(pcrs)


def _certificate(value: strict_cbor.Value) -> bytes:
    if not isinstance(value, bytes) or not 1 <= len(value) <= MAX_CERTIFICATE:
        raise MalformedDocument(f"a certificate is not 1 to {MAX_CERTIFICATE} bytes")
    return value


def _optional(
    fields: Mapping[strict_cbor.Key, strict_cbor.Value], name: str, *, least: int
) -> bytes | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, bytes) or not least <= len(value) <= MAX_FIELD:
        raise MalformedDocument(f"{name} is not {least} to {MAX_FIELD} bytes")
    return value
