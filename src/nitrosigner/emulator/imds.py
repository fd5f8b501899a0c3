"""
The instance metadata service, version 2, of a parent instance that does not exist.

The parent gets its role's credentials here with the same code as on EC2: a token by
PUT first, then the credentials with it. Version 1 (no token) is refused, as our real
instances are configured to. Credentials are issued anew in the second half of their
life, so that whoever caches them meets both old and new ones.
"""

import datetime as dt
import http.server
import json
import secrets
import socket
import threading
from collections.abc import Callable
from typing import Final

from nitrosigner.emulator.kms.https_server import ConnectionServer
from nitrosigner.emulator.kms.principals import Principal, SessionCredentials

HOP_LIMIT: Final = 1
"""IP packets with the answer live for one hop, as IMDSv2 has it by default."""
MAX_TOKEN_SECONDS: Final = 21_600
_TOKENS_KEPT: Final = 1024
_IDLE_SECONDS: Final = 30.0
_CREDENTIALS: Final = "/latest/meta-data/iam/security-credentials/"


class ImdsServer(ConnectionServer):
    """Serves one role's credentials on the loopback."""

    def __init__(
        self,
        port: int,
        *,
        role: Principal,
        issue: Callable[[], SessionCredentials],
        region: str,
        now: Callable[[], dt.datetime],
    ) -> None:
        """Serve *role*, whose session credentials *issue* makes."""
        self._role, self._issue, self._region, self._now = role, issue, region, now
        self._state = threading.Lock()
        self._tokens: dict[str, float] = {}
        self._current: SessionCredentials | None = None
        super().__init__(port, _ImdsHandler)
        self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, HOP_LIMIT)

    def new_token(self, seconds: int) -> str:
        """Return a token that is good for *seconds*."""
        token = secrets.token_urlsafe(42)
        moment = self._now().timestamp()
        with self._state:
            self._tokens = {
                one: end for one, end in self._tokens.items() if end > moment
            }
            while len(self._tokens) >= _TOKENS_KEPT:
                self._tokens.pop(next(iter(self._tokens)))
            self._tokens[token] = moment + seconds
        return token

    def token_is_good(self, token: str) -> bool:
        """Return whether *token* was given out and has not expired."""
        with self._state:
            return self._tokens.get(token, 0.0) > self._now().timestamp()

    def document(self, path: str) -> tuple[str, bytes] | None:
        """Return content type and body of what lies at *path*."""
        name = self._role.arn.rsplit("/", 1)[-1]
        match path:
            case "/latest/meta-data/iam/security-credentials" | _ if path in (
                _CREDENTIALS,
                _CREDENTIALS.rstrip("/"),
            ):
                return "text/plain", name.encode()
            case _ if path == _CREDENTIALS + name:
                return "application/json", self._credentials()
            case "/latest/dynamic/instance-identity/document":
                return "text/plain", self._identity()
            case "/latest/meta-data/placement/region":
                return "text/plain", self._region.encode()
            case "/latest/meta-data/instance-id":
                return "text/plain", self._role.session_name.encode()
            case _:
                return None

    def _credentials(self) -> bytes:
        with self._state:
            current, moment = self._current, self._now()
            if current is None or moment >= current.issued + (
                (current.expires - current.issued) / 2
            ):
                current = self._current = self._issue()
        answer = {
            "Code": "Success",
            "LastUpdated": f"{current.issued:%Y-%m-%dT%H:%M:%SZ}",
            "Type": "AWS-HMAC",
            "AccessKeyId": current.access_key_id,
            "SecretAccessKey": current.secret_access_key,
            "Token": current.session_token,
            "Expiration": f"{current.expires:%Y-%m-%dT%H:%M:%SZ}",
        }
        return json.dumps(answer, indent=2).encode()

    def _identity(self) -> bytes:
        document = {
            "accountId": self._role.account,
            "architecture": "x86_64",
            "availabilityZone": f"{self._region}a",
            "instanceId": self._role.session_name,
            "instanceType": "emulated",
            "region": self._region,
            "version": "2017-09-30",
        }
        return json.dumps(document, indent=2).encode()


class _ImdsHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "EC2ws"
    sys_version = ""
    timeout = _IDLE_SECONDS
    server: ImdsServer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 — the base class names it so
        """Log nothing: paths and tokens are nobody's business."""

    def do_PUT(self) -> None:
        """Give out a token."""
        if self.path.rstrip("/") != "/latest/api/token":
            self._send(404)
            return
        # What came through a proxy did not come from the instance itself.
        if self.headers.get("x-forwarded-for") is not None:
            self._send(403)
            return
        wanted = self.headers.get("x-aws-ec2-metadata-token-ttl-seconds", "")
        seconds = int(wanted) if wanted.isascii() and wanted.isdigit() else 0
        if not 1 <= seconds <= MAX_TOKEN_SECONDS:
            self._send(400)
            return
        self._send(200, "text/plain", self.server.new_token(seconds).encode(), wanted)

    def do_GET(self) -> None:
        """Answer whoever holds a token."""
        token = self.headers.get("x-aws-ec2-metadata-token")
        if token is None or not self.server.token_is_good(token):
            self._send(401)
            return
        found = self.server.document(self.path)
        if found is None:
            self._send(404)
            return
        self._send(200, *found)

    def _send(
        self,
        status: int,
        kind: str = "text/plain",
        body: bytes = b"",
        token_seconds: str = "",
    ) -> None:
        if self.headers.get("content-length", "0") != "0":
            # A body is not read here, and must not be taken for the next request.
            self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if token_seconds:
            self.send_header("X-aws-ec2-metadata-token-ttl-seconds", token_seconds)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
