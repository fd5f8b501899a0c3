"""
From method and path to a handler.

Every route is in one table: what is not in it does not exist, and the table is what the
test of `docs/openapi.json` compares with.
"""

from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import unquote

import msgspec

from nitrosigner.trusted.enclave.api.calls import Handler
from nitrosigner.trusted.enclave.https.http_messages import Request, Response, refusal
from nitrosigner.verdicts import Code, Refused, Verdict

MAX_IDENTIFIER: Final = 256
"""Characters of a key in a path: `0x` and the hex of an uncompressed public key fit."""

# What is before a key in a path. The usual one first.
_PREFIXES: Final = (
    "/api/v1/eth2/sign/",
    "/api/v1/keys/",
    "/api/v1/eth1/sign/",
    "/api/v1/validators/",
    "/eth/v1/validator/",
)


Say = Callable[[Request, Verdict], Response]


def say_json(_: Request, verdict: Verdict) -> Response:
    """Say no as everything of ours does."""
    return refusal(verdict)


class Route(msgspec.Struct, frozen=True):
    """One thing that can be asked for."""

    method: str
    path: str
    """With `{key}` where a key's name or address stands."""
    handler: Handler
    public: bool = False
    """Served without a credential. A credential that is shown must still be good."""
    validators: bool = False
    """Served only if the manifest speaks of validators."""
    say: Say = say_json
    """How a verdict is said here: other people's contracts have words of their own."""


class Match(msgspec.Struct, frozen=True, gc=False):
    """What a request turned out to ask for."""

    route: Route
    identifier: str


class Routes:
    """The table."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.all: Final = tuple(routes)
        self._by_path: dict[str, dict[str, Route]] = {}
        for route in self.all:
            self._by_path.setdefault(route.path, {})[route.method] = route

    def match(self, method: str, path: str) -> Match:
        """
        Return the route of *method* on *path*.

        Raises:
            Refused: There is no such path (404), or not with this method (405).
        """
        identifier = ""
        methods = self._by_path.get(path)
        if methods is None or method not in methods:
            # A key may be called `import`: GET keys/import is that key.
            template, identifier = _without_key(path)
            methods = self._by_path.get(template, methods)
        if methods is None:
            raise unknown_route()
        route = methods.get(method)
        if route is None:
            raise NotThisMethod(sorted(methods))
        return Match(route, identifier)


def unknown_route() -> Refused:
    """Return 404."""
    return Refused(
        Code.UNKNOWN_ROUTE,
        "nothing is served at this path",
        "see docs/openapi.json for what is served",
    )


class NotThisMethod(Refused):
    """405; carries what would be allowed."""

    def __init__(self, allowed: list[str]) -> None:
        self.allowed = ", ".join(allowed)
        super().__init__(
            Code.METHOD_NOT_ALLOWED,
            "this path is not served with this method",
            f"use {self.allowed}",
        )


def _without_key(path: str) -> tuple[str, str]:
    """Return *path* with `{key}` in the key's place, and the key."""
    for prefix in _PREFIXES:
        if path.startswith(prefix):
            key, slash, rest = path[len(prefix) :].partition("/")
            identifier = unquote(key) if "%" in key else key
            if 0 < len(identifier) <= MAX_IDENTIFIER:
                return f"{prefix}{{key}}{slash}{rest}", identifier
    return "", ""
