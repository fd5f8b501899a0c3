"""
Flips every single bit of documents, one at a time: each must be refused.

    python fuzz/attestation_bits.py FILE …

The test suite tries a sample. This tries all, about a minute for each document.
"""

import sys
import warnings
from pathlib import Path

from nitrosigner.attestation.errors import AttestationError
from nitrosigner.attestation.trust_anchors import AWS_NITRO_ROOT_G1
from nitrosigner.attestation.verify import Expectations, unverified_document, verify


def accepted_flips(blob: bytes) -> list[int]:
    """The bits whose flip went unnoticed."""
    now = unverified_document(blob).timestamp
    missed = []
    for bit in range(len(blob) * 8):
        altered = bytearray(blob)
        altered[bit // 8] ^= 1 << bit % 8
        try:
            verify(
                bytes(altered),
                anchors=[AWS_NITRO_ROOT_G1],
                now=now,
                expectations=Expectations(allow_debug=True),
            )
        except AttestationError:
            continue
        missed.append(bit)
    return missed


def main() -> None:
    warnings.simplefilter("ignore")
    for name in sys.argv[1:]:
        blob = Path(name).read_bytes()
        missed = accepted_flips(blob)
        print(f"{name}: {len(blob) * 8} bits flipped, accepted: {missed or 'none'}")
        if missed:
            sys.exit(1)


if __name__ == "__main__":
    main()
