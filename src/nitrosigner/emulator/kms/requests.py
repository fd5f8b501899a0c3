"""
The requests of AWS KMS, read from JSON into values.

Names, types and limits are the service model's (botocore, kms-2014-11-01). Stricter
than AWS in one thing: an unknown member is refused instead of ignored, so that a
misspelt `EncryptionContext` or a `Recipient` where none is taken is found here.
"""

from typing import Annotated, Final, TypeVar

import msgspec

from nitrosigner.emulator.kms.errors import KmsError, invalid

MAX_CONTEXT: Final = 8192
"""Bytes of an encryption context in JSON."""

KeyReference = Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]
Context = dict[str, str]
Plain = Annotated[bytes, msgspec.Meta(min_length=1, max_length=4096)]
Blob = Annotated[bytes, msgspec.Meta(min_length=1, max_length=6144)]
GrantTokens = Annotated[list[str], msgspec.Meta(max_length=10)]
ByteCount = Annotated[int, msgspec.Meta(ge=1, le=1024)]
PolicyText = Annotated[str, msgspec.Meta(min_length=1, max_length=131_072)]
Limit = Annotated[int, msgspec.Meta(ge=1, le=1000)]
Marker = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
AliasName = Annotated[
    str, msgspec.Meta(pattern=r"^alias/[a-zA-Z0-9/_-]{1,250}\Z", max_length=256)
]


class Recipient(
    msgspec.Struct, frozen=True, rename="pascal", forbid_unknown_fields=True
):
    """Where an attested answer goes."""

    key_encryption_algorithm: str | None = None
    attestation_document: bytes | None = None


class Request(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename="pascal",
    forbid_unknown_fields=True,
):
    """What every request may carry is nothing."""


class _Cryptographic(Request, frozen=True, kw_only=True):
    grant_tokens: GrantTokens = []
    dry_run: bool = False


class _Attestable(_Cryptographic, frozen=True, kw_only=True):
    recipient: Recipient | None = None


class CreateKey(Request, frozen=True, kw_only=True):
    """See the service model."""

    policy: PolicyText | None = None
    description: Annotated[str, msgspec.Meta(max_length=8192)] = ""
    key_usage: str = "ENCRYPT_DECRYPT"
    key_spec: str | None = None
    customer_master_key_spec: str | None = None
    origin: str = "AWS_KMS"
    multi_region: bool = False
    bypass_policy_lockout_safety_check: bool = False


class OfKey(Request, frozen=True, kw_only=True):
    """See the service model."""

    key_id: KeyReference


class DescribeKey(OfKey, frozen=True, kw_only=True):
    """See the service model."""

    grant_tokens: GrantTokens = []


class ListKeys(Request, frozen=True, kw_only=True):
    """See the service model."""

    limit: Limit = 100
    marker: Marker | None = None


class ListAliases(Request, frozen=True, kw_only=True):
    """See the service model."""

    key_id: KeyReference | None = None
    limit: Limit = 50
    marker: Marker | None = None


class CreateAlias(Request, frozen=True, kw_only=True):
    """See the service model."""

    alias_name: AliasName
    target_key_id: KeyReference


class DeleteAlias(Request, frozen=True, kw_only=True):
    """See the service model."""

    alias_name: AliasName


class GetKeyPolicy(OfKey, frozen=True, kw_only=True):
    """See the service model."""

    policy_name: str = "default"


class PutKeyPolicy(OfKey, frozen=True, kw_only=True):
    """See the service model."""

    policy: PolicyText
    policy_name: str = "default"
    bypass_policy_lockout_safety_check: bool = False


class ListGrants(OfKey, frozen=True, kw_only=True):
    """See the service model."""

    limit: Limit = 50
    marker: Marker | None = None


class ScheduleKeyDeletion(OfKey, frozen=True, kw_only=True):
    """See the service model."""

    pending_window_in_days: Annotated[int, msgspec.Meta(ge=7, le=30)] = 30


class Encrypt(_Cryptographic, frozen=True, kw_only=True):
    """See the service model."""

    key_id: KeyReference
    plaintext: Plain
    encryption_context: Context = {}
    encryption_algorithm: str = "SYMMETRIC_DEFAULT"


class Decrypt(_Attestable, frozen=True, kw_only=True):
    """See the service model."""

    ciphertext_blob: Blob
    key_id: KeyReference | None = None
    encryption_context: Context = {}
    encryption_algorithm: str = "SYMMETRIC_DEFAULT"


class ReEncrypt(_Cryptographic, frozen=True, kw_only=True):
    """See the service model."""

    ciphertext_blob: Blob
    destination_key_id: KeyReference
    source_key_id: KeyReference | None = None
    source_encryption_context: Context = {}
    destination_encryption_context: Context = {}
    source_encryption_algorithm: str = "SYMMETRIC_DEFAULT"
    destination_encryption_algorithm: str = "SYMMETRIC_DEFAULT"


class GenerateDataKey(_Attestable, frozen=True, kw_only=True):
    """See the service model."""

    key_id: KeyReference
    encryption_context: Context = {}
    number_of_bytes: ByteCount | None = None
    key_spec: str | None = None


class GenerateDataKeyWithoutPlaintext(_Cryptographic, frozen=True, kw_only=True):
    """See the service model."""

    key_id: KeyReference
    encryption_context: Context = {}
    number_of_bytes: ByteCount | None = None
    key_spec: str | None = None


class GenerateDataKeyPair(_Attestable, frozen=True, kw_only=True):
    """See the service model."""

    key_id: KeyReference
    key_pair_spec: str
    encryption_context: Context = {}


class GenerateDataKeyPairWithoutPlaintext(_Cryptographic, frozen=True, kw_only=True):
    """See the service model."""

    key_id: KeyReference
    key_pair_spec: str
    encryption_context: Context = {}


class GenerateRandom(Request, frozen=True, kw_only=True):
    """See the service model."""

    number_of_bytes: ByteCount
    recipient: Recipient | None = None


RequestType = TypeVar("RequestType", bound=Request)


def read(body: bytes, kind: type[RequestType]) -> RequestType:
    """
    Read the JSON *body* of a request.

    Raises:
        KmsError: SerializationException for what is not JSON of the right types,
            ValidationException for values outside their limits.
    """
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except msgspec.ValidationError as error:
        # msgspec names the member and what was expected, never the value.
        sentence = str(error)
        if ", got `" in sentence or "base64" in sentence:
            raise KmsError("SerializationException", sentence) from None
        raise invalid(f"1 validation error detected: {sentence}") from None
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise KmsError("SerializationException") from None


def check_context(context: Context) -> None:
    """
    Refuse an encryption context that is too large.

    Raises:
        KmsError: More than 8192 bytes.
    """
    if len(msgspec.json.encode(context)) > MAX_CONTEXT:
        raise invalid("EncryptionContext is larger than 8192 bytes.")
