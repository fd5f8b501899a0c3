"""
Keccak-256, the hash of Ethereum.

It is not SHA3-256: the padding differs. `hashlib.sha3_256` gives other digests, and a
wrong one here would sign something nobody asked for; so boot compares a known answer.
"""

from sha3 import keccak_256 as _keccak_256


def keccak_256(data: bytes) -> bytes:
    """Return the 32 byte Keccak-256 digest of *data*."""
    digest: bytes = _keccak_256(data).digest()
    return digest
