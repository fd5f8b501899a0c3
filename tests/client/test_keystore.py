"""V3 keystores, with eth-account as the one that writes them."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from eth_account import Account

from nitrosigner.client.keystore import MAX_KEYSTORE, open_keystore
from nitrosigner.verdicts import Code, Malformed

SECRET = "b25c7db31feed9122727bf0939dc769a96564b2de4c4726d035b36ecf1e5b364"
PASSWORD = "canary-pässword"
SCRYPT = Account.encrypt(SECRET, PASSWORD, kdf="scrypt", iterations=2)
PBKDF2 = Account.encrypt(SECRET, PASSWORD, kdf="pbkdf2", iterations=2)


@pytest.mark.parametrize("keystore", [SCRYPT, PBKDF2])
def test_a_keystore_opens_with_its_password(keystore: dict[str, Any]) -> None:
    with open_keystore(json.dumps(keystore).encode(), PASSWORD) as key:
        assert bytes(key.buffer).hex() == SECRET


def test_geths_capital_letters_are_taken() -> None:
    keystore = {
        "Crypto" if name == "crypto" else name: value for name, value in SCRYPT.items()
    }
    with open_keystore(json.dumps(keystore).encode(), PASSWORD) as key:
        assert bytes(key.buffer).hex() == SECRET


def test_a_wrong_password_says_so_and_shows_nothing() -> None:
    with pytest.raises(Malformed) as verdict:
        open_keystore(json.dumps(SCRYPT).encode(), PASSWORD + "x")
    assert "password" in verdict.value.message
    assert PASSWORD not in f"{verdict.value!r}{verdict.value.hint}"


def changed(change: Callable[[dict[str, Any]], Any]) -> bytes:
    keystore = copy.deepcopy(SCRYPT)
    change(keystore)
    return json.dumps(keystore).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[" * 60_000,
        b'{"version": 3, "crypto": ' + b'{"a":' * 10_000,
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"\xff",
        b"{}",
        b'{"version": 3}',
        b'{"version": 3, "crypto": {}}',
        b'{"version": 3, "crypto": {"kdf": "none", "kdfparams": {}}}',
        changed(lambda k: k.update(version=4)),
        changed(lambda k: k.update(version="3")),
        changed(lambda k: k["crypto"].pop("mac")),
        changed(lambda k: k["crypto"].pop("ciphertext")),
        changed(lambda k: k["crypto"].update(mac=7)),
        changed(lambda k: k["crypto"].update(cipher="none")),
        changed(lambda k: k["crypto"].update(ciphertext="zz")),
        changed(lambda k: k["crypto"]["cipherparams"].update(iv=None)),
        changed(lambda k: k["crypto"].update(cipherparams=[])),
        changed(lambda k: k["crypto"]["kdfparams"].pop("salt")),
        changed(lambda k: k["crypto"]["kdfparams"].update(salt=1)),
        changed(lambda k: k["crypto"]["kdfparams"].update(n=3)),
        changed(lambda k: k["crypto"]["kdfparams"].update(n=-2)),
        changed(lambda k: k["crypto"]["kdfparams"].update(n=True)),
        changed(lambda k: k["crypto"]["kdfparams"].update(r=0)),
        changed(lambda k: k["crypto"]["kdfparams"].update(dklen=1)),
        changed(lambda k: k.update(address="00" * 20)),
    ],
)
def test_a_damaged_keystore_is_malformed_whatever_the_damage(data: bytes) -> None:
    with pytest.raises(Malformed) as verdict:
        open_keystore(data, PASSWORD)
    assert PASSWORD not in f"{verdict.value!r}{verdict.value.hint}"


@pytest.mark.parametrize(
    "data",
    [
        b" " * (MAX_KEYSTORE + 1),
        changed(lambda k: k["crypto"]["kdfparams"].update(n=1 << 40)),
        changed(lambda k: k["crypto"]["kdfparams"].update(r=1 << 30)),
        changed(lambda k: k["crypto"]["kdfparams"].update(p=1 << 20)),
        changed(lambda k: k["crypto"]["kdfparams"].update(dklen=1 << 30)),
        json.dumps(
            {
                **PBKDF2,
                "crypto": {
                    **PBKDF2["crypto"],
                    "kdfparams": {
                        "c": 1 << 40,
                        "dklen": 32,
                        "prf": "hmac-sha256",
                        "salt": "00",
                    },
                },
            }
        ).encode(),
    ],
)
def test_a_keystore_that_asks_for_too_much_work_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(Malformed) as verdict:
        open_keystore(data, PASSWORD)
    assert verdict.value.code == Code.TOO_LARGE
