"""
A deployment, played: two parents, two enclaves, one DynamoDB (dynalite), one KMS, both
signers behind a TCP load balancer, validator clients that contradict each other and
the wallet's Lambda handler at work, and each signer killed once under that load.
"""

import contextlib
import hashlib
import itertools
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from py_ecc.bls import G2ProofOfPossession
from remerkleable.basic import uint64
from remerkleable.byte_arrays import Bytes4, Bytes32
from remerkleable.complex import Container

from nitrosigner.client.signer_client import SignerClient
from nitrosigner.emulator import kms_rollout
from nitrosigner.emulator.beacon_chain import (
    INTEROP_GENESIS_VALIDATORS_ROOT,
    validators,
)
from nitrosigner.emulator.fleet import Fleet, Instance, Tables
from nitrosigner.emulator.running_stack import wait_until
from nitrosigner.untrusted.gateway import configuration, wallet
from nitrosigner.untrusted.gateway.signer import connect
from nitrosigner.verdicts import Code, Refused, Undecided

VERSION = "06000001"
"""Fulu's on the minimal preset; every fork is at the epoch 0 of an interop chain."""
SLOTS = 8
KEYS = 5
CLIENTS = 3
SERVED_AGAIN = 15.0
"""Seconds after a kill until every validator and the wallet are served."""
MENDED = 40.0
"""Seconds after a kill until the watchdog's enclave and its parent are back."""
TO = "0x" + "70" * 20

pytestmark = pytest.mark.filterwarnings(
    # A handshake that the kill cut off, collected by whichever test comes next.
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)


# --- the chain, from the consensus specification and not from our own code -----------


class Checkpoint(Container):
    epoch: uint64
    root: Bytes32


class AttestationData(Container):
    slot: uint64
    index: uint64
    beacon_block_root: Bytes32
    source: Checkpoint
    target: Checkpoint


class BeaconBlockHeader(Container):
    slot: uint64
    proposer_index: uint64
    parent_root: Bytes32
    state_root: Bytes32
    body_root: Bytes32


class ForkData(Container):
    current_version: Bytes4
    genesis_validators_root: Bytes32


class SigningData(Container):
    object_root: Bytes32
    domain: Bytes32


@dataclass(frozen=True)
class Vote:
    source: int
    target: int
    root: int

    @property
    def duty(self) -> dict[str, Any]:
        return {
            "type": "ATTESTATION",
            "fork_info": FORK_INFO,
            "attestation": {
                "slot": str(self.target * SLOTS),
                "index": "0",
                "beacon_block_root": hex32(self.root),
                "source": {"epoch": str(self.source), "root": hex32(1)},
                "target": {"epoch": str(self.target), "root": hex32(self.root)},
            },
        }

    @property
    def signing_root(self) -> bytes:
        data = AttestationData(
            slot=self.target * SLOTS,
            index=0,
            beacon_block_root=Bytes32(hex32(self.root)),
            source=Checkpoint(epoch=self.source, root=Bytes32(hex32(1))),
            target=Checkpoint(epoch=self.target, root=Bytes32(hex32(self.root))),
        )
        return signing_root(data, 1)


@dataclass(frozen=True)
class Proposal:
    slot: int
    root: int

    @property
    def duty(self) -> dict[str, Any]:
        header = {
            "slot": str(self.slot),
            "proposer_index": "7",
            "parent_root": hex32(1),
            "state_root": hex32(2),
            "body_root": hex32(self.root),
        }
        return {
            "type": "BLOCK_V2",
            "fork_info": FORK_INFO,
            "beacon_block": {"version": "FULU", "block_header": header},
        }

    @property
    def signing_root(self) -> bytes:
        header = BeaconBlockHeader(
            slot=self.slot,
            proposer_index=7,
            parent_root=Bytes32(hex32(1)),
            state_root=Bytes32(hex32(2)),
            body_root=Bytes32(hex32(self.root)),
        )
        return signing_root(header, 0)


