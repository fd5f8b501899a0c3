"""
A virtio device in a process of its own: the control side of vhost-user.

QEMU connects to our socket, shares the guest's memory and the rings, and from then on
the guest talks to us directly. Messages on the socket come from QEMU and are believed
as far as their shape; what is in the rings comes from the guest and is not.

One thread runs `serve`. Control messages are handled before kicks, and a new call
descriptor gets one interrupt more than was earned: QEMU first hands over a "masked"
one, and does not repeat what was signalled on it, so the guest would wait for ever.

Source: QEMU, docs/interop/vhost-user.rst.
"""

import array
import contextlib
import os
import selectors
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from nitrosigner.emulator.vm.guest_memory import (
    MAX_REGIONS,
    GuestFault,
    GuestMemory,
)
from nitrosigner.emulator.vm.virtqueue import Virtqueue

_HEADER: Final = struct.Struct("<III")
_MAX_BODY: Final = 4096
_VERSION_1: Final = 1 << 32
_PROTOCOL_FEATURES: Final = 1 << 30
_REPLY_ACK: Final = 1 << 3
_CONFIG: Final = 1 << 9
_NEED_REPLY: Final = 8
_REPLY: Final = 5
_NO_DESCRIPTOR: Final = 0x100
_EVENT: Final = (1).to_bytes(8, sys.byteorder)

_GET_FEATURES: Final = 1
_SET_MEMORY: Final = 5
_SET_RING_SIZE: Final = 8
_SET_RING_ADDRESSES: Final = 9
_SET_RING_BASE: Final = 10
_GET_RING_BASE: Final = 11
_SET_RING_KICK: Final = 12
_SET_RING_CALL: Final = 13
_SET_RING_ERROR: Final = 14
_GET_PROTOCOL_FEATURES: Final = 15
_SET_PROTOCOL_FEATURES: Final = 16
_GET_QUEUE_COUNT: Final = 17
_SET_RING_ENABLE: Final = 18
_GET_CONFIG: Final = 24


class QemuGone(Exception):
    """The socket to QEMU was closed, or speaks another language."""


class Device(Protocol):
    """What is behind the rings."""

    config: bytes
    """The device's configuration space."""

    def attach(self, transport: "VhostUser") -> None:
        """Take part in *transport*'s loop."""
        ...

    def on_kick(self, queue: int) -> None:
        """
        Look at ring *queue*: the guest says that there is something.

        Raises:
            GuestFault: The guest broke the device's protocol.
        """
        ...

    def reset(self) -> None:
        """Forget everything: the guest's driver has gone."""
        ...

    def close(self) -> None:
        """Close everything: the machine has gone."""
        ...


