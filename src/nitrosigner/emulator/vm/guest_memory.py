"""
The guest's memory, as QEMU shares it with a device.

Every address here was chosen by the guest. Nothing is read or written that does not
lie wholly in one region, and what is decided about is copied out first: the guest may
change its memory at any moment.
"""

import mmap
import os
from dataclasses import dataclass
from typing import Final, final

MAX_REGIONS: Final = 16


class GuestFault(Exception):
    """The guest put something into its memory that no driver would put there."""


@dataclass(frozen=True, slots=True)
class Region:
    """A piece of memory: where the guest and where QEMU see it, and its bytes."""

    guest: int
    user: int
    view: memoryview


@final
class GuestMemory:
    """All regions of one guest."""

    def __init__(self) -> None:
        self._regions: tuple[Region, ...] = ()

    def replace(self, regions: list[tuple[int, int, int, int, int]]) -> None:
        """
        Use other memory: (guest address, size, user address, offset, descriptor) each.

        Closes the descriptors.

        Raises:
            OSError: A descriptor cannot be mapped.
        """
        mapped = []
        try:
            for guest, size, user, offset, descriptor in regions:
                memory = mmap.mmap(descriptor, size + offset)
                view = memoryview(memory)[offset : offset + size]
                mapped.append(Region(guest, user, view))
        except (ValueError, OverflowError) as error:
            raise OSError(str(error)) from None
        finally:
            for *_, descriptor in regions:
                os.close(descriptor)
        self._regions = tuple(mapped)

    def at_guest(self, address: int, size: int) -> memoryview:
        """
        Return *size* bytes at a guest's address.

        Raises:
            GuestFault: They are not memory.
        """
        for region in self._regions:
            start = address - region.guest
            if start >= 0 and start + size <= len(region.view):
                return region.view[start : start + size]
        msg = "an address outside the guest's memory"
        raise GuestFault(msg)

    def at_user(self, address: int, size: int) -> memoryview:
        """
        Return *size* bytes at an address of QEMU's, as it names the rings.

        Raises:
            GuestFault: They are not the guest's memory.
        """
        for region in self._regions:
            start = address - region.user
            if start >= 0 and start + size <= len(region.view):
                return region.view[start : start + size]
        msg = "a ring outside the guest's memory"
        raise GuestFault(msg)
