"""Many requests on one connection, and a parent that answers out of turn."""

import asyncio
import socket
import threading
from typing import Any

import pytest

from nitrosigner.trusted.enclave.parent_link import parent_services
from nitrosigner.trusted.enclave.parent_link.parent_connection import MAX_OUTSTANDING
from nitrosigner.trusted.enclave.parent_link.parent_services import ParentServices
from nitrosigner.verdicts import Undecided
from nitrosigner.wire import frames, services


class Scripted:
    """A vsock whose parent hands every frame to a function with the raw socket."""

    def __init__(self, script: Any) -> None:
        self.script = script
        self.connections = 0
        self.threads: list[threading.Thread] = []
        self.ends: list[socket.socket] = []

    def connect(self, _port: int) -> socket.socket:
        ours, theirs = socket.socketpair()
        self.connections += 1
        self.ends.append(ours)

        def serve() -> None:
            reader = frames.FrameReader()
            with ours:
                try:
                    while data := ours.recv(1 << 16):
                        reader.feed(data)
                        while (frame := reader.next()) is not None:
                            self.script(ours, frame)
                except OSError:
                    return

        thread = threading.Thread(target=serve, daemon=True)
        self.threads.append(thread)
        thread.start()
        return theirs

    def listen(self, _port: int) -> socket.socket:
        raise NotImplementedError


class Clock:
    def now(self) -> float:
        return 0.0

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


def scripted(script: Any, use: Any) -> Scripted:
    vsock = Scripted(script)

    async def whole() -> None:
        client = ParentServices(vsock, Clock())
        try:
            await use(client, vsock)
        finally:
            client.close()

    asyncio.run(whole())
    for thread in vsock.threads:
        thread.join(30)
        assert not thread.is_alive()
    return vsock


def found(name: str, data: bytes = b"d", version: int = 1) -> bytes:
    return services.encode(services.Found(services.StoredRecord(name, version, data)))


def test_answers_may_come_in_any_order() -> None:
    held: list[frames.Frame] = []

    def script(end: socket.socket, frame: frames.Frame) -> None:
        held.append(frame)
        if len(held) == 10:
            for one in reversed(held):
                request = services.decode_request(one.payload)
                end.sendall(frames.encode(one.request_id, found(request.name)))

    async def use(client: ParentServices, _vsock: Any) -> None:
        names = [f"n{number}" for number in range(10)]
        records = await asyncio.gather(*(client.get("keys", name) for name in names))
        assert [record.name for record in records if record] == names

    assert scripted(script, use).connections == 1


def test_one_byte_at_a_time_is_a_stream_too() -> None:
    def script(end: socket.socket, frame: frames.Frame) -> None:
        for byte in frames.encode(frame.request_id, found("k")):
            end.send(bytes([byte]))

    async def use(client: ParentServices, _vsock: Any) -> None:
        assert (await client.get("keys", "k")) is not None

    scripted(script, use)


def test_a_late_answer_to_nobody_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parent_services, "RECORD_DEADLINE", 0.05)
    held: list[frames.Frame] = []

    def script(end: socket.socket, frame: frames.Frame) -> None:
        request = services.decode_request(frame.payload)
        if request.name == "slow":
            held.append(frame)
            return
        for one in held:
            end.sendall(frames.encode(one.request_id, found("slow")))
        held.clear()
        end.sendall(frames.encode(frame.request_id, found(request.name)))

    async def use(client: ParentServices, vsock: Any) -> None:
        with pytest.raises(Undecided):
            await client.get("keys", "slow")
        assert (await client.get("keys", "quick")) is not None
        assert (await client.get("keys", "quick")) is not None
        assert vsock.connections == 1

    scripted(script, use)


def test_an_answer_to_nothing_ends_the_connection() -> None:
    def script(end: socket.socket, frame: frames.Frame) -> None:
        end.sendall(frames.encode(frame.request_id + 1000, found("k")))

    async def use(client: ParentServices, _vsock: Any) -> None:
        with pytest.raises(Undecided):
            await client.get("keys", "k")
        assert not client.healthy

    scripted(script, use)


