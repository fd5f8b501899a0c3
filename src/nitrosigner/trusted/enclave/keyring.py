"""
The keys: made, imported, changed, and used for one signature at a time.

A key signs a `Permit`; there is no method that signs bytes. Changes are durable in the
store before memory knows of them.
"""

from typing import TYPE_CHECKING

from nitrosigner.trusted.signing.algorithms import Signature
from nitrosigner.wire import api

if TYPE_CHECKING:
    from nitrosigner.trusted.enclave.permit import Permit


class Keyring:
    """All keys of the deployment."""

    def describe(self, identifier: str) -> api.KeyDescription:
        """Return a key by name or address. Raises Refused(UNKNOWN_KEY)."""
        raise NotImplementedError

    def page(self, after: str, limit: int) -> api.KeyPage:
        """Return keys after *after* in name order."""
        raise NotImplementedError

    def ciphertext(self, identifier: str) -> api.KeyCiphertext:
        """Return what is stored outside."""
        raise NotImplementedError

    async def create(self, name: str, algorithm: str) -> api.KeyDescription:
        """Make a key inside."""
        raise NotImplementedError

    async def import_wrapped(self, request: api.ImportKey) -> api.KeyDescription:
        """Take a key that was wrapped to `import_public_key`."""
        raise NotImplementedError

    async def import_kms(self, request: api.ImportKmsKey) -> api.KeyDescription:
        """Take a KMS ciphertext."""
        raise NotImplementedError

    async def disable(
        self, identifier: str, version: int | None = None
    ) -> api.KeyDescription:
        """Make the key refuse to sign until it is enabled."""
        raise NotImplementedError

    async def enable(
        self, identifier: str, version: int | None = None
    ) -> api.KeyDescription:
        """Let a disabled key sign again."""
        raise NotImplementedError

    async def delete(
        self, identifier: str, version: int | None = None
    ) -> api.KeyDescription:
        """Delete, recoverably until `purge_after`."""
        raise NotImplementedError

    async def restore(
        self, identifier: str, version: int | None = None
    ) -> api.KeyDescription:
        """Bring a deleted key back, disabled."""
        raise NotImplementedError

    async def rotate_vault(self) -> int:
        """Seal every record under a new vault key; return how many keys."""
        raise NotImplementedError

    def sign_now(self, permit: "Permit") -> Signature | None:
        """Unseal, sign, wipe. None if the key needs KMS: await `sign` instead."""
        raise NotImplementedError

    async def sign(self, permit: "Permit") -> Signature:
        """Sign with a key of either kind."""
        raise NotImplementedError

    @property
    def import_public_key(self) -> bytes:
        """Raw X25519 key of this boot."""
        raise NotImplementedError

    @property
    def count(self) -> int:
        """Keys that are loaded, deleted ones included."""
        raise NotImplementedError

    @property
    def kms_calls(self) -> int:
        """Attested KMS calls since boot."""
        raise NotImplementedError
