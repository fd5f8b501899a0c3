"""
EIP-2335 keystores made on the fly, as a deposit tool writes them.

With few rounds, so that nobody waits: the password guards nothing here.
"""

import hashlib
import json
import secrets
import uuid
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

ROUNDS: Final = 1024
"""Of PBKDF2. Real keystores have 262,144."""


def keystore(secret: bytes, public_key: bytes, password: str, index: int) -> bytes:
    """Return the JSON of one keystore."""
    salt, iv = secrets.token_bytes(32), secrets.token_bytes(16)
    derived = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, ROUNDS, 32)
    cipher = Cipher(algorithms.AES128(derived[:16]), modes.CTR(iv)).encryptor()
    message = cipher.update(secret) + cipher.finalize()
    checksum = hashlib.sha256(derived[16:] + message).hexdigest()
    return json.dumps(
        {
            "crypto": {
                "kdf": {
                    "function": "pbkdf2",
                    "params": {
                        "dklen": 32,
                        "c": ROUNDS,
                        "prf": "hmac-sha256",
                        "salt": salt.hex(),
                    },
                    "message": "",
                },
                "checksum": {"function": "sha256", "params": {}, "message": checksum},
                "cipher": {
                    "function": "aes-128-ctr",
                    "params": {"iv": iv.hex()},
                    "message": message.hex(),
                },
            },
            "description": "",
            "pubkey": public_key.hex(),
            "path": f"m/12381/3600/{index}/0/0",
            "uuid": str(uuid.uuid4()),
            "version": 4,
        },
        indent=2,
    ).encode()


def write_keystores(
    folder: Path, keys: list[tuple[bytes, bytes]], password: str
) -> None:
    """Write a keystore for each (secret, public key), readable by their owner only."""
    folder.mkdir(mode=0o700)
    for index, (secret, public_key) in enumerate(keys):
        path = folder / f"keystore-m_12381_3600_{index}_0_0-1700000000.json"
        path.touch(mode=0o600)
        path.write_bytes(keystore(secret, public_key, password, index))
