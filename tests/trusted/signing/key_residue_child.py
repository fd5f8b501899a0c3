"""
Signs with a key and then stands still, so that the parent can look for copies of it.

The key arrives masked, byte by byte, so that reading it leaves no copy by itself.
Each line that is printed means: look now; one byte on standard input means: go on.
"""

import gc
import sys

from nitrosigner.trusted.signing import (
    addresses,
    ethereum_transactions,
    transaction_fields,
)
from nitrosigner.trusted.signing.secp256k1 import Secp256k1
from nitrosigner.trusted.signing.secret_bytes import SecretBytes

MASK = 0xAA


def pause(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
    sys.stdin.buffer.raw.read(1)


def main(route: str) -> None:
    algorithm = Secp256k1(bytes(32))
    secret = SecretBytes.zeros(32)
    masked = bytearray(sys.stdin.buffer.raw.read(32))
    for place, byte in enumerate(masked):
        secret.buffer[place] = byte ^ MASK
    careless = bytes(secret.buffer) if route == "careless" else None
    for nonce in range(20):
        sender = addresses.parse(algorithm.identity(algorithm.public_key(secret)))
        transaction = transaction_fields.parse(
            {"nonce": nonce, "gas": 21000, "gasPrice": 1, "to": "0x" + 40 * "0"},
            sender=sender,
        )
        digest = ethereum_transactions.signing_hash(transaction)
        ethereum_transactions.signed(transaction, algorithm.sign(secret, digest))
    pause("live")
    if route != "unwiped":
        secret.wipe()
    gc.collect()
    pause("wiped")
    del careless


main(sys.argv[1])
