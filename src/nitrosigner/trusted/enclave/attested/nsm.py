"""
The Nitro Security Module's own language: CBOR requests and answers, one for one.

The transport is an argument: the ioctl on `/dev/nsm`, or whatever stands in for it.
Source: aws-nitro-enclaves-nsm-api, `src/api/mod.rs` and `src/driver/mod.rs`.
"""

import ctypes
import fcntl
import os
import struct
import threading
from collections.abc import Callable
from typing import Any, Final

import cbor2

from nitrosigner.verdicts import Code, Undecided

MAX_REQUEST: Final = 0x1000
"""Bytes of one encoded request that the device takes."""
MAX_RESPONSE: Final = 0x3000
"""Bytes of one encoded response that the device may write."""

Transport = Callable[[bytes], bytes]
"""One encoded request to one encoded response. Raises OSError when it fails."""

_HINT: Final = (
    "is this an enclave, and is /dev/nsm readable? the parent's state has more"
)


class NsmClient:
    """The port `Nsm`, over any transport. Blocks; threads take turns."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._turn = threading.Lock()

    def attest(
        self,
        *,
        public_key: bytes | None = None,
        user_data: bytes | None = None,
        nonce: bytes | None = None,
    ) -> bytes:
        """Return an attestation document that holds these values."""
        answer = self._call(
            {
                "Attestation": {
                    "user_data": user_data,
                    "nonce": nonce,
                    "public_key": public_key,
                }
            },
            "Attestation",
        )
        return _bytes_of(answer, "document")

    def random(self, size: int) -> bytes:
        """Return *size* random bytes; the device gives at most 256 at a time."""
        gathered = bytearray()
        while len(gathered) < size:
            part = _bytes_of(self._call("GetRandom", "GetRandom"), "random")
            if not part:
                raise _failed("gave no random bytes")
            gathered += part
        return bytes(gathered[:size])

    def pcr(self, index: int) -> bytes:
        """Return platform configuration register *index* (48 bytes)."""
        return _bytes_of(
            self._call({"DescribePCR": {"index": index}}, "DescribePCR"), "data"
        )

    def _call(self, request: object, expected: str) -> dict[Any, Any]:
        encoded = cbor2.dumps(request)
        if len(encoded) > MAX_REQUEST:
            raise _failed("cannot take a request that long")
        try:
            with self._turn:
                raw = self._transport(encoded)
            if len(raw) > MAX_RESPONSE:
                raise _failed("answered at impossible length")
            answer = cbor2.loads(raw)
        except (OSError, ValueError, cbor2.CBORError) as error:
            # cbor2's errors are not all ValueErrors; a device that speaks nonsense is
            # as absent as one that does not speak.
            raise _failed("did not answer") from error
        if isinstance(answer, dict):
            if isinstance(answer.get("Error"), str):
                raise _failed("reported an error")
            body = answer.get(expected)
            if len(answer) == 1 and isinstance(body, dict):
                return body
        raise _failed("answered something else")


def _bytes_of(answer: dict[Any, Any], field: str) -> bytes:
    value = answer.get(field)
    if not isinstance(value, bytes):
        raise _failed("answered something else")
    return value


def _failed(how: str) -> Undecided:
    return Undecided(Code.NSM_UNAVAILABLE, f"the Nitro Security Module {how}", _HINT)


# struct nsm_message { struct iovec request; struct iovec response; }, linux/nsm.h
_MESSAGE: Final = struct.Struct("@PNPN")
_IOCTL: Final = 3 << 30 | _MESSAGE.size << 16 | 0x0A << 8 | 0
"""_IOWR(0x0A, 0, struct nsm_message)"""


class NsmDevice:
    """The transport of production: the ioctl on the NSM's character device."""

    def __init__(self, path: str = "/dev/nsm") -> None:
        self._path = path
        self._descriptor: int | None = None

    def __call__(self, request: bytes) -> bytes:
        """Exchange one message. Raises OSError."""
        # Opened at the first call, so that a missing device is a boot state that is
        # reported and tried again, not a program that dies before it can speak.
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        sent = ctypes.create_string_buffer(request, len(request))
        received = ctypes.create_string_buffer(MAX_RESPONSE)
        message = bytearray(
            _MESSAGE.pack(
                ctypes.addressof(sent),
                len(request),
                ctypes.addressof(received),
                MAX_RESPONSE,
            )
        )
        fcntl.ioctl(self._descriptor, _IOCTL, message, True)
        *_, length = _MESSAGE.unpack(message)
        if length > MAX_RESPONSE:
            msg = "the device says it wrote past the buffer"
            raise OSError(msg)
        return received.raw[:length]
