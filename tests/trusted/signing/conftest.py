"""Fixtures of the signing room's tests."""

import hashlib
from collections.abc import Callable

import pytest

from nitrosigner.trusted.signing.secp256k1 import Secp256k1
from nitrosigner.trusted.signing.secret_bytes import SecretBytes


@pytest.fixture(scope="session")
def secp256k1() -> Secp256k1:
    return Secp256k1(hashlib.sha256(b"any 32 bytes will do").digest())


@pytest.fixture
def secret() -> Callable[[int], SecretBytes]:
    """Make a private key out of a number."""
    return lambda number: SecretBytes(bytearray(number.to_bytes(32, "big")))
