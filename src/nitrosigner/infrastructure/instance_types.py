"""
Which EC2 instances can hold an enclave, as far as their names tell.

A wrong choice would show only when the Auto Scaling group launches nothing, an hour
after `cdk deploy` began; here it is one sentence.
"""

import re
from typing import Final

NAME: Final = re.compile(
    r"(?P<family>[a-z]+)[0-9]+(?P<options>[a-z0-9-]*)\.(?P<size>[a-z0-9-]+)"
)
_LARGER: Final = re.compile(r"([0-9]*)xlarge")
_WITHOUT_ENCLAVES: Final = frozenset({"a", "hpc", "mac", "t", "u"})
"""Families that have no Nitro Enclaves, whatever the size."""
_WHOLE_CORE: Final = 2
"""vCPUs of a core on x86_64: they go into an enclave, or stay outside, together."""


def is_graviton(instance_type: str) -> bool:
    """Return whether *instance_type* is arm64: `c7g`, `m6gd`, `r8gn`; not `g5`."""
    parsed = NAME.fullmatch(instance_type)
    return parsed is not None and parsed["options"].startswith("g")


def processors(instance_type: str) -> int | None:
    """
    Return how many vCPUs an instance has that can hold an enclave.

    None: it cannot hold one (bare metal, burstable, a family without), or the name is
    none.
    """
    parsed = NAME.fullmatch(instance_type)
    if parsed is None or parsed["family"] in _WITHOUT_ENCLAVES:
        return None
    if parsed["size"] == "large":
        return 2
    larger = _LARGER.fullmatch(parsed["size"])
    return None if larger is None else 4 * int(larger[1] or 1)


def why_not(
    instance_type: str, *, graviton: bool, enclave_processors: int
) -> str | None:
    """Return why *instance_type* is no parent of such an enclave, if it is none."""
    machine = "arm64" if is_graviton(instance_type) else "x86_64"
    if is_graviton(instance_type) is not graviton:
        return f"it is {machine}, and architecture says otherwise"
    there = processors(instance_type)
    if there is None:
        return (
            "it is no instance type that can hold an enclave: bare metal, burstable "
            "and tiny ones cannot"
        )
    core = 1 if graviton else _WHOLE_CORE
    if enclave_processors % core:
        return "on x86_64 an enclave takes whole cores: enclave_processors is even"
    if there - enclave_processors < core:
        return (
            f"it has {there} vCPUs, and with {enclave_processors} in the enclave none "
            "is left to the parent"
        )
    return None