Message = Vote | Proposal
FORK_INFO = {
    "fork": {
        "previous_version": f"0x{VERSION}",
        "current_version": f"0x{VERSION}",
        "epoch": "0",
    },
    "genesis_validators_root": f"0x{INTEROP_GENESIS_VALIDATORS_ROOT}",
}


def hex32(number: int) -> str:
    return f"0x{number:064x}"


def signing_root(data: Container, domain_type: int) -> bytes:
    fork = ForkData(
        current_version=Bytes4(f"0x{VERSION}"),
        genesis_validators_root=Bytes32(f"0x{INTEROP_GENESIS_VALIDATORS_ROOT}"),
    )
    domain = bytes([domain_type, 0, 0, 0]) + bytes(fork.hash_tree_root())[:28]
    signing = SigningData(object_root=data.hash_tree_root(), domain=Bytes32(domain))
    return bytes(signing.hash_tree_root())


def punishable(one: Message, other: Message) -> bool:
    """is_slashable_attestation_data, and the condition of a proposer slashing."""
    if one == other:
        return False
    if isinstance(one, Proposal) and isinstance(other, Proposal):
        return one.slot == other.slot
    if isinstance(one, Vote) and isinstance(other, Vote):
        return one.target == other.target or any(
            outer.source < inner.source and inner.target < outer.target
            for outer, inner in ((one, other), (other, one))
        )
    return False


# --- the load -------------------------------------------------------------------------


@dataclass
class Received:
    """What callers were given. Written by all threads."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    signatures: dict[tuple[str, Message], set[str]] = field(default_factory=dict)
    served: dict[str, float] = field(default_factory=dict)
    """When each validator was last given a signature for a new duty."""
    slashable: int = 0
    undecided: dict[str, int] = field(default_factory=dict)
    wallet_keys: dict[str, str] = field(default_factory=dict)
    """Name to address, of those that were promised to exist."""
    wallet_served: float = 0.0
    wrong: list[BaseException] = field(default_factory=list)

    def signed(self, key: str, message: Message, signature: str) -> None:
        with self.lock:
            if (key, message) not in self.signatures:
                self.served[key] = time.monotonic()
            self.signatures.setdefault((key, message), set()).add(signature)

    def not_decided(self, code: str) -> None:
        with self.lock:
            self.undecided[code] = self.undecided.get(code, 0) + 1


class Clock:
    """Epochs that pass as fast as a test needs them. Each has slots of its own."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def epoch(self) -> int:
        return 10 + int((time.monotonic() - self._began) * 4)


def wish(source: random.Random, epoch: int) -> Message:
    """A duty of about now: mostly the honest one, often one against it."""
    root = 10 if source.random() < 0.5 else source.randrange(10, 13)
    if source.random() < 0.3:
        return Proposal(slot=epoch * SLOTS + source.randrange(SLOTS), root=root)
    if source.random() < 0.6:
        return Vote(source=epoch - 1, target=epoch, root=root)
    low, high = sorted(epoch + source.randrange(-6, 3) for _ in range(2))
    return Vote(source=low, target=high + 1, root=root)


def attest(
    client: SignerClient,
    keys: list[str],
    received: Received,
    stop: threading.Event,
    *,
    seed: int,
    clock: Clock,
) -> None:
    """What a validator client does, without protection of its own."""
    source = random.Random(seed)
    while not stop.is_set():
        key, message = source.choice(keys), wish(source, clock.epoch)
        try:
            received.signed(key, message, client.sign_duty(key, message.duty))
        except Refused as refused:
            if refused.code is not Code.SLASHABLE:
                raise
            with received.lock:
                received.slashable += 1
        except Undecided as undecided:
            received.not_decided(undecided.code)
            # The same again: whether it was recorded is unknown, repeating is allowed.
            with contextlib.suppress(Undecided, Refused):
                received.signed(key, message, client.sign_duty(key, message.duty))
        stop.wait(0.005)


