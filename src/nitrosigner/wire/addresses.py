"""Where things listen on the vsock. CIDs and ports are part of the contract."""

from typing import Final

PARENT_CID: Final = 3
"""The parent, seen from any enclave (AWS Nitro Enclaves user guide)."""

HTTPS_PORT: Final = 8443
"""Enclave: raw TLS bytes of callers, one vsock connection for each TCP connection."""

SERVICES_PORT: Final = 7001
"""Parent: the framed protocol of `wire.services`."""

EGRESS_PORT: Final = 7002
"""Parent: HTTP CONNECT to allow-listed hosts; the bytes behind it are TLS."""

HEARTBEAT_PORT: Final = 9000
"""Parent: where nitro-cli waits for the image's init to say that it lives."""
