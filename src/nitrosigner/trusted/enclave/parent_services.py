"""
The framed protocol to the parent: records, credentials, audit, a place to report to.

Nothing that comes back is believed. An answer that does not fit its request closes the
connection, and the request is undecided.
"""

from nitrosigner.trusted.enclave.ports import Clock, Vsock
from nitrosigner.verdicts import Code, Refused
from nitrosigner.wire import services


class StoreConflict(Refused):
    """The stored version was not the expected one; nothing was written."""

    def __init__(self, version: int) -> None:
        super().__init__(
            Code.VERSION_CONFLICT,
            "the record was changed by somebody else",
            "read it again and repeat the change with its current version",
        )
        self.version = version


class ParentServices:
    """A multiplexed client on one long-lived vsock connection. All raise Undecided."""

    def __init__(self, vsock: Vsock, clock: Clock) -> None:
        self._vsock = vsock
        self._clock = clock

    async def get(self, collection: str, name: str) -> services.StoredRecord | None:
        """Return a record as it lies in the store, or None."""
        raise NotImplementedError

    async def page(
        self, collection: str, after: str = "", limit: int = services.MAX_PAGE
    ) -> services.Page:
        """Return records after *after*, in name order."""
        raise NotImplementedError

    async def put(self, collection: str, name: str, expected: int, data: bytes) -> int:
        """Write durably; return the new version. Raises StoreConflict."""
        raise NotImplementedError

    async def remove(self, collection: str, name: str, expected: int) -> None:
        """Remove for good. Raises StoreConflict."""
        raise NotImplementedError

    async def credentials(self) -> services.Credentials:
        """Return the instance role's credentials."""
        raise NotImplementedError

    async def append_audit(self, events: list[bytes]) -> None:
        """Append JSON lines durably, in order. Undecided is AUDIT_UNAVAILABLE."""
        raise NotImplementedError

    async def report_state(
        self, state: str, code: str = "", message: str = "", hint: str = ""
    ) -> None:
        """Tell whoever runs the parent where the boot stands."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the connection; what is under way becomes undecided."""
        raise NotImplementedError
