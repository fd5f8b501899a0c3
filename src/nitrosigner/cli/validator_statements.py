"""
`nitrosigner validators deposit-data|exit|bls-change`: what is said once, for good.

What these commands print is a signed message that anybody who has it can publish. None
of them can be taken back.
"""

import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from nitrosigner.cli.confirmation import confirm
from nitrosigner.cli.connection import (
    Connection,
    Expected,
    expectation_options,
    signer_options,
)
from nitrosigner.cli.files import demand_new, write_new
from nitrosigner.cli.public_keys import public_key_name, public_key_names
from nitrosigner.cli.validator_derive import mnemonic_of
from nitrosigner.client.hexadecimal import bytes_of_hex
from nitrosigner.client.import_validator import wrapped_mnemonic
from nitrosigner.client.private_key import checksummed
from nitrosigner.verdicts import Code, Malformed
from nitrosigner.wire import validator_api as wire

GWEI: Final = 10**9
_ETHER: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?\Z")

_output = click.option(
    "--output",
    "-o",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A new file for it; by default stdout.",
)


@click.command("deposit-data")
@click.argument("public_keys", nargs=-1, required=True, metavar="PUBKEY...")
@click.option(
    "--withdrawal-address",
    "address",
    metavar="ADDRESS",
    help="Where withdrawals go: an address whose key you have.",
)
@click.option(
    "--compounding", is_flag=True, help="0x02 credentials (EIP-7251) of that address."
)
@click.option(
    "--withdrawal-credentials",
    "credentials",
    metavar="HEX",
    help="The 32 bytes themselves, instead of an address.",
)
@click.option("--amount", default="32", show_default=True, metavar="ETHER")
@_output
@signer_options()
def deposit_data(
    *,
    connection: Connection,
    public_keys: Sequence[str],
    address: str | None,
    compounding: bool,
    credentials: str | None,
    amount: str,
    file: Path | None,
) -> None:
    """Sign deposits, as one deposit_data.json for the launchpad."""
    if (address is None) == (credentials is None):
        raise click.UsageError("Give --withdrawal-address, or --withdrawal-credentials")
    if credentials is not None and compounding:
        raise click.UsageError("--compounding goes with --withdrawal-address")
    request = wire.DepositDataRequest(
        withdrawal_credentials=_credentials(credentials)
        if credentials is not None
        else _of_address(address or "", compounding=compounding),
        amount=str(_gwei(amount)),
    )
    _demand_new(file)
    with connection.client() as client:
        made = [
            client.deposit_data(name, request) for name in public_key_names(public_keys)
        ]
    _write(connection, file, made)


