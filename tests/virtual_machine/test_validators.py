"""The validator job through the booted image: duties, and what a kill must not undo."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from py_ecc.bls import G2ProofOfPossession
from remerkleable.basic import uint64
from remerkleable.byte_arrays import Bytes4, Bytes32
from remerkleable.complex import Container

from nitrosigner.client.signer_client import SignerClient
from nitrosigner.emulator.beacon_chain import INTEROP_GENESIS_VALIDATORS_ROOT
from nitrosigner.emulator.running_stack import RunningStack, wait_until
from nitrosigner.verdicts import Code, Refused, Undecided

VERSION = "06000001"
"""Fulu's on the minimal preset; every fork is at the epoch 0 of an interop chain."""
SLOTS = 8

pytestmark = pytest.mark.filterwarnings(
    # See test_machine.
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)


class Checkpoint(Container):
    epoch: uint64
    root: Bytes32


class AttestationData(Container):
    slot: uint64
    index: uint64
    beacon_block_root: Bytes32
    source: Checkpoint
    target: Checkpoint


class ForkData(Container):
    current_version: Bytes4
    genesis_validators_root: Bytes32


class SigningData(Container):
    object_root: Bytes32
    domain: Bytes32


def attestation(target: int, root: str = "aa") -> dict[str, Any]:
    return {
        "type": "ATTESTATION",
        "fork_info": {
            "fork": {
                "previous_version": f"0x{VERSION}",
                "current_version": f"0x{VERSION}",
                "epoch": "0",
            },
            "genesis_validators_root": f"0x{INTEROP_GENESIS_VALIDATORS_ROOT}",
        },
        "attestation": {
            "slot": str(target * SLOTS),
            "index": "0",
            "beacon_block_root": "0x" + root * 32,
            "source": {"epoch": str(target - 1), "root": "0x" + "11" * 32},
            "target": {"epoch": str(target), "root": "0x" + root * 32},
        },
    }


def signing_root(target: int, root: str = "aa") -> bytes:
    """What the signature must be over, computed by another library."""
    data = AttestationData(
        slot=target * SLOTS,
        index=0,
        beacon_block_root=Bytes32("0x" + root * 32),
        source=Checkpoint(epoch=target - 1, root=Bytes32("0x" + "11" * 32)),
        target=Checkpoint(epoch=target, root=Bytes32("0x" + root * 32)),
    )
    fork = ForkData(
        current_version=Bytes4(f"0x{VERSION}"),
        genesis_validators_root=Bytes32(f"0x{INTEROP_GENESIS_VALIDATORS_ROOT}"),
    )
    domain = b"\1\0\0\0" + bytes(fork.hash_tree_root())[:28]
    signing = SigningData(object_root=data.hash_tree_root(), domain=Bytes32(domain))
    return bytes(signing.hash_tree_root())


@pytest.fixture
def duties(stack: RunningStack) -> Iterator[SignerClient]:
    with SignerClient.from_data(stack.folder.path, "validator") as client:
        yield client


@pytest.fixture
def operator(stack: RunningStack) -> Iterator[SignerClient]:
    with SignerClient.from_data(stack.folder.path, "operator") as client:
        yield client


def test_a_duty_is_signed_once_and_another_one_in_its_place_never(
    operator: SignerClient, duties: SignerClient
) -> None:
    key = operator.create_validator().name
    signature = duties.sign_duty(key, attestation(10))
    assert G2ProofOfPossession.Verify(
        bytes.fromhex(key.removeprefix("0x")),
        signing_root(10),
        bytes.fromhex(signature.removeprefix("0x")),
    )
    assert duties.sign_duty(key, attestation(10)) == signature
    with pytest.raises(Refused) as told:
        duties.sign_duty(key, attestation(10, root="bb"))
    assert told.value.code == Code.SLASHABLE


@pytest.mark.timeout(400)
def test_killing_the_machine_while_validators_sign_forgets_no_vote(
    stack: RunningStack,
    operator: SignerClient,
    qemu: Callable[[], int],
    kill_now: Callable[[int], None],
) -> None:
    keys = [operator.create_validator().name for _ in range(3)]
    answered = dict.fromkeys(keys, 0)
    wrong: list[BaseException] = []
    stop = threading.Event()

    def sign(key: str) -> None:
        with SignerClient.from_data(stack.folder.path, "validator") as client:
            target = 1
            while not stop.is_set():
                try:
                    client.sign_duty(key, attestation(target))
                except Undecided:
                    continue  # the same vote again: it may have been recorded
                except BaseException as error:
                    wrong.append(error)
                    return
                answered[key] = target
                target += 1

    threads = [threading.Thread(target=sign, args=(key,)) for key in keys]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            wait_until(
                lambda: bool(wrong) or min(answered.values()) > 10, "they sign", 60
            )
            old, before = qemu(), dict(answered)
            kill_now(old)
            wait_until(lambda old=old: qemu() != old, "the machine is started again")
            wait_until(
                lambda before=before: (
                    bool(wrong) or all(answered[key] > before[key] + 3 for key in keys)
                ),
                "they sign again",
                90,
            )
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong
    # A machine that has just been killed knows every vote that anybody was given.
    old = qemu()
    kill_now(old)
    wait_until(lambda: qemu() != old, "the machine is started again")
    with SignerClient.from_data(stack.folder.path, "validator") as client:
        for key, last in answered.items():
            for target in (last, last - 1, 1):
                assert refusal(client, key, attestation(target, "bb")) is Code.SLASHABLE
            client.sign_duty(key, attestation(last + 2))


def refusal(client: SignerClient, key: str, duty: dict[str, Any]) -> Code:
    found: list[Code] = []

    def refused() -> bool:
        try:
            client.sign_duty(key, duty)
        except Refused as verdict:
            found.append(verdict.code)
        except Undecided:
            return False
        return True

    wait_until(refused, "it answers", 60)
    assert found, "it signed"
    return found[0]
