"""
Answers /healthcheck over TLS on the port of FOLDER/port, as FOLDER/health.json says.

`{"mode": "ready" | "not_ready" | "silent" | "garbage" | "reset"}`; `silent` takes the
connection and says nothing. Ends by itself when its folder is gone.
"""

import json
import socket
import ssl
import sys
import threading
import time
from pathlib import Path

FOLDER = Path(sys.argv[1])


def mode() -> dict[str, object]:
    try:
        return dict(json.loads((FOLDER / "health.json").read_text()))
    except (OSError, ValueError):
        return {"mode": "ready"}


def serve(connection: ssl.SSLSocket) -> None:
    try:
        connection.settimeout(30)
        connection.do_handshake()
        connection.recv(4096)
        told = mode()
        if told["mode"] == "silent":
            time.sleep(60)
        if told["mode"] == "garbage":
            connection.sendall(b"\x00" * 100)
            return
        if told["mode"] == "reset":
            return
        ready = told["mode"] == "ready"
        body = json.dumps(
            {
                "status": "UP" if ready else "DOWN",
                "state": "ready" if ready else "keys",
                "steps": [],
                "checks": {
                    "certificate": told.get("certificate", True),
                    "clock": told.get("clock", True),
                    "signing": told.get("signing", True),
                },
                "keys_loaded": 0,
                "kms_calls": 0,
                "version": "0",
            }
        ).encode()
        status = b"200 OK" if ready else b"503 Service Unavailable"
        head = b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
        connection.sendall(head + body)
    except OSError:
        pass
    finally:
        connection.close()


def main() -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(FOLDER / "server.pem")
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    while mode()["mode"] == "never":
        if not FOLDER.exists():
            return
        time.sleep(0.05)
    listener.bind(("127.0.0.1", int((FOLDER / "port").read_text())))
    listener.listen()
    listener.settimeout(1)
    while FOLDER.exists():
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        wrapped = tls.wrap_socket(
            connection, server_side=True, do_handshake_on_connect=False
        )
        threading.Thread(target=serve, args=(wrapped,), daemon=True).start()


main()
