"""
Whether the enclave can sign, asked as a caller would: over HTTPS, through the relay.

Nobody's certificate is checked here. The answer decides about a restart and nothing
else; whoever forges it could as well cut the wire. Whom one talks to is what clients
verify.
"""

import asyncio
import ssl
from dataclasses import dataclass, field
from typing import Final

import msgspec

MAX_ANSWER: Final = 64 * 1024
PATH: Final = "/healthcheck"


@dataclass(frozen=True, slots=True)
class Health:
    """What the enclave said, or that it said nothing."""

    reached: bool
    """Somebody answered in HTTP."""
    listening: bool = True
    """Somebody takes connections there: the relay. An enclave that is started again
    opens no door of the parent's."""
    ready: bool = False
    state: str = ""
    checks: dict[str, bool] = field(default_factory=dict)


class _Body(msgspec.Struct, frozen=True):
    status: str
    state: str = ""
    checks: dict[str, bool] = {}


SILENCE: Final = Health(reached=False)
NO_RELAY: Final = Health(reached=False, listening=False)


async def probe(address: str, port: int, seconds: float) -> Health:
    """
    Return what the enclave answers within *seconds*.

    `SILENCE` if it does not; `NO_RELAY` if there is nobody who would pass it on.
    """
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(
                address, port, ssl=tls, limit=MAX_ANSWER
            )
            try:
                writer.write(
                    f"GET {PATH} HTTP/1.1\r\nhost: localhost\r\n"
                    "connection: close\r\n\r\n".encode()
                )
                return await _read(reader)
            finally:
                # Not waited for: whoever does not answer may not say goodbye either.
                writer.transport.abort()
    except ConnectionRefusedError:
        return NO_RELAY
    except (OSError, TimeoutError, EOFError, ValueError, asyncio.LimitOverrunError):
        return SILENCE


async def _read(reader: asyncio.StreamReader) -> Health:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    version, _, rest = head.partition(" ")
    if not version.startswith("HTTP/1."):
        return SILENCE
    status = int(rest[:3])
    length = 0
    for line in head.split("\r\n")[1:]:
        name, _, value = line.partition(":")
        if name.lower() == "content-length":
            length = int(value)
    if not 0 <= length <= MAX_ANSWER:
        return SILENCE
    body = msgspec.json.decode(await reader.readexactly(length), type=_Body)
    return Health(
        reached=True,
        ready=status == 200 and body.status == "UP",
        state=body.state[:64],
        checks=body.checks,
    )
