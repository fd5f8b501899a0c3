"""The parent hands out credentials that are wrong, stale or somebody else's."""

import datetime as dt
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from nitrosigner.wire import services

Outcome = Callable[[str], str]


def handing_out(scene: Any, **changes: Any) -> None:
    def replace(request: Any, answer: Any) -> Any:
        if isinstance(request, services.GetCredentials):
            return msgspec.structs.replace(answer, **changes)
        return answer

    scene.parent.answers = replace


@pytest.mark.parametrize(
    "changes",
    [
        {"secret_access_key": "not-the-secret"},
        {"session_token": "not-the-token"},
        {"access_key_id": "ASIAAAAAAAAAAAAAAAAA"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_wrong_credentials_open_nothing(
    scene: Any, outcome: Outcome, changes: dict[str, str]
) -> None:
    handing_out(scene, **changes)
    scene.boot()
    scene.turned_away()
    assert outcome("created") == "signer_unreachable"


def test_credentials_that_would_smuggle_headers_are_not_used(scene: Any) -> None:
    handing_out(scene, session_token="token\r\nX-Amz-Target: TrentService.Encrypt")
    scene.boot()
    scene.stuck_with("credentials_unavailable")
    assert scene.parent.destinations == []


def test_credentials_of_another_role_open_nothing(scene: Any, deployment: Any) -> None:
    """The key policy names the role; the administrator of the key may not open it."""
    administrator = deployment.kms.principal("administrator")
    handing_out(
        scene,
        access_key_id=administrator.access_key_id,
        secret_access_key=administrator.secret_access_key,
        session_token=administrator.session_token,
    )
    scene.boot()
    scene.stuck_with("kms_refused")


def test_expired_credentials_open_nothing_and_fresh_ones_do(
    scene: Any, deployment: Any, outcome: Outcome
) -> None:
    old = deployment.kms.principals.issue("parent", dt.timedelta(seconds=-5))
    handing_out(
        scene,
        access_key_id=old.access_key_id,
        secret_access_key=old.secret_access_key,
        session_token=old.session_token,
        expires=int(old.expires.timestamp()),
    )
    scene.boot()
    scene.turned_away()
    scene.parent.answers = lambda _, answer: answer
    scene.boot_until_ready()
    assert outcome("created") == "signed"
