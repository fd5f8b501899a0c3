"""
What a manifest says of validators: for which chain they sign, and how far.

Plain values. The enclave turns them into a chain at boot, and refuses what is none.
"""

from typing import Annotated, Final, Literal

import msgspec

_UINT64: Final = (1 << 64) - 1

Hex4 = Annotated[str, msgspec.Meta(pattern=r"^(0x)?[0-9a-fA-F]{8}\Z")]
Hex32 = Annotated[str, msgspec.Meta(pattern=r"^(0x)?[0-9a-fA-F]{64}\Z")]
KmsKeyArn = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+\Z"
    ),
]
_Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z")]
_Ceiling = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] | None


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class CustomNetwork(_Part, frozen=True, kw_only=True):
    """A beacon chain that the image does not know by name."""

    preset: Literal["mainnet", "minimal"]
    genesis_validators_root: Hex32
    fork_versions: dict[_Name, Hex4]
    """By fork: `phase0` (the genesis version) and `capella` (exits) must be named."""


class Validators(_Part, frozen=True, kw_only=True):
    """Absent from a manifest: the deployment signs for no validator."""

    network: _Name
    """`mainnet`, `sepolia`, `holesky`, `hoodi`; or what `custom` is called."""
    custom: CustomNetwork | None = None
    expected_keys: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] | None = None
    """With fewer enabled keys the enclave serves, but is not ready."""
    ceiling_slot: _Ceiling = None
    ceiling_epoch: _Ceiling = None
    """Signing ends here, for a planned migration: Web3Signer's high watermark."""
    reference_kms_key_arn: KmsKeyArn | None = None
    """The key under which the AWS reference's loader encrypted validator keys, without
    an encryption context. Absent: `aws.kms_key_arn`."""