def test_an_answer_twice_ends_the_connection() -> None:
    def script(end: socket.socket, frame: frames.Frame) -> None:
        end.sendall(frames.encode(frame.request_id, found("k")) * 2)

    async def use(client: ParentServices, vsock: Any) -> None:
        await client.get("keys", "k")
        async with asyncio.timeout(30):
            while not client._connection.closed:
                await asyncio.sleep(0)

    scripted(script, use)


@pytest.mark.parametrize(
    "answer",
    [
        found("other"),
        services.encode(services.Done()),
        b"\xc1",
        b"",
        found("k") + b"\0",
        b"\x82\xa1t\xa5found\xa4more\xc3",
    ],
)
def test_an_answer_that_does_not_fit_is_undecided(answer: bytes) -> None:
    def script(end: socket.socket, frame: frames.Frame) -> None:
        end.sendall(frames.encode(frame.request_id, answer))

    async def use(client: ParentServices, _vsock: Any) -> None:
        with pytest.raises(Undecided) as caught:
            await client.get("keys", "k")
        assert caught.value.code == "storage_unavailable"

    scripted(script, use)


def test_more_requests_than_may_wait_are_undecided_at_once() -> None:
    def script(_end: socket.socket, _frame: frames.Frame) -> None:
        return

    async def use(client: ParentServices, _vsock: Any) -> None:
        asking = [
            asyncio.create_task(client.get("keys", "k"))
            for _ in range(MAX_OUTSTANDING + 10)
        ]
        done, waiting = await asyncio.wait(
            asking, return_when=asyncio.FIRST_COMPLETED, timeout=30
        )
        assert done
        assert all(isinstance(one.exception(), Undecided) for one in done)
        client.close()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(result, Undecided) for result in results)

    scripted(script, use)


def test_a_parent_that_is_gone_is_not_hammered() -> None:
    attempts = []

    class Gone:
        def connect(self, _port: int) -> socket.socket:
            attempts.append(1)
            raise ConnectionRefusedError

        def listen(self, _port: int) -> socket.socket:
            raise NotImplementedError

    async def whole() -> None:
        client = ParentServices(Gone(), Clock())
        for _ in range(200):
            with pytest.raises(Undecided):
                await client.get("keys", "k")

    asyncio.run(whole())
    assert len(attempts) < 20


@pytest.mark.parametrize(
    "given",
    [
        services.Credentials("A\r\nx: y", "s", "t", 1),
        services.Credentials("A", "s", "t t", 1),
        services.Credentials("A", "ä", "t", 1),
        services.Credentials("A", "s", "x" * 9000, 1),
    ],
)
def test_credentials_that_are_no_header_values_are_not_taken(given: Any) -> None:
    def script(end: socket.socket, frame: frames.Frame) -> None:
        end.sendall(frames.encode(frame.request_id, services.encode(given)))

    async def use(client: ParentServices, _vsock: Any) -> None:
        with pytest.raises(Undecided) as caught:
            await client.credentials()
        assert caught.value.code == "credentials_unavailable"

    scripted(script, use)


def test_audit_events_go_in_order_and_in_pieces_that_fit() -> None:
    batches: list[list[bytes]] = []

    def script(end: socket.socket, frame: frames.Frame) -> None:
        batches.append(services.decode_request(frame.payload).events)
        end.sendall(frames.encode(frame.request_id, services.encode(services.Done())))

    events = [b"%06d" % number + b"x" * 2000 for number in range(1100)]

    async def use(client: ParentServices, _vsock: Any) -> None:
        await client.append_audit(events)
        await client.append_audit([])

    scripted(script, use)
    assert [event for batch in batches for event in batch] == events
    assert len(batches) > 3


def test_the_parent_s_own_words_go_no_further() -> None:
    def script(end: socket.socket, frame: frames.Frame) -> None:
        failed = services.Failed("storage_unavailable", "CANARY")
        end.sendall(frames.encode(frame.request_id, services.encode(failed)))

    async def use(client: ParentServices, _vsock: Any) -> None:
        with pytest.raises(Undecided) as caught:
            await client.put("keys", "k", 0, b"d")
        assert "CANARY" not in caught.value.message + caught.value.hint

    scripted(script, use)
