"""
Lets unencrypted HTTP from this machine in as a client. For local development only.

    python -m nitrosigner.emulator.plain_http --port N --to PORT --ca FILE
        --certificate FILE --key FILE

Some validator clients can be given no certificate authority. This program takes their
connections on 127.0.0.1 and passes them on over TLS, with a client's certificate:
whoever can connect to the port has that client's permissions.

Web pages can connect to it too. So it reads what it passes on, and breaks off before a
request is complete that a browser sent for a page (`Origin`, `Sec-Fetch-Site`) or that
was addressed to another host's name (DNS rebinding).
"""

import argparse
import asyncio
import contextlib
import ssl
import sys
from pathlib import Path
from typing import Final, final

import httptools

ADDRESS: Final = "127.0.0.1"
CONNECT_SECONDS: Final = 5.0
MAX_CONNECTIONS: Final = 256
_CHUNK: Final = 64 * 1024
_BROWSERS: Final = frozenset({b"origin", b"sec-fetch-site"})
"""Not `sec-fetch-mode`: Node.js sends it too, and with it validator clients."""
_HOSTS: Final = frozenset({b"127.0.0.1", b"localhost"})
_SENTENCE: Final = b"no web pages, no other host's name, nothing but HTTP/1.1\n"
_REFUSAL: Final = (
    b"HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_SENTENCE), _SENTENCE)
)


class Foreign(Exception):
    """A request that no validator client sends."""


@final
class Requests:
    """Reads the requests of one connection as they pass. Changes nothing."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._hosts = 0

    def saw(self, data: bytes) -> None:
        """
        Read *data*, before it is passed on.

        Raises:
            Foreign: It must not be.
        """
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            raise Foreign from None

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._hosts = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Refuse what browsers add, and foreign names."""
        name = name.lower()
        if name in _BROWSERS:
            raise Foreign
        if name == b"host":
            self._hosts += 1
            if value.strip().lower().partition(b":")[0] not in _HOSTS:
                raise Foreign

    def on_headers_complete(self) -> None:
        """Refuse a request that names no host, or two."""
        if self._hosts != 1:
            raise Foreign


@final
class PlainHttp:
    """The listener."""

    def __init__(self, to: int, tls: ssl.SSLContext) -> None:
        self._to = to
        self._tls = tls
        self._connections = 0

    async def start(self, port: int) -> asyncio.Server:
        """Listen on *port* of the loopback address. Raise OSError if that cannot be."""
        return await asyncio.start_server(self._take, ADDRESS, port)

    async def _take(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._connections += 1
        try:
            if self._connections <= MAX_CONNECTIONS:
                await self._join(reader, writer)
        except (OSError, TimeoutError):
            pass  # whoever called sees the end of the connection
        finally:
            self._connections -= 1
            await _close(writer)

    async def _join(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        async with asyncio.timeout(CONNECT_SECONDS):
            inner_reader, inner_writer = await asyncio.open_connection(
                ADDRESS, self._to, ssl=self._tls, server_hostname="localhost"
            )
        try:
            ways = {
                asyncio.ensure_future(_pass_requests(reader, inner_writer, writer)),
                asyncio.ensure_future(_pass(inner_reader, writer)),
            }
            # TLS has no half-closed connections here: one side's end is both's.
            done, open_ones = await asyncio.wait(ways, return_when="FIRST_COMPLETED")
            for way in open_ones:
                way.cancel()
            await asyncio.gather(*open_ones, return_exceptions=True)
            for way in done:
                way.result()
        finally:
            await _close(inner_writer)


async def _pass_requests(
    reader: asyncio.StreamReader,
    to: asyncio.StreamWriter,
    back: asyncio.StreamWriter,
) -> None:
    requests = Requests()
    while data := await reader.read(_CHUNK):
        try:
            requests.saw(data)
        except Foreign:
            back.write(_REFUSAL)
            return
        to.write(data)
        await to.drain()


async def _pass(reader: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        to.write(data)
        await to.drain()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(CONNECT_SECONDS):
            await writer.wait_closed()


def tls_context(ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """Return the client's side: trusts *ca* alone, shows *certificate*."""
    tls = ssl.create_default_context(cafile=ca)
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    tls.load_cert_chain(certificate, key)
    return tls


async def _run(options: argparse.Namespace) -> None:
    tls = tls_context(options.ca, options.certificate, options.key)
    server = await PlainHttp(options.to, tls).start(options.port)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Listen until the process is ended."""
    parser = argparse.ArgumentParser(prog="plain-http", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--to", type=int, required=True)
    for name in ("ca", "certificate", "key"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    try:
        asyncio.run(_run(parser.parse_args()))
    except (OSError, ssl.SSLError) as error:
        print(f"plain-http: error: {error.strerror}", file=sys.stderr)  # noqa: T201  # its log
        sys.exit(1)


if __name__ == "__main__":
    main()
