"""
The actions of AWS KMS, as far as a key policy can be about them.

Source: Service Authorization Reference, "Actions defined by AWS Key Management
Service". A name that is missing here is only warned of.
"""

from typing import Final

_NAMES: Final = """
CancelKeyDeletion ConnectCustomKeyStore CreateAlias CreateCustomKeyStore CreateGrant
CreateKey Decrypt DeleteAlias DeleteCustomKeyStore DeleteImportedKeyMaterial
DeriveSharedSecret DescribeCustomKeyStores DescribeKey DisableKey DisableKeyRotation
DisconnectCustomKeyStore EnableKey EnableKeyRotation Encrypt GenerateDataKey
GenerateDataKeyPair GenerateDataKeyPairWithoutPlaintext GenerateDataKeyWithoutPlaintext
GenerateMac GenerateRandom GetKeyPolicy GetKeyRotationStatus GetParametersForImport
GetPublicKey ImportKeyMaterial ListAliases ListGrants ListKeyPolicies ListKeyRotations
ListKeys ListResourceTags ListRetirableGrants PutKeyPolicy ReEncryptFrom ReEncryptTo
ReplicateKey RetireGrant RevokeGrant RotateKeyOnDemand ScheduleKeyDeletion Sign
SynchronizeMultiRegionKey TagResource UntagResource UpdateAlias UpdateCustomKeyStore
UpdateKeyDescription UpdatePrimaryRegion Verify VerifyMac
"""
ACTIONS: Final = frozenset(f"kms:{name}" for name in _NAMES.split())
PLAINTEXT: Final = (
    "kms:Decrypt",
    "kms:GenerateDataKey",
    "kms:GenerateDataKeyPair",
    "kms:DeriveSharedSecret",
)
"""These answer with plaintext, and take an attestation document instead."""
