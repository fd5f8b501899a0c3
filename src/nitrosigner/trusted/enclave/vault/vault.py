"""
The vault: the AES-256-GCM keys that seal this deployment's records.

There is one current key, which KMS opens at boot; while a rotation is under way there
is also the one before it. They stay in memory for the life of the enclave.

Nonces are 96 bits out of HMAC-SHA-256 over fresh random bytes, what is sealed and what
it is bound to. With a sound random source that is a random nonce (2^32 seals under one
key are safe; we seal when a key changes, not when it signs). With a broken one, two
different records still get different nonces.
"""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from nitrosigner.trusted.enclave.attested.entropy import RandomSource
from nitrosigner.trusted.signing.secret_bytes import SecretBytes
from nitrosigner.verdicts import Code, Refused

KEY_SIZE: Final = 32
IDENTIFIER_SIZE: Final = 8
NONCE_SIZE: Final = 12
TAG_SIZE: Final = 16
_BLANK_SIZE: Final = 32
_BLANK_NONCE: Final = bytes(NONCE_SIZE)
"""For zeros, once per key. Other nonces are out of an HMAC, and are never this one
but once in 2^96."""


class Sealed(NamedTuple):
    """What sealing gives. The tag is at the ciphertext's end."""

    nonce: bytes
    ciphertext: bytes


class VaultKey:
    """One key. Takes the secret over and keeps it."""

    __slots__ = ("_aead", "_blank", "_nonces", "_rinsed", "_secret", "identifier")

    def __init__(self, secret: SecretBytes) -> None:
        self._secret = secret
        self._aead = AESGCM(secret.buffer)
        self._nonces = self.derive("nonces", 32)
        self.identifier: Final = bytes(
            self.derive("identifier", IDENTIFIER_SIZE).buffer
        )
        """Public; derived from the key, so it cannot be pinned to another."""
        self._rinsed = bytearray(_BLANK_SIZE)
        self._blank = self._aead.encrypt(_BLANK_NONCE, self._rinsed, None)

    def __repr__(self) -> str:
        return f"<VaultKey {self.identifier.hex()}>"

    @property
    def secret(self) -> SecretBytes:
        """The key itself, to be wrapped by its successor and for nothing else."""
        return self._secret

    def derive(self, purpose: str, size: int) -> SecretBytes:
        """Return *size* bytes that only a holder of this key knows."""
        derived = SecretBytes.zeros(size)
        HKDF(
            algorithm=SHA256(),
            length=size,
            salt=None,
            info=b"nitrosigner/vault/1\0" + purpose.encode(),
        ).derive_into(self._secret.buffer, derived.buffer)
        return derived

    def seal(
        self, plaintext: bytes | bytearray, associated: bytes, randomness: RandomSource
    ) -> Sealed:
        """Seal *plaintext*, bound to *associated*."""
        mac = hmac.new(self._nonces.buffer, digestmod=hashlib.sha256)
        mac.update(randomness(32))
        mac.update(len(associated).to_bytes(4, "big") + associated)
        mac.update(plaintext)
        nonce = mac.digest()[:NONCE_SIZE]
        return Sealed(nonce, self._aead.encrypt(nonce, plaintext, associated))

    def open_into(
        self, nonce: bytes, ciphertext: bytes, associated: bytes, into: bytearray
    ) -> None:
        """
        Open into *into*, whose size is the plaintext's: `TAG_SIZE` less.

        Raises:
            Refused: It was not sealed so under this key (RECORD_UNTRUSTED).
        """
        try:
            self._aead.decrypt_into(nonce, ciphertext, associated, into)
            # OpenSSL's assembly spills the last block of plaintext to the stack
            # (measured, test_residue). Opening zeros right after it puts zeros there.
            self._aead.decrypt_into(_BLANK_NONCE, self._blank, None, self._rinsed)
        except (InvalidTag, ValueError):
            raise untrusted(
                "it was not sealed by this deployment as it stands"
            ) from None

    def open(self, nonce: bytes, ciphertext: bytes, associated: bytes) -> SecretBytes:
        """Return the plaintext; the caller wipes it. Raises as `open_into`."""
        if len(ciphertext) < TAG_SIZE:
            raise untrusted("it is cut off")
        opened = SecretBytes.zeros(len(ciphertext) - TAG_SIZE)
        self.open_into(nonce, ciphertext, associated, opened.buffer)
        return opened


class Vault:
    """The keys that are in force, newest first, and the version they are stored at."""

    def __init__(self, keys: Sequence[VaultKey], version: int) -> None:
        self.install(keys, version)

    def install(self, keys: Sequence[VaultKey], version: int) -> None:
        """Let *keys*, as stored at *version*, be in force from now on."""
        self.current = keys[0]
        self.version = version
        self.previous = tuple(keys[1:])
        self._by_identifier = {key.identifier: key for key in keys}

    def key(self, identifier: bytes) -> VaultKey:
        """
        Return the key called *identifier*.

        Raises:
            Refused: There is none (RECORD_UNTRUSTED).
        """
        key = self._by_identifier.get(identifier)
        if key is None:
            raise untrusted("it is sealed under a vault key that is not in force")
        return key


def untrusted(why: str) -> Refused:
    """Return the verdict on a record that is not what we sealed."""
    return Refused(
        Code.RECORD_UNTRUSTED,
        f"a stored record cannot be trusted: {why}",
        "restore the store from a backup of this deployment, of one moment; what was "
        "altered, swapped, renamed or cut does not open",
    )
