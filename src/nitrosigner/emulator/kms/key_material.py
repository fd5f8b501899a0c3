"""
The cryptography of the emulated KMS: a root key, the keys under it, the blobs.

The encryption context is associated data of every ciphertext: a blob opens under the
very context that it was made with, or not at all.
"""

import json
import secrets
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from nitrosigner.emulator.data_folder import write_new
from nitrosigner.emulator.kms.errors import KmsError
from nitrosigner.emulator.kms.store import KeyRow

_BLOB_MAGIC: Final = b"\x01\x02\x02\x00nitrosigner-emulated"
"""AWS's blobs begin with these four bytes too. The rest says what it is."""
_NONCE: Final = 12
_TAG: Final = 16
_KEY_ID: Final = 16


class RootKey:
    """What everything else is sealed under. A file that only its owner may read."""

    def __init__(self, path: Path) -> None:
        """Read the root key at *path*; make it on the first run."""
        if not path.exists():
            write_new(path, secrets.token_bytes(32))
        key = path.read_bytes()
        if len(key) != 32:
            message = f"{path.name} is not a root key: it has {len(key)} bytes"
            raise RuntimeError(message)
        self._aead = AESGCM(self._derive(key, b"key material"))
        self.session_key: Final = self._derive(key, b"session tokens")

    @staticmethod
    def _derive(key: bytes, purpose: bytes) -> bytes:
        return HKDF(hashes.SHA256(), 32, None, b"nitrosigner/kms/" + purpose).derive(
            key
        )

    def new_material(self, key_id: str) -> bytes:
        """Return fresh key material for *key_id*, sealed."""
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._aead.encrypt(
            nonce, secrets.token_bytes(32), key_id.encode()
        )

    def encrypt(
        self, key: KeyRow, plaintext: bytes, context: Mapping[str, str]
    ) -> bytes:
        """Return the CiphertextBlob of *plaintext*."""
        header = _BLOB_MAGIC + uuid.UUID(key.id).bytes
        nonce = secrets.token_bytes(_NONCE)
        sealed = self._open(key).encrypt(nonce, plaintext, _bound(header, context))
        return header + nonce + sealed

    def decrypt(self, key: KeyRow, blob: bytes, context: Mapping[str, str]) -> bytes:
        """
        Open a CiphertextBlob.

        Raises:
            KmsError: Altered, or made under another encryption context.
        """
        start = len(_BLOB_MAGIC) + _KEY_ID
        header, nonce, sealed = (
            blob[:start],
            blob[start:][:_NONCE],
            blob[start:][_NONCE:],
        )
        try:
            return self._open(key).decrypt(nonce, sealed, _bound(header, context))
        except InvalidTag:
            raise KmsError("InvalidCiphertextException") from None

    def _open(self, key: KeyRow) -> AESGCM:
        nonce, sealed = key.material[:_NONCE], key.material[_NONCE:]
        return AESGCM(self._aead.decrypt(nonce, sealed, key.id.encode()))


def key_of(blob: bytes) -> str:
    """
    Return the id of the key that made *blob*.

    Raises:
        KmsError: It is not a blob of this KMS.
    """
    start = len(_BLOB_MAGIC)
    shortest = start + _KEY_ID + _NONCE + _TAG
    if not blob.startswith(_BLOB_MAGIC) or len(blob) < shortest:
        raise KmsError("InvalidCiphertextException")
    return str(uuid.UUID(bytes=blob[start : start + _KEY_ID]))


def canonical_context(context: Mapping[str, str]) -> str:
    """Return an encryption context as JSON, the same for equal contexts."""
    return json.dumps(
        dict(context), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )


def _bound(header: bytes, context: Mapping[str, str]) -> bytes:
    # surrogatepass: JSON may hold lone surrogates, and they must bind too.
    return header + canonical_context(context).encode("utf-8", "surrogatepass")
