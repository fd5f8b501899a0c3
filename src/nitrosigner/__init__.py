"""Keeps blockchain keys inside AWS Nitro Enclaves and signs with them."""

from typing import Final

__version__: Final = "0.1.0"
