"""
Whether the kernel's clock is right, by the one clock that the parent cannot touch.

The hypervisor writes its own time into each attestation document. It is asked once,
before the program starts: certificates and audit events are dated by the clock that
is set here. The document comes from the device, so it is read without verification.
"""

from typing import Final

import cbor2

from nitrosigner.trusted.enclave.nsm import NsmClient

TOLERANCE: Final = 2.0
"""Seconds by which the clock may be off. A document takes milliseconds to make."""
_EARLIEST: Final = 1_700_000_000.0
"""Unix seconds (November 2023): before that, the hypervisor's clock is not set."""


class NoTime(Exception):
    """The hypervisor does not say what time it is."""


def hypervisor_time(nsm: NsmClient) -> float:
    """
    Return Unix seconds, as the hypervisor has them.

    Raises:
        NoTime: It gave no document, or one without a believable time.
        Undecided: The device did not answer.
    """
    document = nsm.attest()
    try:
        _, _, payload, _ = cbor2.loads(document)
        timestamp = cbor2.loads(payload)["timestamp"]
    except (cbor2.CBORError, ValueError, TypeError, KeyError):
        raise NoTime from None
    if not isinstance(timestamp, int) or timestamp / 1000 < _EARLIEST:
        raise NoTime
    return timestamp / 1000


def correction(kernel: float, hypervisor: float) -> float | None:
    """Return what to set the clock to, or None where it is right."""
    return None if abs(kernel - hypervisor) <= TOLERANCE else hypervisor
