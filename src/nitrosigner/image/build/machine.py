"""
The two kinds of machine that an image can be for, and what others call them.

The tools that make an image (compiler of bytecode, compressor) run on x86-64 whatever
the image is for; what must not be got wrong is to ship them where they do not belong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Machine:
    """One of them."""

    name: str
    """As wheels, kernels and EIFs have it."""
    debian: str
    loader: str
    """The C library's, below `usr/lib/NAME-linux-gnu`."""
    wheels: Sequence[str]
    """Platforms of wheels that run on it, the newest first."""
    kernel: str
    """What Linux's sources call it."""
    kernel_file: str
    """What is built of Linux: its path there. Its name is what `make` is asked for."""
    cross: str = ""
    """What the names of its compiler and linker begin with on x86-64."""

    @property
    def libraries(self) -> str:
        """Where Debian puts its libraries."""
        return f"usr/lib/{self.name}-linux-gnu"

    def file(self, name: str) -> str:
        """Return what our file *name* is called for it; another one's has its name."""
        stem, dot, ending = name.rpartition(".")
        return name if self is X86_64 else f"{stem}.{self.name}{dot}{ending}"


X86_64: Final = Machine(
    name="x86_64",
    debian="amd64",
    loader="ld-linux-x86-64.so.2",
    wheels=(
        *("manylinux_2_34_x86_64", "manylinux_2_28_x86_64", "manylinux_2_17_x86_64"),
        *("manylinux2014_x86_64", "manylinux_2_12_x86_64", "manylinux2010_x86_64"),
        *("manylinux_2_5_x86_64", "manylinux1_x86_64", "any"),
    ),
    kernel="x86",
    kernel_file="arch/x86/boot/bzImage",
)
AARCH64: Final = Machine(
    name="aarch64",
    debian="arm64",
    loader="ld-linux-aarch64.so.1",
    wheels=(
        *("manylinux_2_34_aarch64", "manylinux_2_28_aarch64"),
        *("manylinux_2_17_aarch64", "manylinux2014_aarch64", "any"),
    ),
    kernel="arm64",
    kernel_file="arch/arm64/boot/Image",
    cross="aarch64-linux-gnu-",
)
MACHINES: Final = {one.name: one for one in (X86_64, AARCH64)}
