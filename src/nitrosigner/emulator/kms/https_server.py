"""
The emulated KMS on a socket: HTTP/1.1 with keep-alive, over TLS, a thread each.

Limits come first: connections, size and time of a request. The handshake runs in the
connection's own thread, so that a caller who never finishes it holds up nobody.
"""

import contextlib
import http.server
import socket
import ssl
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, Final

from nitrosigner.emulator.kms.faults import Fault
from nitrosigner.emulator.kms.service import (
    CONTENT_TYPE,
    Reply,
    Service,
    wire_fault,
)
from nitrosigner.emulator.kms.signature import Received

MAX_BODY: Final = 1 << 20
"""Bytes of a request. A document of 262144 bytes in base64 fits."""
MAX_CONNECTIONS: Final = 256
IDLE_SECONDS: Final = 60.0
REQUEST_SECONDS: Final = 15.0
_HUGE: Final = 64 << 20


class ConnectionServer(http.server.ThreadingHTTPServer):
    """Counts its connections, and ends them when it stops."""

    daemon_threads = True
    block_on_close = True
    request_queue_size = 128

    def __init__(
        self, port: int, handler: type[http.server.BaseHTTPRequestHandler]
    ) -> None:
        """Listen on the loopback's *port*; 0 picks a free one."""
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._open: set[socket.socket] = set()
        self._workers: set[threading.Thread] = set()
        self._guard = threading.Lock()
        self.stopping = threading.Event()
        super().__init__(("127.0.0.1", port), handler)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 — socketserver's signature
        """Serve a new connection in a thread of its own, if one is left."""
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        worker = threading.Thread(
            target=self._serve, args=(request, client_address), daemon=True
        )
        with self._guard:
            self._workers.add(worker)
        worker.start()

    def _serve(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 — socketserver's signature
        # TLS takes the socket object over. `stop` ends the connection by this second
        # descriptor of it, which no other thread reads from.
        handle: socket.socket = request.dup()
        with self._guard:
            self._open.add(handle)
        if self.stopping.is_set():
            handle.shutdown(socket.SHUT_RDWR)
        try:
            self.process_request_thread(request, client_address)
        finally:
            with self._guard:
                self._open.discard(handle)
                self._workers.discard(threading.current_thread())
                handle.close()
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 — socketserver's signature
        """Keep quiet about peers that went away; show what is our own error."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def stop(self, seconds: float = 5.0) -> None:
        """Listen no more, end open connections, wait for their threads."""
        self.stopping.set()
        self.shutdown()
        self.server_close()
        with self._guard:
            workers = list(self._workers)
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + seconds
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))


class KmsServer(ConnectionServer):
    """The emulated KMS's endpoint."""

    def __init__(self, port: int, service: Service, certificate: Path) -> None:
        """Serve *service* under the *certificate* (PEM with key)."""
        self.service = service
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.minimum_version = ssl.TLSVersion.TLSv1_2
        self.tls.set_alpn_protocols(["http/1.1"])
        self.tls.load_cert_chain(certificate)
        super().__init__(port, _KmsHandler)


class _KmsHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "nitrosigner-emulated-kms"
    sys_version = ""
    server: KmsServer

    def setup(self) -> None:
        self._plain = self.request
        self._plain.settimeout(REQUEST_SECONDS)
        self._plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request = self.server.tls.wrap_socket(self._plain, server_side=True)
        super().setup()
        self.request.settimeout(IDLE_SECONDS)

    def finish(self) -> None:
        try:
            super().finish()
        finally:
            self.request.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 — the base class names it so
        """Log nothing: the trail says what happened, without bodies."""

    def do_POST(self) -> None:
        """Answer an operation."""
        body = self._body()
        if body is None:
            return
        received = Received(
            method="POST",
            path=self.path,
            headers=tuple(self.headers.raw_items()),
            body=body,
        )
        try:
            reply = self.server.service.answer(received)
        except Exception:  # noqa: BLE001 — the accept loop: whatever it was, say so and live
            traceback.print_exc()
            self._reject(500, "InternalFailure")
            return
        if not self._play(reply):
            self._send(reply.status, reply.body, reply.request_id)

    def do_GET(self) -> None:
        """Answer a load balancer's ping as AWS does: not at all usefully."""
        self._reject(404, "UnknownOperationException")

    do_PUT = do_GET  # noqa: N815 — http.server looks the methods up by these names
    do_DELETE = do_GET  # noqa: N815
    do_HEAD = do_GET  # noqa: N815

    def _body(self) -> bytes | None:
        lengths = self.headers.get_all("content-length") or []
        encoded = self.headers.get("transfer-encoding") is not None
        if encoded or len(lengths) != 1 or not lengths[0].isascii():
            self._reject(411 if not lengths else 400, "SerializationException")
            return None
        if not lengths[0].isdigit() or int(lengths[0]) > MAX_BODY:
            self._reject(413, "RequestEntityTooLargeException")
            return None
        return self._read(int(lengths[0]))

    def _read(self, size: int) -> bytes | None:
        deadline = time.monotonic() + REQUEST_SECONDS
        pieces: list[bytes] = []
        while size:
            left = deadline - time.monotonic()
            if left <= 0:
                self._reject(408, "RequestTimeoutException")
                return None
            self.connection.settimeout(left)
            try:
                piece = self.rfile.read1(size)
            except TimeoutError:
                continue
            if not piece:
                self.close_connection = True
                return None
            pieces.append(piece)
            size -= len(piece)
        self.connection.settimeout(IDLE_SECONDS)
        return b"".join(pieces)

    def _reject(self, status: int, code: str) -> None:
        self.close_connection = True
        self._send(status, f'{{"__type":"{code}"}}'.encode(), "")

    def _send(self, status: int, body: bytes, request_id: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.send_header(
            "Cache-Control", "no-cache, no-store, must-revalidate, private"
        )
        if request_id:
            self.send_header("x-amzn-RequestId", request_id)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _play(self, reply: Reply) -> bool:
        """Do what a test's fault plan says; return whether the answer is out."""
        match wire_fault(reply):
            case Fault.SLOW if reply.fault is not None:
                self.server.stopping.wait(reply.fault.seconds)
                return False
            case Fault.DROP:
                self.close_connection = True
            case Fault.TRUNCATE:
                self._send_head_of(reply)
            case Fault.GARBAGE:
                self._send(200, b"\x00\xff\xfe not json {", reply.request_id)
            case Fault.NOT_AN_OBJECT:
                self._send(200, b'["Plaintext"]', reply.request_id)
            case Fault.HUGE:
                self._send(200, b" " * _HUGE, reply.request_id)
            case Fault.HTML_ERROR:
                self._send(503, b"<html><h1>503</h1></html>", "")
            case _:
                return False
        return True

    def _send_head_of(self, reply: Reply) -> None:
        self.close_connection = True
        self.send_response(reply.status)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body[: len(reply.body) // 2])
