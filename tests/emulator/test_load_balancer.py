"""The load balancer that a played deployment stands behind."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

import pytest

from nitrosigner.emulator import load_balancer
from nitrosigner.emulator.load_balancer import LoadBalancer
from nitrosigner.untrusted.parent.enclave_health import Health


@contextmanager
def telling(healthy: dict[int, bool]) -> Iterator[None]:
    """Targets that answer the health check as *healthy* says, by port."""

    async def probe(address: str, port: int, seconds: float) -> Health:
        return Health(reached=True, ready=healthy[port])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(load_balancer, "probe", probe)
        patched.setattr(load_balancer, "EVERY", 0.01)
        yield


async def target(opened: AsyncExitStack, name: bytes) -> int:
    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(name + await reader.read(100))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    opened.callback(server.close)
    port: int = server.sockets[0].getsockname()[1]
    return port


async def ask(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"!")
    answer = await reader.read()
    writer.close()
    return answer


async def until(balancer: LoadBalancer, healthy: list[bool]) -> None:
    async with asyncio.timeout(30):
        while balancer.healthy != healthy:
            await asyncio.sleep(0.005)


def test_connections_go_in_turn_to_healthy_targets_and_to_all_if_none_is() -> None:
    async def scene() -> None:
        async with AsyncExitStack() as opened:
            one, two = await target(opened, b"one"), await target(opened, b"two")
            healthy = {one: True, two: True}
            opened.enter_context(telling(healthy))
            balancer = LoadBalancer([one, two])
            port = await balancer.start()
            opened.push_async_callback(balancer.stop)
            await until(balancer, [True, True])
            asked = Counter([await ask(port) for _ in range(4)])
            assert asked == {b"one!": 2, b"two!": 2}
            healthy[one] = False
            await until(balancer, [False, True])
            assert {await ask(port) for _ in range(4)} == {b"two!"}
            healthy[two] = False
            await until(balancer, [False, False])
            assert {await ask(port) for _ in range(4)} == {b"one!", b"two!"}

    asyncio.run(scene())


def test_a_target_that_is_gone_is_passed_over_and_none_at_all_is_an_end() -> None:
    async def scene() -> None:
        async with AsyncExitStack() as opened:
            one = await target(opened, b"one")
            gone = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
            two = gone.sockets[0].getsockname()[1]
            gone.close()
            await gone.wait_closed()
            opened.enter_context(telling({one: True, two: True}))
            balancer = LoadBalancer([two, one])
            port = await balancer.start()
            opened.push_async_callback(balancer.stop)
            assert {await ask(port) for _ in range(4)} == {b"one!"}
            opened.enter_context(telling({two: False}))
            nobody = LoadBalancer([two])
            port = await nobody.start()
            opened.push_async_callback(nobody.stop)
            assert await ask(port) == b""

    asyncio.run(scene())
