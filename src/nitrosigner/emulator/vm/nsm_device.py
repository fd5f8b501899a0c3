"""
The Nitro Security Module as a virtio device (id 33): one ring, requests in pairs.

The driver offers a buffer with a request and, behind it, one to write the answer to.
What is asked and answered is the same CBOR as everywhere; `EmulatedNsm` speaks it.

Source: linux, drivers/misc/nsm.c.
"""

from collections.abc import Callable
from typing import final

from nitrosigner.emulator.vm.guest_memory import GuestFault
from nitrosigner.emulator.vm.vhost_user import VhostUser
from nitrosigner.emulator.vm.virtqueue import Chain

MAX_REQUEST = 0x1000
VIRTIO_ID = 33


@final
class NsmDevice:
    """Answers with *handle*."""

    config = b""

    def __init__(self, handle: Callable[[bytes], bytes]) -> None:
        self._handle = handle
        self._request: Chain | None = None
        self._transport: VhostUser | None = None

    def attach(self, transport: VhostUser) -> None:
        """Use the transport's only ring."""
        self._transport = transport

    def reset(self) -> None:
        """Forget a request whose answer's buffer has not come yet."""
        self._request = None

    def close(self) -> None:
        """There is nothing to close."""

    def on_kick(self, queue: int) -> None:
        """
        Answer what is asked.

        Raises:
            GuestFault: A buffer is no request, or has no room for an answer.
        """
        if self._transport is None:
            return
        ring = self._transport.queues[queue]
        answered = False
        while (chain := ring.take()) is not None:
            if self._request is None:
                if not chain.readable:
                    msg = "an NSM request without a request"
                    raise GuestFault(msg)
                self._request = chain
                continue
            request = self._request.read()
            if len(request) > MAX_REQUEST:
                msg = "an NSM request that is too long"
                raise GuestFault(msg)
            answer = self._handle(request)
            chain.write(answer)
            ring.give_back(self._request, 0)
            ring.give_back(chain, len(answer))
            self._request = None
            answered = True
        if answered:
            self._transport.notify(queue)
