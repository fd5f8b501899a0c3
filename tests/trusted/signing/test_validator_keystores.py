"""The two vectors of EIP-2335, and files that ask for what nobody should get."""

import copy
import json
from typing import Any

import pytest

from nitrosigner.trusted.signing.validator_keystores import open_keystore, parse
from nitrosigner.verdicts import Malformed, Refused

# EIP-2335, "Test Cases". The password holds mathematical letters and an emoji.
PASSWORD = "𝔱𝔢𝔰𝔱𝔭𝔞𝔰𝔰𝔴𝔬𝔯𝔡🔑"
SECRET = "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f"
PUBLIC_KEY = (
    "9612d7a727c9d0a22e185a1c768478dfe919cada9266988cb32359c11f2b7b27"
    "f4ae4040902382ae2910c15e2b420d07"
)
SALT = "d4e56740f876aef8c010b86a40d5f56745a118d0906a34e69aec8c0db1cb8fa3"
IV = "264daa3f303d7259501c93d997d84fe6"
SCRYPT: dict[str, Any] = {
    "crypto": {
        "kdf": {
            "function": "scrypt",
            "params": {"dklen": 32, "n": 262144, "p": 1, "r": 8, "salt": SALT},
            "message": "",
        },
        "checksum": {
            "function": "sha256",
            "params": {},
            "message": "d2217fe5f3e9a1e34581ef8a78f7c9928e436d36dacc5e846690a5581e8ea484",
        },
        "cipher": {
            "function": "aes-128-ctr",
            "params": {"iv": IV},
            "message": "06ae90d55fe0a6e9c5c3bc5b170827b2e5cce3929ed3f116c2811e6366dfe20f",
        },
    },
    "description": "This is a test keystore that uses scrypt to secure the secret.",
    "pubkey": PUBLIC_KEY,
    "path": "m/12381/60/3141592653/589793238",
    "uuid": "1d85ae20-35c5-4611-98e8-aa14a633906f",
    "version": 4,
}
PBKDF2: dict[str, Any] = {
    **SCRYPT,
    "crypto": {
        "kdf": {
            "function": "pbkdf2",
            "params": {"dklen": 32, "c": 262144, "prf": "hmac-sha256", "salt": SALT},
            "message": "",
        },
        "checksum": {
            "function": "sha256",
            "params": {},
            "message": "8a9f5d9912ed7e75ea794bc5a89bca5f193721d30868ade6f73043c6ea6febf1",
        },
        "cipher": {
            "function": "aes-128-ctr",
            "params": {"iv": IV},
            "message": "cee03fde2af33149775b7223e7845e4fb2c8ae1792e5f99fe9ecf474cc8c16ad",
        },
    },
}


@pytest.mark.parametrize("file", [SCRYPT, PBKDF2], ids=["scrypt", "pbkdf2"])
def test_the_vectors_of_the_eip_open(file: dict[str, Any]) -> None:
    keystore = parse(json.dumps(file).encode())
    assert keystore.pubkey == PUBLIC_KEY
    with open_keystore(keystore, PASSWORD) as secret:
        assert secret.buffer.hex() == SECRET
    # Control characters do not count, normal forms do not matter.
    with open_keystore(keystore, "\x7ftestpass\x00word\x9f🔑") as secret:
        assert secret.buffer.hex() == SECRET


def test_another_password_is_refused() -> None:
    keystore = parse(json.dumps(PBKDF2).encode())
    with pytest.raises(Refused) as refusal:
        open_keystore(keystore, "letmein")
    assert "letmein" not in str(refusal.value)


def changed(path: str, value: Any, file: dict[str, Any] = SCRYPT) -> bytes:
    copied: Any = copy.deepcopy(file)
    *parents, last = path.split(".")
    at = copied
    for name in parents:
        at = at[name]
    at[last] = value
    return json.dumps(copied).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"x" * 20_000,
        changed("version", 3),
        changed("crypto.kdf.function", "argon2"),
        changed("crypto.kdf.params.n", 1 << 40),
        changed("crypto.kdf.params.n", 3),
        changed("crypto.kdf.params.n", 1),
        changed("crypto.kdf.params.n", -2),
        changed("crypto.kdf.params.r", 1 << 20),
        changed("crypto.kdf.params.p", 1 << 20),
        changed("crypto.kdf.params.p", 0),
        changed("crypto.kdf.params.dklen", 64),
        changed("crypto.kdf.params.salt", ""),
        changed("crypto.kdf.params.salt", "zz"),
        changed("crypto.kdf.params.c", 0, PBKDF2),
        changed("crypto.kdf.params.c", 10**10, PBKDF2),
        changed("crypto.kdf.params.prf", "hmac-md5", PBKDF2),
        changed("crypto.cipher.function", "aes-256-cbc"),
        changed("crypto.checksum.function", "md5"),
    ],
)
def test_what_is_no_affordable_keystore_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse(data)
