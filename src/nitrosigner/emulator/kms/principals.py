"""
Who may call: IAM roles with their access keys and identity policies.

`principals.json` holds one set of role credentials for each role, made on the first
run. Sessions that the emulated instance metadata service hands out are not stored: as
with AWS, the session token itself says, sealed, whose it is and until when.
"""

import base64
import datetime as dt
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nitrosigner.emulator.data_folder import write_new
from nitrosigner.emulator.kms.errors import KmsError

MAX_TOKEN: Final = 4096
"""Characters of a session token."""
_TOKEN_LABEL: Final = b"nitrosigner/emulated-kms/session/1"
_INVALID_TOKEN: Final = "The security token included in the request is invalid."  # noqa: S105 — AWS's sentence, not a secret


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """One IAM role, and the credentials of one session of it."""

    arn: str
    """`arn:aws:iam::ACCOUNT:role/NAME`, as key policies name it."""
    session_name: str
    access_key_id: str
    secret_access_key: str
    session_token: str | None
    identity_policies: list[msgspec.Raw]
    """IAM policies of the role. They count only where a key policy delegates to IAM."""

    def __repr__(self) -> str:
        return f"<Principal {self.arn}>"

    @property
    def account(self) -> str:
        """The twelve digits of the account."""
        return self.arn.split(":")[4]

    @property
    def caller_arn(self) -> str:
        """The ARN as STS and CloudTrail write it: the session for a role."""
        if ":role/" not in self.arn:
            return self.arn
        name = self.arn.rsplit("/", 1)[-1]
        return f"arn:aws:sts::{self.account}:assumed-role/{name}/{self.session_name}"


class PrincipalsFile(msgspec.Struct, frozen=True, kw_only=True):
    """What `principals.json` holds."""

    region: str
    account: str
    principals: dict[str, Principal]
    """By short name: `parent`, `gateway`, `administrator`."""


@dataclass(frozen=True, slots=True)
class SessionCredentials:
    """Temporary credentials of a role, as the instance metadata service gives them."""

    access_key_id: str
    secret_access_key: str
    session_token: str
    issued: dt.datetime
    expires: dt.datetime

    def __repr__(self) -> str:
        return f"<SessionCredentials until {self.expires:%FT%TZ}>"


class _Session(msgspec.Struct, frozen=True):
    principal: str
    access_key_id: str
    secret_access_key: str
    issued: float
    expires: float


def _policy(*statements: dict[str, object]) -> msgspec.Raw:
    return msgspec.Raw(
        json.dumps({"Version": "2012-10-17", "Statement": list(statements)}).encode()
    )


def _allow(*actions: str) -> dict[str, object]:
    return {"Effect": "Allow", "Action": list(actions), "Resource": "*"}


def _first_principals(account: str) -> dict[str, Principal]:
    # What such roles have in a careless account. So a key policy that delegates to
    # IAM (`Allow root kms:*`) opens the hole here that it would open at AWS.
    policies = {
        "parent": _policy(
            _allow(
                "kms:Decrypt",
                "kms:GenerateDataKey*",
                "kms:GenerateRandom",
                "kms:DescribeKey",
            )
        ),
        "gateway": _policy(_allow("kms:Encrypt", "kms:DescribeKey")),
        "administrator": _policy(_allow("kms:*")),
    }
    sessions = {"parent": "i-0e3a1a70f00d00001", "administrator": "administrator"}
    return {
        name: Principal(
            arn=f"arn:aws:iam::{account}:role/nitrosigner-{name}",
            session_name=sessions.get(name, f"nitrosigner-{name}"),
            access_key_id=_new_access_key_id(),
            secret_access_key=secrets.token_urlsafe(30),
            session_token=secrets.token_urlsafe(96),
            identity_policies=[policy],
        )
        for name, policy in policies.items()
    }


def _new_access_key_id() -> str:
    return "ASIA" + base64.b32encode(secrets.token_bytes(10)).decode()


def load_or_create(path: Path, *, region: str, account: str) -> PrincipalsFile:
    """Read the principals at *path*; on the first run make them, mode 0600."""
    if not path.exists():
        new = PrincipalsFile(
            region=region, account=account, principals=_first_principals(account)
        )
        encoded = msgspec.json.format(msgspec.json.encode(new), indent=2)
        write_new(path, encoded + b"\n")
    return msgspec.json.decode(path.read_bytes(), type=PrincipalsFile)


class Principals:
    """Finds whose an access key is, and issues sessions."""

    def __init__(
        self,
        known: dict[str, Principal],
        *,
        session_key: bytes,
        now: Callable[[], dt.datetime],
    ) -> None:
        """Take the roles that exist; *session_key* (32 bytes) seals tokens."""
        self._known = known
        self._by_access_key = {one.access_key_id: one for one in known.values()}
        self._seal = AESGCM(session_key)
        self._now = now

    @property
    def arns(self) -> frozenset[str]:
        """Every role ARN that exists in the account."""
        return frozenset(one.arn for one in self._known.values())

    def role(self, name: str) -> Principal:
        """Return the role called *name* in principals.json."""
        return self._known[name]

    def issue(self, name: str, lifetime: dt.timedelta) -> SessionCredentials:
        """Return new temporary credentials of the role *name*."""
        issued = self._now()
        expires = issued + lifetime
        session = _Session(
            principal=name,
            access_key_id=_new_access_key_id(),
            secret_access_key=secrets.token_urlsafe(30),
            issued=issued.timestamp(),
            expires=expires.timestamp(),
        )
        nonce = secrets.token_bytes(12)
        sealed = self._seal.encrypt(nonce, msgspec.json.encode(session), _TOKEN_LABEL)
        return SessionCredentials(
            access_key_id=session.access_key_id,
            secret_access_key=session.secret_access_key,
            session_token=base64.b64encode(nonce + sealed).decode(),
            issued=issued,
            expires=expires,
        )

    def find(self, access_key_id: str, token: str | None) -> tuple[Principal, str]:
        """
        Return whose credentials these are, and their secret access key.

        Raises:
            KmsError: Unknown, expired, or the session token is absent or not theirs.
        """
        fixed = self._by_access_key.get(access_key_id)
        if fixed is not None:
            if not _same(fixed.session_token, token):
                raise KmsError("UnrecognizedClientException", _INVALID_TOKEN)
            return fixed, fixed.secret_access_key
        session = self._open(token)
        principal = self._known.get(session.principal)
        if principal is None or session.access_key_id != access_key_id:
            raise KmsError("UnrecognizedClientException", _INVALID_TOKEN)
        if self._now().timestamp() >= session.expires:
            raise KmsError(
                "ExpiredTokenException",
                "The security token included in the request is expired",
            )
        return principal, session.secret_access_key

    def _open(self, token: str | None) -> _Session:
        try:
            if token is None or len(token) > MAX_TOKEN:
                raise KmsError("UnrecognizedClientException", _INVALID_TOKEN)
            blob = base64.b64decode(token, validate=True)
            plain = self._seal.decrypt(blob[:12], blob[12:], _TOKEN_LABEL)
        except (ValueError, InvalidTag):
            raise KmsError("UnrecognizedClientException", _INVALID_TOKEN) from None
        return msgspec.json.decode(plain, type=_Session)


def _same(expected: str | None, given: str | None) -> bool:
    if expected is None or given is None:
        return expected is given
    return secrets.compare_digest(expected.encode(), given.encode())