class VhostUser:
    """One device's socket, rings and loop."""

    def __init__(self, path: Path, device: Device, queues: int) -> None:
        self.selector = selectors.DefaultSelector()
        self.queues: Final = tuple(Virtqueue() for _ in range(queues))
        self._device = device
        self._memory = GuestMemory()
        self._addresses: list[tuple[int, int, int] | None] = [None] * queues
        self._kicks: list[int] = [-1] * queues
        self._calls: list[int] = [-1] * queues
        self._protocol_features = 0
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        os.fchmod(self._listener.fileno(), 0o600)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._qemu: socket.socket | None = None
        device.attach(self)

    def serve(self) -> None:
        """
        Wait for QEMU and serve its guest until it is gone.

        Raises:
            GuestFault: The guest broke the protocol; its device is gone now.
        """
        self._qemu, _ = self._listener.accept()
        self._listener.close()
        self.selector.register(self._qemu, selectors.EVENT_READ, self._on_message)
        try:
            while True:
                events = self.selector.select()
                events.sort(key=lambda event: event[0].fileobj is not self._qemu)
                for key, mask in events:
                    # An earlier event of this round may have ended this one.
                    if self.selector.get_map().get(key.fd) is key:
                        key.data(mask)
        except QemuGone:
            return
        finally:
            self._device.reset()
            self._device.close()
            self.selector.close()
            self._qemu.close()
            for descriptor in (*self._kicks, *self._calls):
                if descriptor >= 0:
                    os.close(descriptor)

    def notify(self, queue: int) -> None:
        """Tell the guest that buffers of ring *queue* were handed back."""
        if self._calls[queue] >= 0 and self.queues[queue].wants_interrupt:
            with contextlib.suppress(BlockingIOError):
                os.write(self._calls[queue], _EVENT)

    def _on_message(self, _: int) -> None:
        qemu = self._qemu
        if qemu is None:  # pragma: no cover  # registered with it
            raise QemuGone
        descriptors = array.array("i")
        try:
            data, ancillary, flags, _address = qemu.recvmsg(
                _HEADER.size,
                socket.CMSG_SPACE(4 * MAX_REGIONS),
                socket.MSG_CMSG_CLOEXEC,
            )
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    descriptors.frombytes(content[: len(content) // 4 * 4])
            if len(data) < _HEADER.size:
                data += self._exactly(_HEADER.size - len(data))
            request, message_flags, size = _HEADER.unpack(data)
            if size > _MAX_BODY or flags & socket.MSG_CTRUNC:
                raise QemuGone
            body = self._exactly(size)
            answer = self._handle(request, body, list(descriptors))
            if answer is None and message_flags & _NEED_REPLY:
                answer = struct.pack("<Q", 0)
            if answer is not None:
                qemu.sendall(_HEADER.pack(request, _REPLY, len(answer)) + answer)
        except (OSError, struct.error, IndexError):
            raise QemuGone from None

    def _exactly(self, size: int) -> bytes:
        gathered = b""
        while len(gathered) < size and self._qemu is not None:
            part = self._qemu.recv(size - len(gathered))
            if not part:
                raise QemuGone
            gathered += part
        return gathered

    def _handle(self, request: int, body: bytes, fds: list[int]) -> bytes | None:
        """Do one request; return its answer, if it has one."""
        answers: dict[int, Callable[[], bytes]] = {
            _GET_FEATURES: lambda: struct.pack("<Q", _VERSION_1 | _PROTOCOL_FEATURES),
            _GET_PROTOCOL_FEATURES: lambda: struct.pack("<Q", _REPLY_ACK | _CONFIG),
            _GET_QUEUE_COUNT: lambda: struct.pack("<Q", len(self.queues)),
            _GET_CONFIG: lambda: self._configuration(body),
            _GET_RING_BASE: lambda: self._stop_ring(body),
        }
        if request in answers:
            return answers[request]()
        if request == _SET_PROTOCOL_FEATURES:
            (self._protocol_features,) = struct.unpack_from("<Q", body)
        elif request == _SET_MEMORY:
            self._set_memory(body, fds)
        elif request in (_SET_RING_KICK, _SET_RING_CALL, _SET_RING_ERROR):
            self._set_descriptor(request, body, fds)
        elif request == _SET_RING_ADDRESSES:
            number, _, descriptors, used, available, _ = struct.unpack_from(
                "<IIQQQQ", body
            )
            self._addresses[number] = (descriptors, used, available)
        elif request in (_SET_RING_SIZE, _SET_RING_BASE, _SET_RING_ENABLE):
            number, value = struct.unpack_from("<II", body)
            ring = self.queues[number]
            if request == _SET_RING_SIZE:
                ring.size = value
            elif request == _SET_RING_BASE:
                ring.base = value & 0xFFFF
            else:
                self._device.on_kick(number)
        return None

    def _configuration(self, body: bytes) -> bytes:
        offset, size, flags = struct.unpack_from("<III", body)
        part = self._device.config[offset : offset + size]
        if size > _MAX_BODY:
            raise QemuGone
        return struct.pack("<III", offset, size, flags) + part.ljust(size, b"\0")

    def _set_memory(self, body: bytes, fds: list[int]) -> None:
        (count,) = struct.unpack_from("<I", body)
        if count != len(fds):
            raise QemuGone
        regions = []
        for index, descriptor in enumerate(fds):
            guest, size, user, offset = struct.unpack_from(
                "<QQQQ", body, 8 + 32 * index
            )
            regions.append((guest, size, user, offset, descriptor))
        self._memory.replace(regions)

    def _set_descriptor(self, request: int, body: bytes, fds: list[int]) -> None:
        (value,) = struct.unpack_from("<Q", body)
        number = value & 0xFF
        descriptor = -1 if value & _NO_DESCRIPTOR or not fds else fds[0]
        ring = self.queues[number]
        if request == _SET_RING_ERROR:
            for unused in fds:
                os.close(unused)
            return
        if descriptor >= 0:
            os.set_blocking(descriptor, False)
        if request == _SET_RING_CALL:
            if self._calls[number] >= 0:
                os.close(self._calls[number])
            self._calls[number] = descriptor
            if ring.running and descriptor >= 0:
                os.write(descriptor, _EVENT)
            return
        self._forget_kick(number)
        self._kicks[number] = descriptor
        addresses = self._addresses[number]
        if addresses is None:
            raise QemuGone
        ring.begin(self._memory, *addresses)
        if descriptor >= 0:
            self.selector.register(
                descriptor, selectors.EVENT_READ, lambda _: self._on_kick(number)
            )

    def _on_kick(self, number: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._kicks[number], 8)
        self._device.on_kick(number)

    def _forget_kick(self, number: int) -> None:
        if self._kicks[number] >= 0:
            self.selector.unregister(self._kicks[number])
            os.close(self._kicks[number])
            self._kicks[number] = -1

    def _stop_ring(self, body: bytes) -> bytes:
        number, _ = struct.unpack_from("<II", body)
        ring = self.queues[number]
        self._forget_kick(number)
        ring.end()
        self._device.reset()
        return struct.pack("<II", number, ring.base)


__all__ = ["Device", "GuestFault", "QemuGone", "VhostUser"]
