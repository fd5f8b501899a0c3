"""
The states that an enclave boots through, and what health and doctor are told of them.
"""

from typing import Final, Protocol

from nitrosigner.wire import api

STATES: Final = (
    "nsm",
    "recipient_key",
    "manifest",
    "kms",
    "vault",
    "records",
    "tls",
    "ready",
)


class HealthSource(Protocol):
    """What `/healthcheck` shows, without asking anybody."""

    @property
    def state(self) -> str:
        """The boot state reached."""
        ...

    @property
    def steps(self) -> list[api.BootStep]:
        """Every state that was passed, with how long it took."""
        ...

    @property
    def checks(self) -> dict[str, bool]:
        """`storage`, `kms`, `keys`: whether the last use of each went well."""
        ...

    @property
    def keys_loaded(self) -> int: ...

    @property
    def kms_calls(self) -> int: ...
