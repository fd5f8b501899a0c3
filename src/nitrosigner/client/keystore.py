"""
V3 JSON keystores ("Web3 Secret Storage"), opened on the caller's machine.

The password and the key stay on this machine; what leaves it is wrapped to the
enclave. The file says how much work opening it is, so that is bounded first: a file
made by somebody else must not eat our memory.
"""

from typing import Any, Final

from eth_keyfile.keyfile import decode_keyfile_json

from nitrosigner.client.bounded_json import read_json
from nitrosigner.client.private_key import PrivateKey
from nitrosigner.verdicts import Code, Malformed

CIPHER: Final = "aes-128-ctr"
MAX_KEYSTORE: Final = 64 * 1024
MAX_SCRYPT_BYTES: Final = 1 << 30
"""128 × n × r. Geth's standard (n = 2^18, r = 8) takes 256 MiB."""
MAX_SCRYPT_PARALLELISM: Final = 16
MAX_PBKDF2_ROUNDS: Final = 10_000_000


def open_keystore(data: bytes, password: str) -> PrivateKey:
    """
    Return the private key in the V3 keystore *data*.

    Raises:
        Malformed: Not such a file, not this password, or the address that the file
            names is not the key's.
    """
    keystore = _parse(data)
    _check_parameters(keystore)
    try:
        secret = bytearray(decode_keyfile_json(keystore, password.encode()))
    except ValueError:
        # eth-keyfile says this of a failed MAC, which a wrong password gives.
        raise Malformed(
            Code.MALFORMED_KEY,
            "the password does not open this keystore",
            "check the password; a keystore that was cut short says the same",
        ) from None
    except (KeyError, TypeError, AttributeError, NotImplementedError, OverflowError):
        raise _not_a_keystore() from None
    key = PrivateKey(secret)
    named = keystore.get("address")
    if isinstance(named, str) and named:
        plain = named.lower().removeprefix("0x")
        if plain != key.address.lower().removeprefix("0x"):
            key.wipe()
            raise Malformed(
                Code.MALFORMED_KEY,
                "the keystore names another address than its key has",
                "the file was altered; do not use it",
            )
    return key


def _parse(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_KEYSTORE:
        raise Malformed(Code.TOO_LARGE, f"a keystore has at most {MAX_KEYSTORE} bytes")
    try:
        keystore = read_json(data)
    except ValueError:
        raise _not_a_keystore() from None
    if not isinstance(keystore, dict):
        raise _not_a_keystore()
    keystore = {str(name).lower(): value for name, value in keystore.items()}
    if keystore.get("version") != 3:
        raise Malformed(
            Code.MALFORMED_KEY,
            "this is not a V3 keystore",
            "keystores of validators (EIP-2335, version 4) hold BLS keys",
        )
    if not isinstance(keystore.get("crypto"), dict):
        raise _not_a_keystore()
    return keystore


def _check_parameters(keystore: dict[str, Any]) -> None:
    # eth-keyfile does not look at the name and would decrypt with another one.
    if keystore["crypto"].get("cipher") != CIPHER:
        raise _not_a_keystore()
    parameters = keystore["crypto"].get("kdfparams")
    if not isinstance(parameters, dict):
        raise _not_a_keystore()

    def number(name: str) -> int:
        value = parameters.get(name)
        if type(value) is not int or value <= 0:
            raise _not_a_keystore()
        return value

    match keystore["crypto"].get("kdf"):
        case "scrypt":
            work = 128 * number("n") * number("r") > MAX_SCRYPT_BYTES
            work = work or number("p") > MAX_SCRYPT_PARALLELISM
        case "pbkdf2":
            work = number("c") > MAX_PBKDF2_ROUNDS
        case _:
            raise _not_a_keystore()
    if work or number("dklen") > 64:
        raise Malformed(
            Code.TOO_LARGE,
            "this keystore asks for more work than any sensible one",
            "have it written again with the usual parameters (scrypt, n = 262144)",
        )


def _not_a_keystore() -> Malformed:
    return Malformed(
        Code.MALFORMED_KEY,
        "this is not a complete V3 keystore",
        "it is the JSON file that geth, ethers or MetaMask's export writes",
    )
