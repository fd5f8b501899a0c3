"""Requests to the signer's API as typed calls: what every group of routes stands on."""

from typing import TypeVar
from urllib.parse import quote

import msgspec

from nitrosigner.client import answers
from nitrosigner.client.transport import Transport
from nitrosigner.wire import api

Body = TypeVar("Body")


class Routes:
    """Whoever has a `transport` can ask."""

    transport: Transport

    def _get(self, path: str, kind: type[Body]) -> Body:
        return self._ask("GET", api.PREFIX + path, None, kind)

    def _post(self, path: str, body: msgspec.Struct | None, kind: type[Body]) -> Body:
        return self._ask("POST", api.PREFIX + path, body, kind)

    def _ask(
        self, method: str, path: str, body: msgspec.Struct | None, kind: type[Body]
    ) -> Body:
        """Send *body* (`{}` for none, if the method has one) to the whole *path*."""
        data = None
        if method != "GET":
            data = b"{}" if body is None else msgspec.json.encode(body)
        return answers.read(self.transport.request(method, path, data), kind)


def segment(text: str) -> str:
    """Return *text* as one segment of a path."""
    return quote(text, safe="")
