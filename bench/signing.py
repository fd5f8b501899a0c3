"""
What one EIP-1559 signature costs beside the bare library call it cannot do without.

    python bench/signing.py [--rounds 500] [--json]

The reference is libsecp256k1's recoverable signature and one Keccak-256, called as we
call them. Both sides are measured in turns in one process, so that a busy machine slows
both; the medians and their ratio are what counts, not the microseconds.
"""

import argparse
import gc
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, Final

from coincurve._libsecp256k1 import ffi, lib
from sha3 import keccak_256

from nitrosigner.trusted.signing import (
    addresses,
    ethereum_transactions,
    transaction_fields,
)
from nitrosigner.trusted.signing.secp256k1 import Secp256k1
from nitrosigner.trusted.signing.secret_bytes import SecretBytes

LIMIT: Final = 3.0
"""Issue 2: unseal, sign, wipe and encode cost at most this many times the reference."""

ROUNDS: Final = 500
CALLS: Final = 4
"""In one turn of one side: far shorter than the time after which a busy machine takes
the processor away, so that few turns are hit and the medians are of those that are not.
"""


def _sides() -> Mapping[str, Callable[[], object]]:
    randomness = hashlib.sha256(b"bench").digest()
    algorithm = Secp256k1(randomness)
    secret = SecretBytes(bytearray(hashlib.sha256(b"a key of nobody").digest()))
    identity = algorithm.identity(algorithm.public_key(secret))
    sender = addresses.parse(identity)
    fields: dict[str, Any] = {
        "type": "0x2",
        "chainId": "0x7a69",
        "nonce": "0x5",
        "gas": "0x5208",
        "maxFeePerGas": "0x174876e800",
        "maxPriorityFeePerGas": "0xb2d05e00",
        "to": "0xa5D3241A1591061F2a4bB69CA0215F66520E67cf",
        "value": "0x2386f26fc10000",
        "from": identity,
    }
    transaction = transaction_fields.parse(fields, sender=sender)
    digest = ethereum_transactions.signing_hash(transaction)
    signature = algorithm.sign(secret, digest)

    context = lib.secp256k1_context_create(lib.SECP256K1_CONTEXT_NONE)
    lib.secp256k1_context_randomize(context, randomness)
    result = ffi.new("secp256k1_ecdsa_recoverable_signature *")
    pointer = ffi.from_buffer("unsigned char[]", secret.buffer)
    bare_sign = lib.secp256k1_ecdsa_sign_recoverable

    def reference() -> object:
        bare_sign(context, result, digest, pointer, ffi.NULL, ffi.NULL)
        return keccak_256(digest).digest()

    def eip_1559() -> object:
        parsed = transaction_fields.parse(fields, sender=sender)
        hashed = ethereum_transactions.signing_hash(parsed)
        return ethereum_transactions.signed(parsed, algorithm.sign(secret, hashed))

    return {
        "reference": reference,
        "eip_1559": eip_1559,
        "parse": lambda: transaction_fields.parse(fields, sender=sender),
        "signing_hash": lambda: ethereum_transactions.signing_hash(transaction),
        "sign": lambda: algorithm.sign(secret, digest),
        "signed": lambda: ethereum_transactions.signed(transaction, signature),
    }


def measure(rounds: int = ROUNDS) -> dict[str, Any]:
    """Return medians in microseconds, and the ratio to the reference."""
    sides = _sides()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides)
    random = Random(1)
    gc.collect()
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            call = sides[name]
            began = time.perf_counter()
            for _ in range(CALLS):
                call()
            seconds[name].append((time.perf_counter() - began) / CALLS)
    median = {name: statistics.median(each) * 1e6 for name, each in seconds.items()}
    ratio = median["eip_1559"] / median["reference"]
    return {
        "name": "one EIP-1559 transaction: read, hash, sign, encode",
        "microseconds": {name: round(each, 2) for name, each in median.items()},
        "ratio": round(ratio, 3),
        "limit": LIMIT,
        "ok": ratio <= LIMIT,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of a signature, as a ratio.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.rounds)
    if options.json:
        print(json.dumps(result))
        return
    print(result["name"])
    for name, each in result["microseconds"].items():
        print(f"  {name:14} {each:8.2f} us")
    print(f"  {result['ratio']} x the reference (limit {result['limit']})")


if __name__ == "__main__":
    main()
