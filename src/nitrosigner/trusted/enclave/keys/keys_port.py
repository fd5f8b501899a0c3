"""
What the front needs of the keys. `keyring.Keyring` is the one that has them.

A key signs a `Permit`. Every method may raise a verdict, after which nothing was
signed and, for a change, nothing but what the record says was changed.
"""

from typing import Protocol

from nitrosigner.trusted.enclave.permissions.permit import Permit
from nitrosigner.trusted.signing.algorithms import Signature
from nitrosigner.wire import api


class Keys(Protocol):
    """All keys of the deployment."""

    def describe(self, identifier: str) -> api.KeyDescription:
        """Return a key by name or address. Raises Refused(UNKNOWN_KEY)."""
        ...

    def page(self, after: str, limit: int) -> api.KeyPage:
        """Return keys after *after* in name order."""
        ...

    def ciphertext(self, identifier: str) -> api.KeyCiphertext:
        """Return what is stored outside."""
        ...

    async def create(self, name: str, algorithm: str) -> api.KeyDescription:
        """Make a key inside."""
        ...

    async def import_wrapped(self, request: api.ImportKey) -> api.KeyDescription:
        """Take a key that was wrapped to `import_public_key`."""
        ...

    async def import_kms(self, request: api.ImportKmsKey) -> api.KeyDescription:
        """Take a KMS ciphertext."""
        ...

    async def disable(
        self, identifier: str, version: int | None = None
    ) -> api.KeyDescription:
        """Make the key refuse to sign until it is enabled."""
        ...

    async def enable(
        self, identifier: str, version: int | None = None
    ) -> api.KeyDescription:
        """Let a disabled key sign again."""
        ...

    async def delete(
        self, identifier: str, version: int | None = None
    ) -> api.KeyDescription:
        """Delete, recoverably until `purge_after`."""
        ...

    async def restore(
        self, identifier: str, version: int | None = None
    ) -> api.KeyDescription:
        """Bring a deleted key back."""
        ...

    async def rotate_vault(self) -> int:
        """Seal every record under a new vault key; return how many keys."""
        ...

    def sign_now(self, permit: Permit) -> Signature | None:
        """Unseal, sign, wipe. None if the key needs KMS: await `sign` instead."""
        ...

    async def sign(self, permit: Permit) -> Signature:
        """Sign with a key of either kind."""
        ...

    @property
    def import_public_key(self) -> bytes:
        """Raw X25519 key of this boot."""
        ...