def trade(
    handle: Callable[[dict[str, Any]], Any], received: Received, stop: threading.Event
) -> None:
    """What callers of the wallet's function do: new keys, and payments from them."""
    numbers = itertools.count()
    while not stop.is_set():
        number = next(numbers)
        name = f"played-{number}"
        if number % 4 == 0:
            secret = hashlib.sha256(name.encode()).hexdigest()
            made = handle({"operation": "set_key", "key": name, "eth_key": secret})
        else:
            made = handle({"operation": "create_key", "key": name})
        if not answered(made, received):
            continue
        with received.lock:
            received.wallet_keys[name] = made["identity"]
        payment = {"nonce": number, "gas": 21_000, "to": TO, "value": 0.5}
        payment |= {"maxFeePerGas": 10**10, "maxPriorityFeePerGas": 1, "chainId": 31337}
        paid = handle(
            {
                "operation": "sign_transaction",
                "key": name,
                "transaction_payload": payment,
            }
        )
        if answered(paid, received):
            raw = paid["transaction_signed"]
            assert Account.recover_transaction(raw) == made["identity"]
            received.wallet_served = time.monotonic()
        stop.wait(0.05)


def answered(answer: Any, received: Received) -> bool:
    """False if nobody could say; a refusal is wrong."""
    if "error" not in answer:
        return True
    code = answer["error"]["code"]
    # `unknown_key`: the other signer hears of a new key when it reloads.
    # `version_conflict`: a key whose making was not answered was made.
    undecided = {"signer_unreachable", "unknown_key", "version_conflict"}
    assert code in undecided or code.endswith("_unavailable"), answer
    received.not_decided(code)
    return False


@contextlib.contextmanager
def under_load(fleet: Fleet, keys: list[str], received: Received) -> Iterator[None]:
    stop, clock = threading.Event(), Clock()

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                received.wrong.append(error)

        return run

    with contextlib.ExitStack() as opened:
        works: list[Callable[[], None]] = []
        for seed in range(CLIENTS):
            client = opened.enter_context(fleet.client("validator"))
            works.append(
                lambda client=client, seed=seed: attest(  # type: ignore[misc]
                    client, keys, received, stop, seed=seed, clock=clock
                )
            )
        function = gateway(fleet)
        opened.callback(function.client.close)
        works.append(
            lambda: trade(
                lambda event: wallet.answer(event, lambda: function), received, stop
            )
        )
        threads = [threading.Thread(target=guarded(work)) for work in works]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def gateway(fleet: Fleet) -> wallet.Wallet:
    """The function, told by the environment variables that its deployment sets."""
    files = fleet.identities.clients["default"]
    told = configuration.from_environment(
        {
            "SIGNER_URL": fleet.url,
            "EXPECTED_PCR0": fleet.pcr0.hex(),
            "ADMINISTRATOR": fleet.identities.fingerprint,
            "DEPLOYMENT": fleet.manifest.manifest.deployment,
            "TRUST_ROOT": fleet.anchor.fingerprint.hex(),
            "CLIENT_CERTIFICATE": str(files.cert),
            "CLIENT_KEY": str(files.key),
            "KMS_KEY_ARN": fleet.manifest.manifest.aws.kms_key_arn,
        }
    )
    return wallet.Wallet(
        told, connect(told), kms=lambda: kms_rollout.client(fleet.shared, "gateway")
    )


# --- the deployment -------------------------------------------------------------------


@pytest.fixture
def fleet(
    dynamodb_tables: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Fleet]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    tables = Tables(dynamodb_tables, records="records", watermarks="watermarks")
    with Fleet(tmp_path / "fleet", tables, validators("minimal", None, None)) as made:
        made.start(2)
        yield made