@click.command("exit")
@click.argument("public_key", metavar="PUBKEY")
@click.option("--validator-index", required=True, type=click.IntRange(0), metavar="N")
@click.option(
    "--epoch",
    required=True,
    type=click.IntRange(0),
    metavar="N",
    help="From which epoch on it is valid; then for ever.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@_output
@signer_options()
def exit_(
    *,
    connection: Connection,
    public_key: str,
    validator_index: int,
    epoch: int,
    yes: bool,
    file: Path | None,
) -> None:
    """
    Sign a validator's voluntary exit. It ends the validator, for good.

    What is printed is for a beacon node: POST /eth/v1/beacon/pool/voluntary_exits.
    """
    name = public_key_name(public_key)
    _demand_new(file)
    confirm(
        connection.output,
        f"signing the exit of validator {validator_index} ({name}), valid from epoch "
        f"{epoch} on for ever; whoever has it can end the validator",
        "Sign it?",
        yes=yes,
    )
    request = wire.VoluntaryExitRequest(
        epoch=str(epoch), validator_index=str(validator_index)
    )
    with connection.client() as client:
        _write(connection, file, client.voluntary_exit(name, request))


@click.command("bls-change")
@click.argument("public_key", metavar="PUBKEY")
@click.option("--validator-index", required=True, type=click.IntRange(0), metavar="N")
@click.option("--to-address", required=True, metavar="ADDRESS")
@click.option(
    "--from-mnemonic", is_flag=True, help="Sign with the mnemonic's withdrawal key."
)
@click.option("--mnemonic-file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--passphrase-file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--index",
    type=click.IntRange(0, (1 << 32) - 1),
    metavar="I",
    help="The validator's index in the mnemonic: m/12381/3600/I/0.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@_output
@expectation_options
@signer_options()
def bls_change(
    *,
    connection: Connection,
    expected: Expected,
    public_key: str,
    validator_index: int,
    to_address: str,
    from_mnemonic: bool,
    mnemonic_file: Path | None,
    passphrase_file: Path | None,
    index: int | None,
    yes: bool,
    file: Path | None,
) -> None:
    """
    Sign where a validator's withdrawals go, once and for good.

    What signs is the withdrawal key. With --from-mnemonic (or --mnemonic-file) that is
    m/12381/3600/I/0, used inside the enclave and forgotten, and PUBKEY is the
    validator; without, PUBKEY itself is a withdrawal key that the signer holds.

    What is printed is for a beacon node: POST
    /eth/v1/beacon/pool/bls_to_execution_changes.
    """
    name = public_key_name(public_key)
    address = _address(to_address)
    with_words = from_mnemonic or mnemonic_file is not None
    if with_words != (index is not None):
        raise click.UsageError("--index goes with --from-mnemonic or --mnemonic-file")
    if with_words:
        connection.require_known_program(expected)
    _demand_new(file)
    confirm(
        connection.output,
        f"withdrawals of validator {validator_index} will go to "
        f"{checksummed(address)} for ever; nobody can change it again",
        "Sign it?",
        yes=yes,
    )
    with connection.client(bootstrap=with_words) as client:
        seed = None
        if with_words:
            proof = connection.verify(client, expected)
            mnemonic = mnemonic_of(mnemonic_file, passphrase_file)
            try:
                seed = wrapped_mnemonic(proof, mnemonic)
            finally:
                mnemonic[:] = bytes(len(mnemonic))
        request = wire.BlsToExecutionChangeRequest(
            validator_index=str(validator_index),
            to_execution_address="0x" + address.hex(),
            seed=seed,
            index=index or 0,
        )
        signed = client.bls_to_execution_change(name, request)
    _write(connection, file, [signed])


def _demand_new(file: Path | None) -> None:
    if file is not None:
        demand_new(file)


def _write(connection: Connection, file: Path | None, made: Any) -> None:  # noqa: ANN401  # a struct or a list of them
    text = msgspec.json.format(msgspec.json.encode(made), indent=2)
    if file is None:
        connection.output.result(made, [text.decode()])
        return
    write_new(file, text + b"\n")
    connection.output.result({"file": str(file)}, [f"wrote {file}"])


def _address(text: str) -> bytes:
    address = bytes_of_hex(text.strip())
    if address is None or len(address) != 20 or not text.startswith("0x"):
        raise Malformed(
            Code.USAGE,
            "an address is 0x and 40 hexadecimal digits",
            "copy it with its capitals: they are its check sum",
        )
    digits = text.removeprefix("0x")
    mixed = digits not in (digits.lower(), digits.upper())
    if mixed and text != checksummed(address):
        raise Malformed(
            Code.USAGE,
            "the address's capitals do not fit it: it was mistyped",
            "copy it again from your wallet",
        )
    return address


def _of_address(text: str, *, compounding: bool) -> str:
    prefix = b"\x02" if compounding else b"\x01"
    return "0x" + (prefix + bytes(11) + _address(text)).hex()


def _credentials(text: str) -> str:
    credentials = bytes_of_hex(text)
    if credentials is None or len(credentials) != 32:
        raise Malformed(Code.USAGE, "withdrawal credentials are 64 hexadecimal digits")
    return "0x" + credentials.hex()


def _gwei(ether: str) -> int:
    if not _ETHER.match(ether):
        raise Malformed(
            Code.USAGE,
            "--amount is a number of ether, with at most 9 places",
            "for example 32, or 1.5",
        )
    return int(Decimal(ether) * GWEI)
