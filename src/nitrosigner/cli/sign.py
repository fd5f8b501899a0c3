"""`nitrosigner sign`: have something signed by a key in the enclave."""

from pathlib import Path
from typing import Any, Final

import click

from nitrosigner.cli.connection import Connection, signer_options
from nitrosigner.cli.files import read_file
from nitrosigner.client.bounded_json import RepeatedName, read_json
from nitrosigner.client.hexadecimal import bytes_of_hex
from nitrosigner.verdicts import Code, Malformed
from nitrosigner.wire.api import SignedMessageBody

MAX_INPUT: Final = 256 * 1024
_file = click.Path(path_type=Path, dir_okay=False, allow_dash=True)
_key = click.option(
    "--key", "signing_key", required=True, metavar="KEY", help="Its name or address."
)


@click.group()
def sign() -> None:
    """Have something signed. FILE may be - for the standard input."""


@sign.command()
@_key
@click.argument("file", type=_file)
@signer_options(key_option=False)
def transaction(connection: Connection, signing_key: str, file: Path) -> None:
    """
    Sign the transaction in FILE, a JSON object.

    Its fields are those of JSON-RPC: type, chainId, nonce, to, value (wei), gas,
    maxFeePerGas, … Amounts are integers or strings, decimal or 0x.
    """
    fields = _object(file, Code.MALFORMED_TRANSACTION)
    with connection.client() as client:
        signed = client.sign_transaction(signing_key, fields)
    connection.output.fields(
        signed, [("raw", signed.raw), ("hash", signed.hash), ("from", signed.sender)]
    )


@sign.command()
@_key
@click.argument("file", type=_file)
@click.option("--hex", "as_hex", is_flag=True, help="FILE holds 0x hexadecimal.")
@signer_options(key_option=False)
def message(connection: Connection, signing_key: str, file: Path, as_hex: bool) -> None:
    """
    Sign the bytes of FILE as a personal message (EIP-191).

    Every byte counts, a line's end too: printf '%s' "text" | nitrosigner sign message
    --key KEY -
    """
    data = read_file(file, "the message", MAX_INPUT)
    if as_hex:
        data = _bytes(data, "the message")
    with connection.client() as client:
        _show(connection, client.sign_message(signing_key, data))


@sign.command("typed-data")
@_key
@click.argument("file", type=_file)
@signer_options(key_option=False)
def typed_data(connection: Connection, signing_key: str, file: Path) -> None:
    """Sign the typed data in FILE (EIP-712): types, primaryType, domain, message."""
    fields = _object(file, Code.MALFORMED_TYPED_DATA)
    with connection.client() as client:
        _show(connection, client.sign_typed_data(signing_key, fields))


@sign.command()
@_key
@click.argument("file", type=_file)
@signer_options(key_option=False)
def digest(connection: Connection, signing_key: str, file: Path) -> None:
    """
    Sign 32 bytes of unknown meaning: FILE holds them in hexadecimal.

    It could be anything, a transaction too. Few clients are allowed it.
    """
    data = _bytes(read_file(file, "the digest", 4096), "the digest")
    with connection.client() as client:
        _show(connection, client.sign_digest(signing_key, data))


@sign.command()
@_key
@click.argument("file", type=_file)
@signer_options(key_option=False)
def authorization(connection: Connection, signing_key: str, file: Path) -> None:
    """
    Sign the authorization in FILE (EIP-7702): chainId, address, nonce.

    It hands the account to the code at that address.
    """
    fields = _object(file, Code.MALFORMED_TRANSACTION)
    if fields.keys() != {"chainId", "address", "nonce"}:
        raise Malformed(
            Code.MALFORMED_TRANSACTION,
            "an authorization has chainId, address and nonce, and nothing else",
        )
    with connection.client() as client:
        signed = client.sign_authorization(
            signing_key,
            chain_id=_integer(fields["chainId"], "chainId"),
            address=str(fields["address"]),
            nonce=_integer(fields["nonce"], "nonce"),
        )
    connection.output.fields(
        signed,
        [
            ("chainId", signed.chain_id),
            ("address", signed.address),
            ("nonce", signed.nonce),
            ("yParity", signed.y_parity),
            ("r", signed.r),
            ("s", signed.s),
        ],
    )


def _show(connection: Connection, signed: SignedMessageBody) -> None:
    connection.output.fields(
        signed,
        [
            ("signature", signed.signature),
            ("digest", signed.digest),
            ("from", signed.sender),
        ],
    )


def _object(file: Path, code: Code) -> dict[str, Any]:
    data = read_file(file, "the input", MAX_INPUT)
    try:
        value = read_json(data)
    except RepeatedName:
        raise Malformed(
            code,
            "a field stands twice in one object of the input",
            "give each field once; which of the two was meant, nobody can know",
        ) from None
    except ValueError:
        raise Malformed(
            Code.MALFORMED_JSON,
            "the input is not JSON, or nested too deep",
            "give one object",
        ) from None
    if not isinstance(value, dict):
        raise Malformed(code, "the input is JSON but not an object")
    return value


def _bytes(data: bytes, what: str) -> bytes:
    read = bytes_of_hex(data.decode("ascii", "replace").strip())
    if read is None:
        raise Malformed(
            Code.MALFORMED_MESSAGE, f"{what} is not hexadecimal", "write 0x…"
        )
    return read


def _integer(value: object, name: str) -> int:
    if type(value) is int and value >= 0:
        return value
    if isinstance(value, str) and value.isascii():
        base = 16 if value.startswith("0x") else 10
        digits = value.removeprefix("0x")
        if digits.isalnum() and len(digits) <= 78:
            try:
                return int(digits, base)
            except ValueError:
                pass
    raise Malformed(
        Code.MALFORMED_TRANSACTION, f"{name} is not a whole number, decimal or 0x"
    )
