"""Validators' keys inside the enclave: they come, vote once, change, and go."""

import asyncio
import base64
import json
from typing import Any

import pytest
from py_ecc.bls import G2ProofOfPossession as oracle

from nitrosigner.trusted.enclave.permit import Permit
from nitrosigner.trusted.enclave.validator_keys_port import NO_HISTORY, WrappedSeed
from nitrosigner.trusted.signing.beacon_duties import read_duty
from nitrosigner.trusted.signing.slashing import (
    Epoch,
    Slashable,
    Voted,
    Watermark,
)
from nitrosigner.verdicts import Code, Malformed, Refused, Undecided, Verdict
from nitrosigner.wire import import_wrapping, services
from nitrosigner.wire import manifest as manifests
from nitrosigner.wire.manifest_validators import Validators

SECRETS = [bytes([0, n]) + bytes(29) + bytes([n]) for n in range(1, 40)]
SECRET = SECRETS[0]
PUBLIC_KEY = oracle.SkToPk(int.from_bytes(SECRET, "big"))
NAME = "0x" + PUBLIC_KEY.hex()
ROOT = "0x4b363db94e286120d76eb905340fdd4e54bfe9f06bf33ff6cf5ad27f511bfe95"
DIGEST = bytes(32)


@pytest.fixture
def told() -> dict[str, Any]:
    return {"network": "mainnet"}


@pytest.fixture
def vp(lab: Any, told: dict[str, Any]) -> Any:
    """A parent whose manifest speaks of validators."""
    return lab.parent(lab.sign(lab.wanted(validators=Validators(**told))))


def wrapped(running: Any, secret: bytes, name: str, **changes: Any) -> str:
    info = import_wrapping.import_info(
        deployment="lab", name=name, algorithm="bls12-381", identity=name, **changes
    )
    public = running.validators.import_public_key
    return base64.b64encode(import_wrapping.wrap(secret, public, info)).decode()


def named(secret: bytes) -> str:
    return "0x" + oracle.SkToPk(int.from_bytes(secret, "big")).hex()


async def imported(
    running: Any, secret: bytes = SECRET, history: Watermark = NO_HISTORY
) -> Any:
    name = NAME if secret == SECRET else named(secret)
    return await running.validators.import_wrapped(
        name, wrapped(running, secret, name), history
    )


def attestation(target: int, source: int = 0, block: int = 0) -> dict[str, Any]:
    return {
        "type": "ATTESTATION",
        "fork_info": {
            "fork": {
                "previous_version": "0x05000000",
                "current_version": "0x06000000",
                "epoch": "0",
            },
            "genesis_validators_root": ROOT,
        },
        "attestation": {
            "slot": str(32 * target),
            "index": "0",
            "beacon_block_root": "0x" + bytes([block] * 32).hex(),
            "source": {"epoch": str(source), "root": "0x" + "00" * 32},
            "target": {"epoch": str(target), "root": "0x" + "11" * 32},
        },
    }


async def vote(running: Any, target: int, key: str = NAME, **more: Any) -> bytes:
    """The whole way of a duty, as the front walks it."""
    validators = running.validators
    found = validators.find(key)
    duty = read_duty(attestation(target, **more), validators.network)
    permit = await validators.guard.permit(found.public_key, found.name, duty)
    return bytes(await validators.sign(permit))


def at(target: int) -> Watermark:
    return Watermark(
        voted=Voted(source=Epoch(0), target=Epoch(target), signing_root=None)
    )


def test_an_imported_key_attests_once_per_epoch_also_after_a_restart(
    lab: Any, vp: Any
) -> None:
    async def first(running: Any) -> bytes:
        made = await imported(running)
        assert made.new
        assert (made.key.name, made.key.identity, made.key.algorithm) == (
            NAME,
            NAME,
            "bls12-381",
        )
        signature = await vote(running, 5)
        duty = read_duty(attestation(5), running.validators.network)
        assert oracle.Verify(PUBLIC_KEY, duty.signing_root, signature)
        return signature

    async def second(running: Any) -> bytes:
        with pytest.raises(Slashable):
            await vote(running, 5, block=1)
        with pytest.raises(Slashable):
            await vote(running, 4)
        return await vote(running, 5)

    assert lab.booted(vp, first) == lab.booted(vp, second)