def test_two_signers_on_one_store_lose_nothing_and_sign_nothing_slashable(
    fleet: Fleet,
) -> None:
    with fleet.client("operator", fleet.instances[0]) as operator:
        keys = [operator.create_validator().name for _ in range(KEYS)]
    for one in fleet.instances:
        reload(fleet, one)
    received = Received()
    with under_load(fleet, keys, received):
        all_served(keys, received)
        for victim in fleet.instances:
            before = fleet.enclaves(victim)
            fleet.kill(victim)
            killed = time.monotonic()
            all_served(keys, received)
            wait_until(
                lambda victim=victim, before=before: (  # type: ignore[misc]
                    fleet.enclaves(victim) not in ([], before)
                    and ready(fleet, victim)
                    and all(fleet.balancer.healthy)
                ),
                "the watchdog has brought it back",
                MENDED - (time.monotonic() - killed),
            )
            all_served(keys, received)
    if received.wrong:
        raise received.wrong[0]

    nothing_slashable(received)
    real_signatures(received)
    for one in fleet.instances:
        reload(fleet, one)
        every_key_signs(fleet, one, keys, received)
        audit_is_a_chain(one)
    # It was the load that it should be.
    assert len(received.signatures) > 50
    assert received.slashable > 50
    assert len(received.wallet_keys) > 10


def all_served(keys: list[str], received: Received) -> None:
    """Every validator signs a new duty, and a new wallet key pays, from now on."""
    asked = time.monotonic()

    def left() -> set[str]:
        if received.wrong:
            raise received.wrong[0]
        served = received.served | {"wallet": received.wallet_served}
        return {one for one in (*keys, "wallet") if served.get(one, 0.0) <= asked}

    try:
        wait_until(lambda: not left(), "all are served", SERVED_AGAIN)
    except TimeoutError:
        pytest.fail(f"not served: {left()}; meanwhile: {received.undecided}")


def ready(fleet: Fleet, instance: Instance) -> bool:
    try:
        with fleet.client("operator", instance) as client:
            return client.health().status == "UP"
    except Undecided:
        return False


def nothing_slashable(received: Received) -> None:
    by_key: dict[str, list[Message]] = {}
    for key, message in received.signatures:
        by_key.setdefault(key, []).append(message)
    found = [
        (key, pair)
        for key, messages in by_key.items()
        for pair in itertools.combinations(messages, 2)
        if punishable(*pair)
    ]
    assert found == []


def real_signatures(received: Received) -> None:
    """What the oracle judged is what was signed: another library says so."""
    # BLS signatures are deterministic: one message has one.
    assert all(len(given) == 1 for given in received.signatures.values())
    source = random.Random(1)
    for (key, message), (signature,) in source.sample(
        sorted(received.signatures.items(), key=str), 6
    ):
        assert G2ProofOfPossession.Verify(
            bytes.fromhex(key[2:]), message.signing_root, bytes.fromhex(signature[2:])
        ), message


def reload(fleet: Fleet, instance: Instance) -> None:
    with fleet.client("operator", instance) as operator:
        operator.reload()
        wait_until(lambda: operator.reload_status().status != "running", "it reloads")
        assert operator.reload_status().status == "completed"


def every_key_signs(
    fleet: Fleet, instance: Instance, keys: list[str], received: Received
) -> None:
    epoch = 100_000 + instance.number
    with fleet.client("validator", instance) as client:
        assert set(keys) <= {key.name for key in client.list_validators()}
        for key in keys:
            client.sign_duty(key, Vote(epoch - 1, epoch, 10).duty)
            with pytest.raises(Refused) as told:
                client.sign_duty(key, Vote(epoch - 1, epoch, 11).duty)
            assert told.value.code is Code.SLASHABLE
    with fleet.client("default", instance) as client:
        listed = {key.name: key.identity for key in client.list_keys()}
        assert received.wallet_keys.items() <= listed.items()
        for name, address in received.wallet_keys.items():
            signed = client.sign_message(name, "still here")
            message = encode_defunct(text="still here")
            assert (
                Account.recover_message(message, signature=signed.signature) == address
            )


def audit_is_a_chain(instance: Instance) -> None:
    last: dict[str, str] = {}
    signed = 0
    for line in instance.audit.read_bytes().splitlines():
        event = json.loads(line)
        assert event["previous"] == last.get(event["boot"], "0" * 64)
        last[event["boot"]] = hashlib.sha256(line).hexdigest()
        signed += event["outcome"] == "signed"
    # One for the boot before the kill, one for that after it.
    assert len(last) == 2
    # The balancer sent work to it.
    assert signed > 10
