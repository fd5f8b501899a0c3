"""
Records that exist once per deployment, sealed under the vault key: `tls`, `state`, and
the key that watermarks are sealed with.

They are bound to their purpose, deployment and version: one cannot stand in for
another. An older version that the parent kept can be given back to us after a restart;
within one life of the enclave it cannot.
"""

from collections.abc import Mapping
from typing import Final, Protocol

import msgspec

from nitrosigner.trusted.enclave.attested.entropy import RandomSource
from nitrosigner.trusted.enclave.parent_link.durable_write import write_durably
from nitrosigner.trusted.enclave.parent_link.parent_services import ParentServices
from nitrosigner.trusted.enclave.vault.vault import Vault, untrusted
from nitrosigner.trusted.signing.secret_bytes import SecretBytes

CURRENT: Final = "current"
_PLACES: Final[Mapping[str, tuple[str, str]]] = {
    "tls": ("tls", CURRENT),
    "tls-imported": ("tls", "imported"),
    "state": ("state", CURRENT),
    "watermark-mac": ("state", "watermark-mac"),
}
"""Collection and name, by purpose."""


class Single(msgspec.Struct, frozen=True):
    """An opened record. Whoever reads it wipes `secret`."""

    version: int
    public: bytes
    """Authenticated, not secret: for `tls` the DER certificate of the CA, for
    `tls-imported` the PEM chain, or nothing where the import was undone."""
    secret: SecretBytes


class SealedSingles(Protocol):
    """Reads and writes them."""

    async def read(self, purpose: str) -> Single | None:
        """
        Open the record of *purpose*, or None if there is none.

        Raises:
            Refused: It is not what this deployment sealed (RECORD_UNTRUSTED).
            Undecided: The store did not answer.
        """
        ...

    async def write(
        self, purpose: str, *, expected: int, public: bytes, secret: SecretBytes
    ) -> int:
        """
        Seal and store; durable when it returns the new version.

        Raises:
            Refused: The stored version is not *expected* (VERSION_CONFLICT): somebody
                else was first; read again.
            Undecided: The store did not answer; read again to know.
        """
        ...


class _Header(
    msgspec.Struct,
    frozen=True,
    array_like=True,
    forbid_unknown_fields=True,
    tag="nitrosigner/single/1",
):
    purpose: str
    deployment: str
    version: int
    public: bytes


class _Envelope(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True
):
    vault_key: bytes
    header: bytes
    nonce: bytes
    ciphertext: bytes


_encoder = msgspec.msgpack.Encoder()
_header_decoder = msgspec.msgpack.Decoder(_Header)
_envelope_decoder = msgspec.msgpack.Decoder(_Envelope)


class StoredSingles:
    """The port above, over the vault and the parent's store."""

    def __init__(
        self,
        store: ParentServices,
        vault: Vault,
        deployment: str,
        randomness: RandomSource,
    ) -> None:
        self._store = store
        self._vault = vault
        self._deployment = deployment
        self._randomness = randomness
        self._seen: dict[str, int] = {}

    async def read(self, purpose: str) -> Single | None:
        """Open the record of *purpose*, or None."""
        stored = await self._store.get(*_PLACES[purpose])
        seen = self._seen.get(purpose, 0)
        if (stored.version if stored else 0) < seen:
            raise untrusted("it went back to an earlier state")
        if stored is None:
            return None
        try:
            envelope = _envelope_decoder.decode(stored.data)
            header = _header_decoder.decode(envelope.header)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise untrusted("it is cut off, or no sealed record") from error
        if (header.purpose, header.deployment, header.version) != (
            purpose,
            self._deployment,
            stored.version,
        ):
            raise untrusted("it is another record than it is stored as")
        secret = self._vault.key(envelope.vault_key).open(
            envelope.nonce, envelope.ciphertext, envelope.header
        )
        self._seen[purpose] = stored.version
        return Single(stored.version, header.public, secret)

    async def write(
        self, purpose: str, *, expected: int, public: bytes, secret: SecretBytes
    ) -> int:
        """Seal and store."""
        header = _encoder.encode(
            _Header(purpose, self._deployment, expected + 1, public)
        )
        key = self._vault.current
        sealed = key.seal(secret.buffer, header, self._randomness)
        version = await write_durably(
            self._store,
            *_PLACES[purpose],
            expected,
            _encoder.encode(
                _Envelope(key.identifier, header, sealed.nonce, sealed.ciphertext)
            ),
        )
        self._seen[purpose] = version
        return version

    async def reseal(self) -> None:
        """Seal all of them under the current vault key. Raises as `read`, `write`."""
        for purpose in _PLACES:
            single = await self.read(purpose)
            if single is not None:
                with single.secret as secret:
                    await self.write(
                        purpose,
                        expected=single.version,
                        public=single.public,
                        secret=secret,
                    )
