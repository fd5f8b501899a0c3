"""
Whether the kernel's clock has to be set, before the program starts.

It is set to the hypervisor's time: the one that the parent cannot touch. From then on
`clock_check` watches it, in the program.
"""

from typing import Final

TOLERANCE: Final = 2.0
"""Seconds by which the clock may be off. A document takes milliseconds to make."""


def correction(kernel: float, hypervisor: float) -> float | None:
    """Return what to set the clock to, or None where it is right."""
    return None if abs(kernel - hypervisor) <= TOLERANCE else hypervisor
