"""
The reference of the validator's figures: blst called as bare as Python can call it.

    python bench/bare_blst.py [--seconds 1]

A signature is `hash_to_g2` (left out where the root was hashed before), the
multiplication, and the compression: no key is opened, checked or wiped, and nothing is
parsed. It is measured twice: *alone*, by one process while the other core idles, and
*both*, by two processes that keep both cores at work, as the signer's figures do: cores
share caches, power and perhaps more, so this is what "on the same cores" means.
"""

import argparse
import ctypes
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any, Final

import ckzg

from nitrosigner.trusted.signing.bls12_381 import CIPHERSUITE

CORES: Final = 2
_POINT: Final = 288
_SIGNATURE: Final = 96
_CALLS: Final = 50
"""Between two looks at the clock."""


@dataclass(frozen=True)
class Rate:
    """Signatures a second."""

    alone: float
    """Of processor time, one process."""
    both: float
    """Of processor time, while both cores sign."""
    both_elapsed: float
    """Of elapsed time, both cores together."""


@dataclass(frozen=True)
class Bare:
    """One measurement."""

    new_roots: Rate
    same_root: Rate


def bare_signature(*, same: bool) -> Callable[[], None]:
    """Return what makes one signature."""
    # PyDLL: these processes have one thread, which need not let go of the interpreter.
    blst = ctypes.PyDLL(ckzg.__file__)
    hash_to_g2, sign, compress = (
        blst.blst_hash_to_g2,
        blst.blst_sign_pk_in_g1,
        blst.blst_p2_compress,
    )
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    hash_to_g2.argtypes = [pointer, pointer, size, pointer, size, pointer, size]
    sign.argtypes = [pointer, pointer, pointer]
    compress.argtypes = [pointer, pointer]
    hash_to_g2.restype = sign.restype = compress.restype = None
    scalar = ctypes.create_string_buffer(bytes(range(31)) + b"\x07", 32)
    hashed = ctypes.create_string_buffer(_POINT)
    point = ctypes.create_string_buffer(_POINT)
    signature = ctypes.create_string_buffer(_SIGNATURE)
    root = bytearray(32)
    in_c = (ctypes.c_char * 32).from_buffer(root)
    length = len(CIPHERSUITE)
    hash_to_g2(hashed, in_c, 32, CIPHERSUITE, length, None, 0)

    def of_one_root() -> None:
        sign(point, hashed, scalar)
        compress(signature, point)

    def of_a_new_root() -> None:
        root[0] = (root[0] + 1) & 0xFF
        hash_to_g2(hashed, in_c, 32, CIPHERSUITE, length, None, 0)
        sign(point, hashed, scalar)
        compress(signature, point)

    return of_one_root if same else of_a_new_root


def _sign(seconds: float, same: bool, together: Barrier, told: Connection) -> None:
    signature = bare_signature(same=same)
    together.wait()
    count, cpu, begun = 0, time.process_time(), time.perf_counter()
    while time.perf_counter() - begun < seconds:
        for _ in range(_CALLS):
            signature()
        count += _CALLS
    cpu, took = time.process_time() - cpu, time.perf_counter() - begun
    told.send((count / cpu, count / took))


def _rates(seconds: float, processes: int, *, same: bool) -> list[tuple[float, float]]:
    """Return signatures a second of processor and of elapsed time, by process."""
    context = multiprocessing.get_context("fork")
    together = context.Barrier(processes)
    ends = [context.Pipe(duplex=False) for _ in range(processes)]
    workers = [
        context.Process(target=_sign, args=(seconds, same, together, writing))
        for _, writing in ends
    ]
    for worker in workers:
        worker.start()
    found = [reading.recv() for reading, _ in ends]
    for worker in workers:
        worker.join()
    return found


def _rate(seconds: float, *, same: bool) -> Rate:
    ((alone, _),) = _rates(seconds, 1, same=same)
    both = _rates(seconds, min(CORES, os.cpu_count() or 1), same=same)
    return Rate(
        alone=alone,
        both=statistics.mean(cpu for cpu, _ in both),
        both_elapsed=sum(elapsed for _, elapsed in both),
    )


def measure(seconds: float) -> Bare:
    """Measure for four times *seconds*."""
    return Bare(
        new_roots=_rate(seconds, same=False), same_root=_rate(seconds, same=True)
    )


def median(measured: list[Bare]) -> Bare:
    """Return the medians of measurements that were made around other work."""

    def of(rates: list[Rate]) -> Rate:
        return Rate(
            alone=statistics.median(rate.alone for rate in rates),
            both=statistics.median(rate.both for rate in rates),
            both_elapsed=statistics.median(rate.both_elapsed for rate in rates),
        )

    return Bare(
        new_roots=of([one.new_roots for one in measured]),
        same_root=of([one.same_root for one in measured]),
    )


def shown(bare: Bare) -> dict[str, Any]:
    """Return *bare* for printing."""
    return {
        kind: {
            "alone_per_cpu_second": rate.alone,
            "both_cores_per_cpu_second": rate.both,
            "both_cores_per_second": rate.both_elapsed,
        }
        for kind, rate in (
            ("new_roots", bare.new_roots),
            ("same_root", bare.same_root),
        )
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=1.0)
    print(json.dumps(shown(measure(parser.parse_args().seconds)), indent=2))


if __name__ == "__main__":
    main()
