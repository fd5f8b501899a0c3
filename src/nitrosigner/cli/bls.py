"""blst for the command line: in the shared library that ckzg brings, as the enclave."""

import importlib.util

from nitrosigner.trusted.signing.bls12_381 import Bls12381
from nitrosigner.verdicts import Code, Undecided


def bls12_381() -> Bls12381:
    """
    Return the algorithm, after its known-answer test.

    Raises:
        Refused: It does not compute what it must.
        Undecided: ckzg is not installed.
    """
    found = importlib.util.find_spec("ckzg")
    if found is None or found.origin is None:
        raise Undecided(
            Code.INTERNAL,
            "the library for BLS keys is missing",
            "install nitrosigner with its locked dependencies (ckzg)",
        )
    bls = Bls12381(found.origin)
    bls.known_answers()
    return bls
