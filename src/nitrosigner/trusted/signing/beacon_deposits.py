"""
Deposits: what may stand in one, and the roots that the deposit contract computes.

Source: ethereum/consensus-specs, `DepositMessage`, `DepositData`; EIP-7251 for
compounding validators. ethstaker-deposit-cli refuses what is refused here.
"""

from typing import Final

from nitrosigner.trusted.signing.beacon_containers import (
    DEPOSIT_DATA,
    DEPOSIT_MESSAGE,
)
from nitrosigner.verdicts import Code, Malformed

GWEI: Final = 10**9
"""Gwei in one ether."""
MIN_AMOUNT: Final = 1 * GWEI
MAX_AMOUNT: Final = 32 * GWEI
MAX_COMPOUNDING: Final = 2048 * GWEI
CREDENTIALS_SIZE: Final = 32
_BLS: Final = 0
_EXECUTION: Final = 1
_COMPOUNDING: Final = 2


def require_deposit(withdrawal_credentials: bytes, amount: int) -> None:
    """
    Raise unless a deposit of *amount* gwei with these credentials makes sense.

    Raises:
        Malformed: It would be lost, or be refused by the deposit contract.
    """
    credentials = withdrawal_credentials
    kind = credentials[0] if len(credentials) == CREDENTIALS_SIZE else None
    if kind not in (_BLS, _EXECUTION, _COMPOUNDING):
        raise Malformed(
            Code.MALFORMED_REQUEST,
            "withdrawal credentials are 32 bytes that begin with 00, 01 or 02",
            "0x01 or 0x02, eleven zero bytes, and the address that is to be paid",
        )
    if kind != _BLS and (any(credentials[1:12]) or not any(credentials[12:])):
        raise Malformed(
            Code.MALFORMED_REQUEST,
            "these withdrawal credentials name no address",
            "0x01 or 0x02, eleven zero bytes, and the address that is to be paid",
        )
    most = MAX_COMPOUNDING if kind == _COMPOUNDING else MAX_AMOUNT
    if not MIN_AMOUNT <= amount <= most:
        raise Malformed(
            Code.MALFORMED_REQUEST,
            f"a deposit with these credentials is of {MIN_AMOUNT} to {most} gwei",
        )


def message_root(
    public_key: bytes, withdrawal_credentials: bytes, amount: int
) -> bytes:
    """Return the root of the `DepositMessage`, before its domain."""
    return DEPOSIT_MESSAGE.root(
        _fields(public_key, withdrawal_credentials, amount), "deposit"
    )


def data_root(
    public_key: bytes, withdrawal_credentials: bytes, amount: int, signature: bytes
) -> bytes:
    """Return the root of the `DepositData`, which the contract computes again."""
    fields = _fields(public_key, withdrawal_credentials, amount)
    return DEPOSIT_DATA.root(fields | {"signature": _hex(signature)}, "deposit")


def _fields(
    public_key: bytes, withdrawal_credentials: bytes, amount: int
) -> dict[str, object]:
    return {
        "pubkey": _hex(public_key),
        "withdrawal_credentials": _hex(withdrawal_credentials),
        "amount": str(amount),
    }


def _hex(value: bytes) -> str:
    return "0x" + value.hex()
