"""
Throws altered attestation documents at the verifier: only verdicts may come out, soon.

    python fuzz/attestation_documents.py [--seconds N] [--seed N] [FILE …]

Starts from documents in FILEs, or from emulated ones; alters bytes, lengths, CBOR items
and certificates, signs some of the results properly so that they reach the later
checks. It stops at the first document that is accepted although it was altered, that
raises anything but a verdict, or that takes too long, and writes it to a file.
"""

import argparse
import contextlib
import random
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cbor2

from nitrosigner.attestation.errors import AttestationError
from nitrosigner.attestation.trust_anchors import AWS_NITRO_ROOT_G1, TrustAnchor
from nitrosigner.attestation.verify import Expectations, unverified_document, verify
from nitrosigner.emulator import nsm
from nitrosigner.emulator.nitro_pki import Leaf, NitroPki

SLOWEST = 1.0
"""Seconds for one document; a good one takes milliseconds."""
ODD = (
    None,
    0,
    -1,
    1 << 63,
    "",
    "SHA384",
    b"",
    b"\x00" * 48,
    b"\xff" * 1024,
    [],
    {},
    True,
    1.5,
    cbor2.CBORTag(18, b""),
    [[[[]]]],
)


class Emulated:
    """Documents whose key we hold, so that an altered payload can be signed."""

    def __init__(self, now: datetime) -> None:
        pki = NitroPki.new(now)
        self.anchors: Sequence[TrustAnchor] = (pki.trust_anchor,)
        self.now = now
        self._leaf: Leaf = pki.leaf("i-0-enc0", now)
        pcrs = dict.fromkeys(range(3), b"\x01" * 48)
        made = cbor2.loads(nsm.EmulatedNsm(pki, pcrs, lambda: now).attest(nonce=b"n"))
        self.fields: dict[Any, Any] = cbor2.loads(made[2])
        self.fields["certificate"] = nsm.der(self._leaf.certificate)
        self.fields["cabundle"] = [nsm.der(one) for one in self._leaf.chain]

    def signed(self, payload: bytes) -> bytes:
        return nsm.sign(payload, self._leaf.key)


def altered_bytes(blob: bytes, choose: random.Random) -> bytes:
    """Flip, overwrite, cut, repeat or insert a few bytes."""
    data = bytearray(blob)
    for _ in range(choose.choice((1, 1, 1, 2, 8))):
        at = choose.randrange(len(data) + 1)
        match choose.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << choose.randrange(8)
            case 1 if at < len(data):
                data[at] = choose.choice((0, 0x7F, 0x80, 0xFF, choose.randrange(256)))
            case 2:
                del data[at : at + choose.choice((1, 2, 48, 1000))]
            case 3:
                data[at:at] = data[at : at + choose.choice((1, 2, 48, 1000))]
            case 4:
                data[at:at] = choose.randbytes(choose.choice((1, 4, 9)))
            case _:
                # A CBOR head that promises much.
                data[at:at] = bytes([choose.choice((0x5B, 0x9B, 0xBB, 0x7B))]) + b"\xff"
    return bytes(data)


def altered_fields(fields: dict[Any, Any], choose: random.Random) -> dict[Any, Any]:
    """Replace, drop or add a field, a register or a certificate."""
    fields = dict(fields)
    name = choose.choice(list(fields))
    match choose.randrange(5):
        case 0:
            fields[name] = choose.choice(ODD)
        case 1:
            del fields[name]
        case 2:
            fields[choose.choice(("extra", 7, "nonce2"))] = choose.choice(ODD)
        case 3:
            index = choose.choice((0, 15, 31, 32, -1, "0"))
            fields["pcrs"] = fields["pcrs"] | {index: choose.choice(ODD)}
        case _:
            chain = [*fields["cabundle"], fields["certificate"]]
            at = choose.randrange(len(chain))
            chain[at] = choose.choice(
                (altered_bytes(chain[at], choose), choose.choice(chain))
            )
            fields["cabundle"], fields["certificate"] = chain[:-1], chain[-1]
    return fields


@dataclass(frozen=True)
class Case:
    """One document, how to verify it, and whether it may be accepted."""

    blob: bytes
    anchors: Sequence[TrustAnchor]
    now: datetime
    may_be_true: bool
    payload: bytes = b""
    """What was signed, where it was."""


def next_case(emulated: Emulated, real: Sequence[bytes], choose: random.Random) -> Case:
    """Return a document altered after, or before, it was signed."""
    kind = choose.randrange(4)
    payload = cbor2.dumps(emulated.fields)
    if kind < 2:
        if kind == 0 and real:
            blob = choose.choice(real)
            anchors: Sequence[TrustAnchor] = (AWS_NITRO_ROOT_G1,)
            now = unverified_document(blob).timestamp
        else:
            blob, anchors, now = (
                emulated.signed(payload),
                emulated.anchors,
                emulated.now,
            )
        altered = altered_bytes(blob, choose)
        # An alteration may come to nothing, or put the permitted tag in front.
        same = altered in (blob, b"\xd2" + blob)
        return Case(altered, anchors, now, may_be_true=same)
    if kind == 2:
        payload = altered_bytes(payload, choose)
    else:
        # Not every choice can be encoded; then it stays as it was.
        with contextlib.suppress(TypeError):
            payload = cbor2.dumps(altered_fields(emulated.fields, choose))
    # Properly signed: what it says is true, so it may be accepted, as long as the
    # payload has no second reading.
    blob = emulated.signed(payload)
    return Case(blob, emulated.anchors, emulated.now, True, payload)


def run(seconds: float, seed: int, real: Sequence[bytes]) -> int:
    """Fuzz; return how many documents were tried. Raises SystemExit at a finding."""
    choose = random.Random(seed)
    emulated = Emulated(datetime.now(UTC))
    end, tried = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        case = next_case(emulated, real, choose)
        tried += 1
        began = time.monotonic()
        try:
            verify(
                case.blob,
                anchors=case.anchors,
                now=case.now,
                expectations=Expectations(allow_debug=True),
            )
        except AttestationError:
            pass
        except BaseException as error:
            _finding(case.blob, f"raised {type(error).__name__}: {error}")
        else:
            if not case.may_be_true:
                _finding(case.blob, "was accepted although it was altered")
            if case.payload and cbor2.dumps(cbor2.loads(case.payload)) != case.payload:
                _finding(case.blob, "was accepted in a second encoding")
        if time.monotonic() - began > SLOWEST:
            _finding(case.blob, "took too long")
    return tried


def _finding(blob: bytes, what: str) -> None:
    path = Path(f"finding-{time.time_ns()}.bin")
    path.write_bytes(blob)
    sys.exit(f"a document {what}; it is in {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seed", type=int, default=time.time_ns())
    parser.add_argument("files", nargs="*", type=Path)
    options = parser.parse_args()
    # `cryptography` warns about odd certificates; we refuse them.
    warnings.simplefilter("ignore")
    print(f"seed {options.seed}")
    real = [path.read_bytes() for path in options.files]
    print(f"{run(options.seconds, options.seed, real)} documents, nothing found")


if __name__ == "__main__":
    main()
